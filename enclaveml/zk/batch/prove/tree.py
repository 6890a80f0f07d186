"""The Merkle tree over codewords (PROTOCOL.md, "Commitment")."""

from __future__ import annotations

import hashlib

import numpy as np

#: Bytes of a hash.
HASH = 32

#: Longer messages are hashed without the interpreter's lock (CPython's hashlib), so that threads help.
LONG_LEAF = 2047


class Tree:
    """SHA-256 tree over leaves' hashes, 32 bytes each in a row; their number is a power of two."""

    def __init__(self, hashes: bytes) -> None:
        self._levels = [hashes]
        while len(self._levels[-1]) > HASH:
            self._levels.append(_parents(self._levels[-1]))

    @property
    def root(self) -> bytes:
        return self._levels[-1]

    def paths(self, positions: np.ndarray) -> np.ndarray:
        """The siblings on leaves' ways to the root, the lowest first: uint8 [positions, 32 levels]."""
        siblings = [np.frombuffer(level, np.uint8).reshape(-1, HASH)[(positions >> k) ^ 1] for k, level in enumerate(self._levels[:-1])]
        return np.concatenate(siblings, axis=1)


def leaves(rows: np.ndarray, salts: np.ndarray) -> bytes:
    """The hashes of leaves '<u4' [n, C], each followed by its salt, uint8 [n, 16] (or [n, 0]), after each other."""
    size = 4 * rows.shape[1]
    if size > LONG_LEAF:
        return b"".join([_long_leaf(row, salt) for row, salt in zip(rows, salts, strict=True)])
    marked = np.zeros((len(rows), 1 + size + salts.shape[1]), np.uint8)
    marked[:, 1 : 1 + size] = np.ascontiguousarray(rows).view(np.uint8)
    marked[:, 1 + size :] = salts
    sha256 = hashlib.sha256
    # One list of bytes from numpy is quicker than a view of each row.
    return b"".join([sha256(leaf).digest() for leaf in marked.view(f"V{marked.shape[1]}").reshape(-1).tolist()])


def _long_leaf(row: np.ndarray, salt: np.ndarray) -> bytes:
    digest = hashlib.sha256(b"\x00")
    digest.update(row)
    digest.update(salt)
    return digest.digest()


def _parents(level: bytes) -> bytes:
    pairs = np.frombuffer(level, np.uint8).reshape(-1, 2 * HASH)
    marked = np.ones((len(pairs), 2 * HASH + 1), np.uint8)
    marked[:, 1:] = pairs
    sha256 = hashlib.sha256
    return b"".join([sha256(node).digest() for node in marked.view(f"V{2 * HASH + 1}").reshape(-1).tolist()])
