"""The proof document that ``ezkl.verify`` reads, from the bytes of its parts.

Making its text takes 3 to 5 ms of CPU for a proof of 13 kB with 2,560 to 5,760 instances (measured), which
would be most of what rank 0's own process spends on a proof: so the verifier's children make it.
"""

from __future__ import annotations

import json
import struct

_LENGTH = struct.Struct("<Q")
FELT_BYTES = 32


def pack(instances: bytes, computation: bytes) -> bytes:
    """Both parts in one piece: length of the instances (u64, little-endian), instances, proof."""
    return _LENGTH.pack(len(instances)) + instances + computation


def unpack(data: bytes) -> tuple[bytes, bytes]:
    """(instances, proof) as :func:`pack` took them. Raises ValueError for bytes that are too short."""
    if len(data) < _LENGTH.size or len(data) < _LENGTH.size + (length := _LENGTH.unpack_from(data)[0]):
        raise ValueError(f"{len(data)} bytes are no packed proof")
    return data[_LENGTH.size : _LENGTH.size + length], data[_LENGTH.size + length :]


def text(instances: bytes, computation: bytes) -> str:
    """The document (JSON) of one column of instances, field elements of 32 bytes each, and a proof."""
    column = instances.hex()
    document = {
        "protocol": None,
        "instances": [[column[i : i + 2 * FELT_BYTES] for i in range(0, len(column), 2 * FELT_BYTES)]],
        "proof": list(computation),
        "hex_proof": None,
        "split": None,
        "pretty_public_inputs": None,
        "timestamp": None,
        "version": None,
    }
    return json.dumps(document, separators=(",", ":"))
