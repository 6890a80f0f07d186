"""What a proof is a proof of: the public instances, and the proof document rebuilt around them.

Pure functions of bytes and numbers: rank 0 calls them with inputs that it quantised itself, an
auditor with instances or a commitment from a results file. No field of a prover's own document is
ever used (``ezkl.verify`` ignores most of them).

Instances are one column: input values or their hash (none where inputs are committed), then the
B * D output values. With committed inputs the first 64 bytes of the proof are the commitment, x and
y big-endian.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.zk.ezkl import document, field
from enclaveml.zk.interface import PADDING, Proof
from enclaveml.zk.rows import padded

COMMITMENT_BYTES = 64
HASH_BYTES = 32

#: Length of the commitment section by input mode.
SECTION_BYTES = {"public": 0, "committed": COMMITMENT_BYTES, "hashed": HASH_BYTES}


def input_felts(rows: np.ndarray, bundle: int, scale: int) -> bytes:
    """Field elements of a bundle's input, row-major, padding included.

    Raises ValueError for rows that have no fixed-point value at this scale.
    """
    return field.to_felts(field.quantise(padded(rows, bundle), scale))


def check_sections(proof: Proof, inputs: str, rows: int, outputs: int, proof_bytes: int) -> np.ndarray:
    """The outputs (B, D) int64 of a proof whose sections have exactly the right form.

    Raises FormatError naming the section that has not. Lengths are pinned because
    ``ezkl.verify`` reads past neither an extra instance nor bytes after the proof.
    """
    found = len(proof.computation)
    if found != proof_bytes:
        raise FormatError(f"computation proof is {found} bytes, a proof of this circuit is {proof_bytes}")
    if len(proof.commitment) != SECTION_BYTES[inputs]:
        raise FormatError(
            f"commitment section is {len(proof.commitment)} bytes, {SECTION_BYTES[inputs]} for {inputs} inputs"
        )
    values = np.asarray(proof.outputs)
    if values.dtype != np.int64 or values.shape != (rows, outputs):
        raise FormatError(f"proved outputs are {values.dtype}{values.shape}, expected int64({rows}, {outputs})")
    if values.size and not (-field.MAX_MAGNITUDE <= values.min() and values.max() <= field.MAX_MAGNITUDE):
        raise FormatError("a proved output is out of the signed range")
    return values


def commitment_from_point(x: str, y: str) -> bytes:
    """The 64 bytes of a commitment from a point's little-endian hex coordinates."""
    return bytes.fromhex(x)[::-1] + bytes.fromhex(y)[::-1]


def proof_parts(
    inputs: str, computation: bytes, outputs: np.ndarray, *, felts: bytes = b"", digest: bytes = b"",
    commitment: bytes = b"",
) -> tuple[bytes, bytes]:
    """The instances (field elements of 32 bytes) and the proof of a document made of nothing but what is given.

    felts: the input's field elements (public inputs). digest: the input's Poseidon hash, one field
    element (hashed). commitment: 64 bytes that replace the proof's first 64 (committed).
    """
    if inputs == "committed":
        if len(commitment) != COMMITMENT_BYTES:
            raise ValueError("a commitment is 64 bytes")
        computation = commitment + computation[COMMITMENT_BYTES:]
    return {"public": felts, "hashed": digest, "committed": b""}[inputs] + field.to_felts(outputs), computation


def pack_rows(rows: np.ndarray, outputs: np.ndarray, computation: bytes) -> bytes:
    """Rows (n, *row_shape) in their own type, proved outputs (B, D) int64 and a proof, for :func:`parts_of_rows`."""
    return rows.tobytes() + np.ascontiguousarray(outputs, np.int64).tobytes() + computation


def parts_of_rows(
    data: bytes, rows: int, bundle: int, outputs: int, values: int, dtype: str, scale: int
) -> tuple[bytes, bytes]:
    """The parts of a document about public inputs, as :func:`proof_parts`, of what :func:`pack_rows` packed.

    A verifier's child makes them: an eighth of the bytes goes there, and rank 0's own process has the rest of a
    bundle's time. rows: n of ``values`` numbers each, filled up to ``bundle``; ``outputs`` is D.
    Raises ValueError for rows that have no fixed-point value at this scale.
    """
    shown = rows * values * np.dtype(dtype).itemsize
    proved = shown + 8 * bundle * outputs
    felts = input_felts(np.frombuffer(data[:shown], dtype).reshape(rows, values), bundle, scale)
    return proof_parts("public", data[proved:], np.frombuffer(data[shown:proved], np.int64), felts=felts)


def proof_document(
    inputs: str, computation: bytes, outputs: np.ndarray, *, felts: bytes = b"", digest: bytes = b"",
    commitment: bytes = b"",
) -> str:
    """The document that ``ezkl.verify`` reads, of the parts of :func:`proof_parts`."""
    return document.text(
        *proof_parts(inputs, computation, outputs, felts=felts, digest=digest, commitment=commitment)
    )


def canonical_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the time they were made, lists whose order is arbitrary sorted."""
    fixed = dict(settings)
    fixed["timestamp"] = 0  # null would be natural, and is not read back
    for name in ("required_lookups", "required_range_checks"):
        fixed[name] = sorted(fixed[name], key=lambda item: json.dumps(item, sort_keys=True))
    return fixed


def circuit_id(files: Mapping[str, str], settings: Mapping[str, Any], version: str, bound: str = "") -> str:
    """SHA-256 (hex) over what fixes a statement: keys, settings, SRS, padding and ezkl's version.

    ``files`` holds the SHA-256 of ``verification.key`` and ``verifier.srs``. The settings hold
    scales and visibilities; they are named again so that a reader can recompute the id by hand.
    ``bound`` says how the graph bounds its inputs: whoever rebuilds the id puts that into the graph, so a
    circuit that only claims it has another id.
    """
    fixing = {
        "format": "enclaveml-ezkl-circuit-2",
        "ezkl": version,
        "padding": PADDING,
        "bound": bound,
        "verification_key": files["verification.key"],
        "srs": files["verifier.srs"],
        "settings": canonical_settings(settings),
        "input_scales": settings["model_input_scales"],
        "output_scales": settings["model_output_scales"],
        "visibility": [settings["run_args"][f"{part}_visibility"] for part in ("input", "param", "output")],
    }
    text = json.dumps(fixing, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
