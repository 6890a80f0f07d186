"""The arrays of the sum-check over rows in chunks, in JAX: on devices, and where there are no vectors (``rows_vectors``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension, field, kernels, multilinear
from enclaveml.zk.batch.prove.chunks import tier
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, plus
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.row_parts import RoundSums

#: A chunk of rows: A, B' and h, five uint32 [H, F] each; the line and H, five uint32 [H] each.
Chunk = tuple[Extended, Extended, Extended, Extended, Extended]

#: What rows are summed with: eq, and 1 where H is summed, else 0. Six uint32 [rows].
Weights = tuple[np.ndarray, ...]

#: Cells, rows times features, of either half up to which numpy is as quick as starting programs: without vectors, and with.
SMALL, SMALL_VECTORS = 1 << 10, 1 << 14


class ChunkedRows:
    """``rows.SummedRows`` of chunks, which are given up as they are folded."""

    def __init__(self, chunks: list[Chunk], threads: Pool) -> None:
        self._chunks, self._threads = chunks, threads
        self._size, self._features = chunks[0][0][0].shape
        self._rows = self._size * len(chunks)
        self._small: list[np.ndarray] | None = None
        self._halves: Any = None  # what ``sums`` has cut for ``fold``

    def helpers_sum(self, without: int = 0) -> Element:
        """The sum of H over all rows but the last so many."""
        sums = tuple(np.concatenate([np.asarray(chunk[4][k]) for chunk in self._chunks])[: self._rows - without] for k in range(DEGREE))
        return multilinear.total(sums)

    def last(self, eq: Extended) -> tuple[Element, Element]:
        """Over the last rows, as many as eq has: the sums of eq times the bracket, and of H."""
        chunks = self._chunks[-len(eq[0]) // self._size :]
        weights = [last_rows(eq, self._size * len(chunks))]

        def of_chunk(start: int, chunk: Chunk) -> np.ndarray:
            left, right, helpers, line, sums = chunk
            return np.asarray(kernels.brackets([helpers], kernels.products((left, right)), [line], sums, _part(weights, start, self._size)))[0]

        parts = self._threads.map(of_chunk, range(0, self._size * len(chunks), self._size), chunks)
        brackets, sum_h = (_added(each) for each in zip(*parts, strict=True))
        return brackets, sum_h

    def sums(self, eq: Extended, eq_masks: Extended | None, first: bool) -> list[RoundSums]:
        """A round's sums over all rows, and over the mask rows where there is eq of them."""
        half = self._rows // 2
        weights = [last_rows(each, half) for each in (eq, eq_masks) if each]
        if self._small is None and half * self._features <= (SMALL_VECTORS if extension.vectors() else SMALL):
            self._small = [np.concatenate(list(map(np.stack, parts)), axis=1)[:, : 2 * half] for parts in zip(*self._chunks, strict=True)]
            self._chunks.clear()
        if self._small is None:
            self._halves = _pairs(self._chunks, half, self._size)
            return _sums(self._halves, weights, first, self._threads)
        self._halves = low_and_step(self._small)
        return small_sums(*self._halves, weights, first)

    def fold(self, r: Element) -> None:
        """Bind the variable of the round whose sums were taken last."""
        constant = extension.constant(r)
        if self._small is None:
            self._chunks = self._threads.map(lambda pair: kernels.fold(*pair, constant), self._halves)
        else:
            self._small = [field.add(a, extension.multiply(s, constant.reshape((-1,) + (1,) * (a.ndim - 1))))
                           for a, s in zip(*self._halves, strict=True)]
        self._rows //= 2

    def helpers(self) -> Extended:
        """h of the one row that is left: five uint32 [F]."""
        helpers = self._chunks[0][2] if self._small is None else self._small[2]
        return tuple(np.asarray(v)[0] for v in helpers)


def last_rows(eq: Extended, rows: int) -> Weights:
    """Weights of the last rows of so many, zeros before them."""
    before = rows - len(eq[0])
    return tuple(np.concatenate([np.zeros(before, np.uint32), v]) if before else v for v in (*eq, np.ones_like(eq[0])))


def _part(weights: Sequence[Weights], start: int, rows: int) -> list[Weights]:
    """So many rows of them, extended by zeros."""
    return [multilinear.pad(tuple(v[start : start + rows] for v in each), rows) for each in weights]


def low_and_step(small: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of arrays [5, 2 H, ...] those whose highest bit is 0, and what is to be added for 1."""
    halves = [np.split(v, 2, axis=1) for v in small]
    return [low for low, _ in halves], [field.subtract(high, low) for low, high in halves]


def small_sums(low: list[np.ndarray], step: list[np.ndarray], weights: Sequence[Weights], first: bool) -> list[RoundSums]:
    """What ``_sums`` returns, in numpy: A, B', h uint32 [5, H, F], the line and H [5, H]."""
    at_2 = [field.add(field.add(a, s), s) for a, s in zip(low, step, strict=True)]
    points = [at_2, step] if first else [low, at_2, step]
    left, right, helpers = (np.stack([point[v] for point in points], axis=1) for v in range(3))
    sums = np.stack(extension.sum_last(extension.multiply(helpers, extension.multiply(left, right))))
    lines = [*(point[3] for point in points[:-1]), np.zeros_like(low[3])]  # a line has no leading coefficient of a cubic
    brackets = extension.subtract(sums, np.stack(lines, axis=1))
    found = []
    for *eq, inside in weights:
        weighted = np.stack(extension.sum_last(extension.multiply(brackets, np.stack(eq)[:, None])))
        low_h = extension.sum_last(low[4] * inside)
        values = [extension.element(weighted[:, c, None]) for c in range(len(points))]
        found.append([*([ZERO] if first else []), *values, extension.element(low_h)])
    return found


def _pairs(chunks: list[Chunk], half: int, size: int) -> list[tuple[Chunk, Chunk]]:
    """Chunks whose highest bit is 0, each with the one where it is 1."""
    if len(chunks) > 1:
        middle = len(chunks) // 2
        return list(zip(chunks[:middle], chunks[middle:], strict=True))
    return [kernels.split(chunks[0], half, tier(size, half))]


def _sums(pairs: list[tuple[Chunk, Chunk]], weights: Sequence[Weights], first: bool, threads: Pool) -> list[RoundSums]:
    """For each of the weights, over all pairs: the bracket at 0, at 2, and its leading coefficient, summed with eq; the sum of H at 0."""
    rows = pairs[0][0][0][0].shape[0]

    def of_pair(start: int, pair: tuple[Chunk, Chunk]) -> np.ndarray:
        low, high = pair
        step, at_2 = kernels.steps(low, high)
        points = [at_2, step] if first else [low, at_2, step]
        products = kernels.products(*((left, right) for left, right, *_ in points))
        lines = [line for *_, line, _ in points[:-1]]  # a line has no leading coefficient of a cubic
        return np.asarray(kernels.brackets([point[2] for point in points], products, lines, low[4], _part(weights, start, rows)))

    parts = threads.map(of_pair, range(0, rows * len(pairs), rows), pairs)
    return [[*([ZERO] if first else []), *map(_added, zip(*of_weights, strict=True))] for of_weights in zip(*parts, strict=True)]


def _added(parts: Sequence[Any]) -> Element:
    """The sum of elements uint32 [5], as integers."""
    found = ZERO
    for part in parts:
        found = plus(found, extension.element(np.asarray(part)[:, None]))
    return found
