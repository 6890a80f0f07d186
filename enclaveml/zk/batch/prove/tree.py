"""The Merkle tree over a codeword matrix's rows (PROTOCOL.md, "Commitment")."""

from __future__ import annotations

import hashlib

import numpy as np

_HASH = 32


class Tree:
    """SHA-256 tree over a matrix uint32 [4n, C]: leaf i is its row i."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._levels = [_leaves(matrix)]
        while len(self._levels[-1]) > _HASH:
            self._levels.append(_parents(self._levels[-1]))

    @property
    def root(self) -> bytes:
        return self._levels[-1]

    def path(self, position: int) -> bytes:
        """The siblings on a leaf's way to the root, the lowest first."""
        siblings = []
        for level in self._levels[:-1]:
            start = (position ^ 1) * _HASH
            siblings.append(level[start : start + _HASH])
            position //= 2
        return b"".join(siblings)


def _leaves(matrix: np.ndarray) -> bytes:
    base = hashlib.sha256(b"\x00")
    hashes = []
    for row in np.ascontiguousarray(matrix, dtype="<u4"):
        leaf = base.copy()
        leaf.update(row)
        hashes.append(leaf.digest())
    return b"".join(hashes)


def _parents(level: bytes) -> bytes:
    sha256 = hashlib.sha256
    return b"".join([sha256(b"\x01" + level[start : start + 2 * _HASH]).digest()
                     for start in range(0, len(level), 2 * _HASH)])
