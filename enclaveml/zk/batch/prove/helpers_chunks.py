"""The lookups' helpers in chunks of rows, in JAX: on devices, and where there are no vectors (``helpers_vectors``)."""

from __future__ import annotations

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import columns, kernels
from enclaveml.zk.batch.prove.chunks import chunk_rows
from enclaveml.zk.batch.prove.commitment import Combinations
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.inference import Trace
from enclaveml.zk.batch.prove.lookup import Denominators
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.rows_chunks import Chunk, ChunkedRows


class ChunkedHelpers:
    """``helpers.Helpers``: lists of chunks, five uint32 [H, F] each in Montgomery form."""

    def __init__(self, trace: Trace, given: Denominators, threads: Pool) -> None:
        self._trace, self._threads = trace, threads
        rows, features = trace.quotients.shape
        self._size = chunk_rows(rows, features)

        def of_rows(start: int) -> tuple[Extended, Extended, Extended]:
            part = slice(start, start + self._size)
            left, right = kernels.denominators(trace.quotients[part], trace.remainders[part], trace.activations[part],
                                               given.bases, given.beta, given.offsets)
            others, inverse = kernels.inverted(kernels.multiply(left, right))
            return left, right, kernels.scale(kernels.multiply(kernels.add(left, right), others), inverse)

        self._left, self._right, self._helpers = map(list, zip(*threads.map(of_rows, range(0, rows, self._size)), strict=True))

    def hide(self, rows: np.ndarray) -> None:
        """Replace the last rows by these, uint32 [5, m, F], plain."""
        m = rows.shape[1]
        size = min(m, self._size)
        for number, start in enumerate(range(0, m, size), len(self._helpers) - m // size):
            given = tuple(np.ascontiguousarray(v[start : start + size]) for v in rows)
            self._helpers[number] = kernels.with_last_rows(self._helpers[number], given)

    def columns(self) -> np.ndarray:
        """What is committed, plain: each feature's five coordinates next to each other, uint32 [N, 5 F]."""
        size, features = self._helpers[0][0].shape
        found = np.empty((size * len(self._helpers), DEGREE * features), np.uint32)
        self._threads.map(lambda part, chunk: columns.interleave(part, kernels.plain(chunk)), np.split(found, len(self._helpers)), self._helpers)
        return found

    def weighted(self, weights: np.ndarray) -> ChunkedRows:
        """What the sum-check over rows sums, for weights uint32 [5, F]; only the helpers are kept."""
        def chunk(left: Extended, right: Extended, helpers: Extended) -> Chunk:
            right = kernels.weighted(right, weights)
            return left, right, helpers, kernels.linear_part(left, weights, right), kernels.row_sums(helpers)

        chunks = self._threads.map(chunk, self._left, self._right, self._helpers)
        self._left.clear()
        self._right.clear()
        return ChunkedRows(chunks, self._threads)

    def combined(self, gammas: list[Extended], theta: list[Extended]) -> Combinations:
        """u and e for gamma and theta of q, a and the coordinates of h: seven times five uint32 [F]."""
        planes = [[*kernels.elements(self._trace.quotients[start : start + self._size], self._trace.activations[start : start + self._size]),
                   *chunk] for start, chunk in zip(range(0, len(self._trace.quotients), self._size), self._helpers, strict=True)]
        given = columns.coefficients(list(zip(gammas, theta, strict=True)), [False, False] + [True] * DEGREE)
        return columns.combine(planes, given, self._threads)
