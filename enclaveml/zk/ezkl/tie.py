"""What ties a proof to its input: the KZG commitment or the Poseidon hash of the input's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enclaveml.zk.ezkl import field, statement
from enclaveml.zk.ezkl.files import SETTINGS, SRS, VK
from enclaveml.zk.process import Call
from enclaveml.zk.scratch import Scratch


def tie_call(
    inputs: str, felts: bytes, path: Mapping[str, str], scratch: Scratch, name: str, timeout_s: float
) -> Call | None:
    """The call that commits to or hashes ``felts`` (through a scratch file); None for public inputs.

    ``path`` maps the circuit's file names to paths; a commitment needs the whole SRS.
    """
    if inputs == "public":
        return None
    message = scratch.write(name, "\n".join(field.hex_felts(felts)))
    if inputs == "hashed":
        return Call("poseidon", {"message": message}, timeout_s)
    return Call(
        "commit",
        {"message": message, "vk": path[VK], "settings": path[SETTINGS], "srs": path[SRS]},
        timeout_s,
    )


def tie_bytes(inputs: str, value: Mapping[str, Any]) -> bytes:
    """The commitment section from that call's answer: 64 bytes of a point or 32 of a hash.

    Raises ValueError for an answer that is not exactly one of either.
    """
    if inputs == "hashed":
        (digest,) = value["hash"]
        found = bytes.fromhex(digest)
    else:
        ((x, y),) = value["points"]
        found = statement.commitment_from_point(x, y)
    if len(found) != statement.SECTION_BYTES[inputs]:
        raise ValueError(f"{len(found)} bytes for {inputs} inputs")
    return found
