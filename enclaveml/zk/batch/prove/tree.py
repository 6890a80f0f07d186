"""The Merkle tree over codewords (PROTOCOL.md, "Commitment")."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import cache

import numpy as np

from enclaveml.zk.batch.prove.parallel import Pool, cores

#: Bytes of a hash.
HASH = 32

#: What is hashed before a leaf, and before a node's two children.
LEAF, NODE = 0, 1

#: Longer messages are hashed by hashlib without the interpreter's lock (CPython), so that threads help, and what it takes to start is little.
LONG = 2047

#: Messages of a thread, at least: fewer don't pay.
_SHARE = 256


class Tree:
    """SHA-256 tree over leaves' hashes, uint8 [n, 32]; n is a power of two."""

    def __init__(self, hashes: np.ndarray, threads: Pool) -> None:
        self._levels = [hashes]
        while len(self._levels[-1]) > 1:
            pairs = self._levels[-1].reshape(-1, 2 * HASH).view("<u4")
            self._levels.append(np.concatenate([future() for future in hashing(NODE, pairs, _no_salts(len(pairs)), threads)]))

    @property
    def root(self) -> bytes:
        return self._levels[-1].tobytes()

    def paths(self, positions: np.ndarray) -> np.ndarray:
        """The siblings on leaves' ways to the root, the lowest first: uint8 [positions, 32 levels]."""
        return np.concatenate([level[(positions >> k) ^ 1] for k, level in enumerate(self._levels[:-1])], axis=1)


def hashing(mark: int, rows: np.ndarray, salts: np.ndarray, threads: Pool) -> list[Callable[[], np.ndarray]]:
    """Start hashing rows '<u4' [n, C], each after the byte ``mark`` and before its salt, uint8 [n, 16] (or [n, 0]).

    Each function returns the hashes of some rows, in their order: uint8 [., 32].
    """
    parts = min(cores(), len(rows) // _SHARE) if releases_lock(rows.shape[1]) else 1
    if parts < 2:
        return [lambda: hashed(mark, rows, salts)]
    return [threads.submit(hashed, mark, *each).result for each in zip(*(np.array_split(v, parts) for v in (rows, salts)), strict=True)]


def releases_lock(width: int) -> bool:
    """Whether rows '<u4' [n, width] are hashed without the interpreter's lock."""
    return _vectors() is not None or 4 * width > LONG


def hashed(mark: int, rows: np.ndarray, salts: np.ndarray) -> np.ndarray:
    """SHA-256(mark | row | salt) of each row: uint8 [n, 32]. See ``hashing``."""
    size, vectors = 4 * rows.shape[1], _vectors()
    if size > LONG:
        return _joined([_long(bytes([mark]), *each) for each in zip(rows, salts, strict=True)])
    if vectors:
        found = np.empty((len(rows), HASH // 4), "<u4")
        vectors(mark, rows, salts.view("<u4"), found)
        return found.view(np.uint8)
    marked = np.full((len(rows), 1 + size + salts.shape[1]), mark, np.uint8)
    marked[:, 1 : 1 + size] = np.ascontiguousarray(rows).view(np.uint8)
    marked[:, 1 + size :] = salts
    sha256 = hashlib.sha256
    # One list of bytes from numpy is quicker than a view of each row.
    return _joined([sha256(message).digest() for message in marked.view(f"V{marked.shape[1]}").reshape(-1).tolist()])


@cache
def _vectors() -> Callable[[int, np.ndarray, np.ndarray, np.ndarray], None] | None:
    """``sha256.hash_rows``; None where it cannot be imported, or not called, for whatever reason, or hashes otherwise: then hashlib does."""
    if sys.byteorder != "little":
        return None
    tried, found = np.arange(3 * 40, dtype="<u4").reshape(3, 40), np.empty((3, HASH // 4), "<u4")
    try:
        from enclaveml.zk.batch.prove.sha256 import hash_rows

        hash_rows(LEAF, tried[:, :36], tried[:, 36:], found)
    except Exception:  # no numba; or its own errors, which share no class; or a cache that a crash has cut
        return None
    right = all(found[i].tobytes() == hashlib.sha256(bytes([LEAF]) + tried[i].tobytes()).digest() for i in range(3))
    return hash_rows if right else None


def _long(mark: bytes, row: np.ndarray, salt: np.ndarray) -> bytes:
    digest = hashlib.sha256(mark)
    digest.update(row)
    digest.update(salt)
    return digest.digest()


def _joined(hashes: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH)


def _no_salts(count: int) -> np.ndarray:
    return np.zeros((count, 0), np.uint8)
