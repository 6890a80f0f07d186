"""The slices' verification keys in one piece, for a results file: number of keys (u32), then length (u64) and bytes of each.

Little-endian; exactly one way to write them, and nothing behind the last.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from enclaveml.errors import FormatError

_COUNT, _LENGTH = struct.Struct("<I"), struct.Struct("<Q")


def pack(keys: Sequence[bytes]) -> bytes:
    """The keys in one piece."""
    return _COUNT.pack(len(keys)) + b"".join(_LENGTH.pack(len(key)) + key for key in keys)


def unpack(data: bytes, count: int) -> list[bytes]:
    """The keys, of which there must be ``count``. Raises FormatError for other bytes."""
    if len(data) < _COUNT.size or _COUNT.unpack_from(data)[0] != count:
        raise FormatError(f"verification keys of {count} slices expected")
    found, at = [], _COUNT.size
    for number in range(count):
        if len(data) < at + _LENGTH.size or len(data) < at + _LENGTH.size + (length := _LENGTH.unpack_from(data, at)[0]):
            raise FormatError(f"the verification key of slice {number + 1} ends before its length")
        found.append(data[at + _LENGTH.size : at + _LENGTH.size + length])
        at += _LENGTH.size + length
    if at != len(data):
        raise FormatError(f"{len(data) - at} bytes behind the slices' verification keys")
    return found
