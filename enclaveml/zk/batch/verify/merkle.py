"""Paths in a tree of SHA-256 (``PROTOCOL.md``, "Commitment")."""

from __future__ import annotations

from hashlib import sha256

#: Bytes of a hash.
HASH = 32


def root_of(leaf: bytes, position: int, siblings: bytes) -> bytes:
    """The root that ``leaf`` at ``position`` has with ``siblings`` (32 bytes each, the lowest first)."""
    node = sha256(b"\0" + leaf).digest()
    for start in range(0, len(siblings), HASH):
        sibling = siblings[start:start + HASH]
        node = sha256(b"\1" + (sibling + node if position & 1 else node + sibling)).digest()
        position >>= 1
    return node
