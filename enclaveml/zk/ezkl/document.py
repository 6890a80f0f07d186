"""The proof document that ``ezkl.verify`` reads, from the bytes of its parts.

Making its text took 3 to 5 ms of CPU for a proof of 13 kB with 2,560 to 5,760 instances by the json module
(measured), and takes a fifth of that written by hand. That would still be a good part of what rank 0's own process spends
on a proof: so the verifier's children make it.
"""

from __future__ import annotations

import struct

_LENGTH = struct.Struct("<Q")
FELT_BYTES = 32
_BYTES = tuple(map(str, range(256)))


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
    column = '"' + instances.hex(",", -FELT_BYTES).replace(",", '","') + '"' if instances else ""
    numbers = ",".join([_BYTES[byte] for byte in computation])
    return (f'{{"protocol":null,"instances":[[{column}]],"proof":[{numbers}],"hex_proof":null,"split":null,'
            f'"pretty_public_inputs":null,"timestamp":null,"version":null}}')
