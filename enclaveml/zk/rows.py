"""Rows as a proof system takes them, and what the float model says of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np

from enclaveml.zk.interface import ModelFunction

#: What preparation says of its progress, a line at a time.
Progress = Callable[[str], None]

#: Sample rows that registration compares.
MAX_SAMPLES = 256


def padded(rows: np.ndarray, bundle: int) -> np.ndarray:
    """Rows (n, ...) filled up to (B, ...) with copies of the last one; 1 <= n <= B."""
    if not 1 <= len(rows) <= bundle:
        raise ValueError(f"{len(rows)} rows for a bundle of {bundle}")
    return np.concatenate([rows, np.repeat(rows[-1:], bundle - len(rows), axis=0)])


def float_outputs(function: ModelFunction, rows: np.ndarray, batch: int) -> np.ndarray:
    """The model's own outputs (n, D) float64 in full float32 precision (no TF32)."""
    import jax

    found = []
    with jax.default_matmul_precision("highest"):
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            full = padded(some, batch).astype(function.dtype)
            found.append(np.asarray(function.apply(full), dtype=np.float64).reshape(batch, -1)[: len(some)])
    return np.concatenate(found)


def sampled(function: ModelFunction, sample_rows: np.ndarray) -> tuple[np.ndarray, str]:
    """The sample rows that are compared, (S, *row_shape), and their SHA-256 (hex)."""
    rows = np.ascontiguousarray(sample_rows[:MAX_SAMPLES]).astype(function.dtype)
    if not len(rows) or rows.shape[1:] != tuple(function.row_shape):
        raise ValueError(f"sample rows are {rows.shape}, expected (S, {', '.join(map(str, function.row_shape))})")
    return rows, hashlib.sha256(rows.tobytes()).hexdigest()


def rounded_up(value: float) -> float:
    """A number above 0 to two digits, upwards."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step) * step
