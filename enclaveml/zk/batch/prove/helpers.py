"""The lookups' helpers h, from which they are committed to until they are opened."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np

from enclaveml.zk.batch.prove import kernels
from enclaveml.zk.batch.prove.commitment import Combinations
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.helpers_chunks import ChunkedHelpers
from enclaveml.zk.batch.prove.inference import Trace
from enclaveml.zk.batch.prove.lookup import Challenges, Denominators
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.rows import SummedRows


class Helpers(Protocol):
    """A = alpha - beta^2 tag - q - beta a, B = alpha - beta^2 s - r and h = 1/A + 1/B = (A + B) / (A B) of all rows."""

    def hide(self, rows: np.ndarray) -> None:
        """Replace h of the last rows by these, uint32 [5, m, F], plain."""

    def columns(self) -> np.ndarray:
        """What is committed, plain: each feature's five coordinates next to each other, uint32 [N, 5 F]."""

    def weighted(self, weights: np.ndarray) -> SummedRows:
        """What the sum-check over rows sums, for weights uint32 [5, F]: once, after ``columns``."""

    def combined(self, gammas: list[Extended], theta: list[Extended]) -> Combinations:
        """u and e for gamma and theta of q, a and the coordinates of h: seven times five uint32 [F]."""


def helpers(trace: Trace, challenges: Challenges, threads: Pool) -> Helpers:
    """Of all rows: in vectors where this process has them, and JAX has no device to work on."""
    given = Denominators.of(challenges)
    found = vectors() if kernels.without_device() else None
    return found(trace, given, threads) if found else ChunkedHelpers(trace, given, threads)


@cache
def vectors() -> type[Helpers] | None:
    """``VectorHelpers``; None where they cannot be imported, or not called, for whatever reason, or give something else."""
    try:
        from enclaveml.zk.batch.prove.helpers_trial import right
        from enclaveml.zk.batch.prove.helpers_vectors import VectorHelpers

        return VectorHelpers if right(VectorHelpers) else None
    except Exception:  # no numba; or its own errors, which share no class; or a cache that a crash has cut
        return None
