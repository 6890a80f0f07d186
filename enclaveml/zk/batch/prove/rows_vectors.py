"""The arrays of the sum-check over rows in vectors (``rows_kernel``): folded in place."""

from __future__ import annotations

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension, multilinear, rows_kernel
from enclaveml.zk.batch.prove.chunks import split
from enclaveml.zk.batch.prove.extension import Element, Extended
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.row_parts import RoundSums
from enclaveml.zk.batch.prove.vectors import LANES

class VectorRows:
    """``rows.SummedRows``: A, B' and h uint32 [N, 5, W], which are given up; W is a multiple of LANES, F of them features."""

    def __init__(self, left: np.ndarray, right: np.ndarray, helpers: np.ndarray, weights: np.ndarray, features: int, threads: Pool) -> None:
        """``right`` is B, ``weights`` uint32 [5, W], 0 beyond the features."""
        self._rows, _, self._width = left.shape
        self._features, self._threads = features, threads
        self._left, self._right, self._helpers = (v.reshape(-1) for v in (left, right, helpers))
        self._line, self._sums = (np.empty((self._rows, DEGREE), np.uint32) for _ in range(2))
        given = weights.reshape(-1)
        split(threads, self._rows, self._width, lambda start, end: rows_kernel.weigh(
            self._left, self._right, self._helpers, self._width, given, start, end, self._line, self._sums))

    def helpers_sum(self, without: int = 0) -> Element:
        """The sum of H over all rows but the last so many."""
        return multilinear.total(tuple(self._sums[: self._rows - without].T))

    def last(self, eq: Extended) -> tuple[Element, Element]:
        """Over the last rows, as many as eq has: the sums of eq times the bracket, and of H."""
        of_rows, found = _by_rows(eq), np.zeros((2, DEGREE), np.uint64)
        rows_kernel.block_sums(self._left, self._right, self._helpers, self._line, self._sums, self._width, self._rows - len(of_rows), self._rows,
                               of_rows, found)
        brackets, sum_h = (extension.element(v[:, None]) for v in found)
        return brackets, sum_h

    def sums(self, eq: Extended, eq_masks: Extended | None, first: bool) -> list[RoundSums]:
        """A round's sums over all rows, and over the mask rows where there is eq of them."""
        half = self._rows // 2
        of_rows, of_masks = _by_rows(eq), _by_rows(eq_masks) if eq_masks else np.zeros((0, DEGREE), np.uint32)
        found: list[np.ndarray] = []

        def run(start: int, end: int) -> None:
            part = np.zeros((2, 4, DEGREE), np.uint64)
            rows_kernel.round_sums(self._left, self._right, self._helpers, self._line, self._sums, self._width, half, first, start, end,
                                   of_rows, of_masks, part)
            found.append(part)

        split(self._threads, half, self._width, run)
        total = sum(found[1:], found[0])
        return [[extension.element(v[:, None]) for v in each] for each in total[: 2 if eq_masks else 1]]

    def fold(self, r: Element) -> None:
        """Bind the variable of a round."""
        half, challenge = self._rows // 2, np.repeat(extension.constant(r), LANES)

        def run(start: int, end: int) -> None:
            for v in (self._left, self._right, self._helpers):
                rows_kernel.fold(v, self._width, half, start, end, challenge, v)
            for v in (self._line, self._sums):
                rows_kernel.fold_rows(v, half, start, end, challenge)

        split(self._threads, half, self._width, run)
        self._rows = half

    def helpers(self) -> Extended:
        """h of the one row that is left: five uint32 [F]."""
        return tuple(self._helpers[: DEGREE * self._width].reshape(DEGREE, self._width)[:, : self._features])


def _by_rows(eq: Extended) -> np.ndarray:
    """uint32 [n, 5]."""
    return np.stack(eq, axis=1)
