"""What rank 0 says of a bundle, whichever system proves it: rejected, or its float outputs beside the proved ones."""

from __future__ import annotations

import numpy as np

from enclaveml.zk.interface import INCONSISTENT, REJECTED, VERIFIED, Verdict
from enclaveml.zk.pool import Steps
from enclaveml.zk.process import Call, Reply


def twice(call: Call) -> Steps[Reply]:
    """A call's reply; once more, in a fresh child, where the first child died or ran out of time.

    That is rank 0's own trouble (a machine short of memory, or very busy): nobody is blamed for it at once.
    """
    reply: Reply = yield call
    if reply.ended:
        reply = yield call
    return reply


def rejection(task: int, rows: int, outputs: int, text: str, seconds: float, undecided: bool = False) -> Verdict:
    """The verdict that none of a bundle's rows is proved; ``undecided`` as in ``Verdict``."""
    return Verdict(
        task,
        np.full(rows, REJECTED, np.uint8),
        text or "no reason given",
        np.full((rows, outputs), np.nan),
        np.full(rows, np.nan),
        np.zeros(rows, bool),
        seconds,
        undecided=undecided,
    )


def compare(task: int, proved: np.ndarray, floats: np.ndarray, tolerance: float, seconds: float) -> Verdict:
    """The verdict on proved outputs (n, D) float64: float outputs within the tolerance or not.

    Float outputs of another shape, NaN or infinity are never within it.
    """
    n = len(proved)
    if floats.shape != proved.shape:
        text = f"float outputs are {floats.shape}, expected {proved.shape}"
        return rejection(task, n, proved.shape[1], text, seconds)
    with np.errstate(invalid="ignore"):
        deviation = np.abs(proved - floats.astype(np.float64)).max(axis=1)
        within = deviation <= tolerance  # NaN compares false
    status = np.where(within, VERIFIED, INCONSISTENT).astype(np.uint8)
    differs = np.argmax(proved, axis=1) != np.argmax(floats, axis=1)
    text = ""
    if not within.all():
        first = int(np.argmin(within))
        text = (
            f"{int((~within).sum())} of {n} rows out of tolerance {tolerance:g}, "
            f"row {first} of the bundle deviates by {deviation[first]:.3g}"
        )
    return Verdict(task, status, text, proved, deviation, differs, seconds)
