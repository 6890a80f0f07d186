"""The Merkle tree of RFC 6962, section 2.1 (SHA-256), its leaves given a block at a time.

A node is hashed with 0x01 before it; leaves are hashed already (with 0x00, by whoever makes them).
Reference: https://www.rfc-editor.org/rfc/rfc6962#section-2.1
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

#: Leaves that are hashed level by level at once, a power of two.
BLOCK = 1 << 12


class MerkleTree:
    """The head of a tree whose leaves come one block after the other; it keeps a block and log2 of their number."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._whole: list[bytes] = []  # heads of perfect subtrees, each smaller than the one before
        self._blocks = 0

    def add(self, leaves: np.ndarray) -> None:
        """Append leaves (n, 32) uint8."""
        self._pending += np.ascontiguousarray(leaves).tobytes()
        at, size = 0, 32 * BLOCK
        while len(self._pending) - at >= size:
            head = _head(bytes(self._pending[at : at + size]))
            at += size
            self._blocks += 1
            number = self._blocks
            while number % 2 == 0:
                head = _node(self._whole.pop(), head)
                number //= 2
            self._whole.append(head)
        del self._pending[:at]

    def root(self) -> bytes:
        """The tree's head; of no leaves SHA-256 of nothing."""
        head = _head(bytes(self._pending)) if self._pending else b""
        for whole in reversed(self._whole):
            head = _node(whole, head) if head else whole
        return head or hashlib.sha256().digest()


def root_of(blocks: Iterable[np.ndarray]) -> bytes:
    """The head of the tree of all leaves, (n, 32) uint8 at a time."""
    tree = MerkleTree()
    for block in blocks:
        tree.add(block)
    return tree.root()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _head(level: bytes) -> bytes:
    while len(level) > 32:
        # An odd one at the end goes up as it is: the same tree as the RFC's split at powers of two.
        whole = len(level) // 64 * 64
        pairs = [hashlib.sha256(b"\1" + level[at : at + 64]).digest() for at in range(0, whole, 64)]
        level = b"".join(pairs) + level[whole:]
    return level
