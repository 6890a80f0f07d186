"""One slice's proof of a bundle in bytes, as its rank reports it while it proves the others (SLICES.md).

Length of the computation proof and of the commitment section (u64 each, little-endian), the two, and the bundle's proved
outputs (B, D) int64. Only the slice's own are of use: the commitment section of the first, the outputs of the last.
"""

from __future__ import annotations

import struct

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.zk.interface import Circuit, Proof

_LENGTHS = struct.Struct("<QQ")

#: Most bytes of a commitment section: no input mode has more (``statement.SECTION_BYTES``).
_MOST_SECTION = 64


def pack(proof: Proof) -> bytes:
    """The bytes of one slice's proof."""
    return _LENGTHS.pack(len(proof.computation), len(proof.commitment)) + proof.computation + proof.commitment + proof.outputs.astype(
        "<i8").tobytes()


def unpack(data: bytes, circuit: Circuit, number: int) -> Proof:
    """The proof of slice ``number`` (from 0) of a bundle of the circuit.

    Raises FormatError for bytes of any other form; whether they prove anything is the verifier's business.
    """
    if len(data) < _LENGTHS.size:
        raise FormatError(f"a slice's proof of {len(data)} bytes")
    computation, commitment = _LENGTHS.unpack_from(data)
    wanted, outputs = circuit.slice_bytes(number), 8 * circuit.rows * circuit.outputs
    if computation != wanted or commitment > _MOST_SECTION or len(data) != _LENGTHS.size + computation + commitment + outputs:
        raise FormatError(f"the proof of slice {number + 1} is {str(computation)[:20]} bytes, of {len(data)} in all; a proof of this slice is "
                          f"{wanted}")
    at = _LENGTHS.size + computation
    values = np.frombuffer(data, "<i8", offset=at + commitment).reshape(circuit.rows, circuit.outputs)
    return Proof(data[_LENGTHS.size: at], data[at: at + commitment], values.astype(np.int64))
