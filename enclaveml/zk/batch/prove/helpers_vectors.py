"""The lookups' helpers in vectors (``lookup_kernel``), for a CPU with numba."""

from __future__ import annotations

from functools import reduce

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import columns, field, lookup_kernel
from enclaveml.zk.batch.prove.chunks import split
from enclaveml.zk.batch.prove.commitment import Combinations
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.inference import Trace
from enclaveml.zk.batch.prove.lookup import Denominators
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.rows_vectors import VectorRows
from enclaveml.zk.batch.prove.vectors import LANES


class VectorHelpers:
    """``helpers.Helpers``: A, B and h uint32 [N, 5, W] in Montgomery form; W is F, rounded up to LANES."""

    def __init__(self, trace: Trace, given: Denominators, threads: Pool) -> None:
        self._trace, self._threads = trace, threads
        rows, self._features = trace.quotients.shape
        self._width = width = -(-self._features // LANES) * LANES
        self._left, self._right, self._helpers = (np.empty((rows, DEGREE, width), np.uint32) for _ in range(3))
        # Beyond the features A and B are 1, which can be inverted.
        one = np.zeros((DEGREE, width - self._features), np.uint32)
        one[0] = field.R1
        constants = np.concatenate([np.concatenate([given.bases, one], axis=1), np.concatenate([given.offsets, one], axis=1)], axis=None)
        constants = np.concatenate([constants, np.repeat(field.to_montgomery(given.beta), LANES)])
        values = [_padded(v, width).view(np.uint32).reshape(-1) for v in (trace.quotients, trace.remainders, trace.activations)]
        found = [v.reshape(-1) for v in (self._left, self._right, self._helpers)]
        split(threads, rows, width, lambda start, end: lookup_kernel.helpers(*values, constants, width, start, end, *found))
        self._helpers[:, :, self._features :] = 0

    def hide(self, rows: np.ndarray) -> None:
        """Replace h of the last rows by these, uint32 [5, m, F], plain."""
        self._helpers[-rows.shape[1] :, :, : self._features] = field.to_montgomery(rows).transpose(1, 0, 2)

    def columns(self) -> np.ndarray:
        """What is committed, plain: each feature's five coordinates next to each other, uint32 [N, 5 F]; kept for ``combined``."""
        rows, given = len(self._helpers), self._helpers.reshape(-1)
        self._columns = np.empty((rows, DEGREE * self._features), np.uint32)
        split(self._threads, rows, self._width, lambda start, end: lookup_kernel.plain_columns(given, self._width, start, end, self._columns))
        return self._columns

    def weighted(self, weights: np.ndarray) -> VectorRows:
        """What the sum-check over rows sums, for weights uint32 [5, F]; gives up A, B and h."""
        padded = np.zeros((DEGREE, self._width), np.uint32)
        padded[:, : self._features] = weights
        given = self._left, self._right, self._helpers
        del self._left, self._right, self._helpers
        return VectorRows(*given, padded, self._features, self._threads)

    def combined(self, gammas: list[Extended], theta: list[Extended]) -> Combinations:
        """u and e for gamma and theta of q, a and the coordinates of h: seven times five uint32 [F]."""
        by_feature = [tuple(np.stack([each[k] for each in given[2:]], axis=1).reshape(-1) for k in range(DEGREE)) for given in (gammas, theta)]
        parts = [columns.combined(values, *given, self._threads) for values, given in (
            (self._trace.quotients, (gammas[0], theta[0])), (self._trace.activations, (gammas[1], theta[1])), (self._columns, by_feature))]
        return tuple(reduce(field.add, each) for each in zip(*parts, strict=True))


def _padded(values: np.ndarray, width: int) -> np.ndarray:
    return np.ascontiguousarray(np.pad(values, ((0, 0), (0, width - values.shape[1]))) if values.shape[1] < width else values)
