"""Messages between a parent and its child: one JSON header and one block of bytes each.

A frame is the header's length and the block's length (two u64, little-endian), the header (UTF-8
JSON object), the block. Both ends are processes of ours on one machine; a length over the cap means
that they lost step, and ends the child.
"""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTHS = struct.Struct("<QQ")
MAX_HEADER = 16 << 20
MAX_BLOCK = 1 << 32


def encode(header: dict[str, Any], block: bytes = b"") -> bytes:
    """The bytes of one frame."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(block)) + text + block


def decode(buffer: bytearray) -> tuple[dict[str, Any], bytes] | None:
    """Take the first whole frame off ``buffer``; None while it is not all there.

    Raises ValueError for lengths over the caps or a header that is no JSON object.
    """
    if len(buffer) < LENGTHS.size:
        return None
    header_bytes, block_bytes = LENGTHS.unpack_from(buffer)
    if header_bytes > MAX_HEADER or block_bytes > MAX_BLOCK:
        raise ValueError(f"frame of {header_bytes} + {block_bytes} bytes")
    end = LENGTHS.size + header_bytes + block_bytes
    if len(buffer) < end:
        return None
    header = json.loads(bytes(buffer[LENGTHS.size : LENGTHS.size + header_bytes]))
    if not isinstance(header, dict):
        raise ValueError("header is no object")
    block = bytes(buffer[LENGTHS.size + header_bytes : end])
    del buffer[:end]
    return header, block
