"""What bounds a batch proof's stages from below: bytes that have to move through memory, and blocks of SHA-256.

A count, not a model of the prover: each array that a stage takes or makes is read or written once, a sum-check's arrays once a round as
they halve. What is measured here are the two rates, of both cores: copying arrays far beyond the caches, and hashing a long message.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, DEGREE, PADS, SALT, VerificationKey

#: Bytes of a coordinate, and of a block of SHA-256.
_WORD, _BLOCK = 4, 64

#: Bytes of an array that is copied, and of a message that is hashed.
_COPIED, _HASHED = 1 << 28, 1 << 25


@dataclass(frozen=True)
class Bound:
    """Bytes read and written, and blocks hashed."""

    bytes: float
    blocks: float = 0.0


def bounds(key: VerificationKey) -> dict[str, Bound]:
    """By the names of stages."""
    n, units = key.rows, key.units
    cell, pads = _WORD * n, PADS if key.masks else 0
    given = key.width if key.masks else 0
    # A sum-check's rounds read A, w B and h, and write them folded: 1 + 1/2 + 1/4 + .. of both, less the first writing.
    rows = 3 * DEGREE * units * cell * 3
    return {
        "infer": Bound(cell * (key.width + 3 * units + key.outputs)),
        "columns": _committed(n, 2 * units + given, 0, key.masks),
        # q, r, a are read; A, w B and h are written.
        "helpers": _plus(_committed(n, DEGREE * units, pads, key.masks), cell * (3 + 3 * DEGREE) * units),
        "zero-check": Bound(rows),
        "open rows": Bound(cell * ((2 + DEGREE) * units + given)),
    }


def _committed(rows: int, columns: int, pads: int, masks: int) -> Bound:
    """Columns are read, codewords written and read again for the leaves; a leaf's hash, and of each node."""
    width, salt = columns + pads, SALT if masks else 0
    leaf = (1 + _WORD * width + salt + 9 + _BLOCK - 1) // _BLOCK
    node = (1 + 64 + 9 + _BLOCK - 1) // _BLOCK
    return Bound(_WORD * width * rows * (1 + 2 * BLOWUP), BLOWUP * rows * (leaf + node))


def _plus(bound: Bound, more: float) -> Bound:
    return Bound(bound.bytes + more, bound.blocks)


def rates(cores: int) -> dict[str, float]:
    """Bytes a second through memory, read and written, and SHA-256 blocks a second, of so many cores at once."""
    arrays = [(np.zeros(_COPIED, np.uint8), np.ones(_COPIED, np.uint8)) for _ in range(cores)]
    message = bytes(_HASHED)
    with ThreadPoolExecutor(cores) as threads:
        copied = best(lambda: list(threads.map(lambda pair: np.copyto(*pair), arrays)))
        hashed = best(lambda: list(threads.map(lambda _: hashlib.sha256(message).digest(), range(cores))))
    return {"bytes": 2 * cores * _COPIED / copied, "blocks": cores * _HASHED / _BLOCK / hashed}


def best(work: Callable[[], Any], turns: int = 3) -> float:
    """Seconds of the quickest turn."""
    found = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)
