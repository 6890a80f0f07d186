"""The sum-check over rows (PROTOCOL.md, "The proof", 5): all hidden features of all layers at once.

With B' = w_j B and w_j = lambda^(l-1) eq(sigma_l, j), what is summed is, for each row i,

    eq(tau, i) bracket(i) + mu H(i)      bracket(i) = sum_j (h A B')(i, j) - line(i)
                                         line(i) = sum_j (w_j A + B')(i, j)      H(i) = sum_j h(i, j)

``line`` and H are linear in what is folded, so that one number a row stands for each. eq(tau, .) is factored out of a round's
polynomial (Gruen, ePrint 2024/108): what is left, the bracket, has degree 3. It is computed at 0, at 2 and at infinity; its value at
1 follows from the claim. In the first round it is 0 at 0: those are rows themselves, of the statement.

What is summed over mask rows, the last m, is taken away: that times top(i), which is 1 on them. As long as a variable of top is not
bound, it is a sum over the last m rows of either half, from the same products (``row_parts.MaskRows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml.zk.batch.prove import extension, field, kernels, multilinear
from enclaveml.zk.batch.prove.chunks import tier
from enclaveml.zk.batch.prove.extension import ZERO, Element, Extended, minus, plus
from enclaveml.zk.batch.prove.layers import send_round
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.round_masks import RoundMask
from enclaveml.zk.batch.prove.row_parts import AllRows, MaskRows, RoundSums, product
from enclaveml.zk.batch.prove.transcript import Transcript

#: A chunk of rows: A, B' and h, five uint32 [H, F] each; the line and H, five uint32 [H] each.
Chunk = tuple[Extended, Extended, Extended, Extended, Extended]

#: What rows are summed with: eq, and 1 where H is summed, else 0. Six uint32 [rows].
Weights = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class RowClaim:
    """The row point rho; the bracket's and H's factors there, eq(tau, rho) and mu but for mask rows; h(rho, j): five uint32 [F]."""

    point: list[Element]
    eq: Element
    mu: Element
    helpers: Extended


@dataclass(frozen=True)
class Hiding:
    """How many of the last rows are mask rows, and the random polynomial that is added to what is summed."""

    rows: int
    added: RoundMask


#: Cells, rows times features, of either half up to which numpy is as quick as starting programs: without vectors, and with.
SMALL, SMALL_VECTORS = 1 << 10, 1 << 14


def prove_rows(transcript: Transcript, chunks: list[Chunk], tau: Sequence[Element], mu: Element, threads: Pool,
               hiding: Hiding | None = None) -> RowClaim:
    """Run all rounds over the chunks, which are given up as they are folded."""
    suffixes = multilinear.eq_suffixes(tau)
    sum_h = _added([kernels.total(chunk[4]) for chunk in chunks])
    block, brackets = None, ZERO
    if hiding:
        eq_masks = suffixes[-hiding.rows.bit_length()]
        top_tau = product(tau[: len(tau) + 1 - hiding.rows.bit_length()])
        at_masks = _mask_sums(chunks, eq_masks, threads)
        block, brackets = MaskRows(*at_masks, top_tau, mu), extension.times(top_tau, at_masks[0])
    rows = AllRows(sum_h, mu, brackets)
    point: list[Element] = []
    size, features = chunks[0][0][0].shape
    small, most = None, SMALL_VECTORS if extension.vectors() else SMALL
    for k, t in enumerate(tau):
        half = 1 << (len(tau) - k - 1)
        weights = [_last_rows(suffixes[k + 1], half)] + ([_last_rows(eq_masks, half)] if block else [])
        if small is None and half * features <= most:
            small = [np.concatenate(list(map(np.stack, parts)), axis=1)[:, : 2 * half] for parts in zip(*chunks, strict=True)]
            chunks.clear()
        if small is None:
            pairs = _pairs(chunks, half, size)
            found = _sums(pairs, weights, k == 0, threads)
        else:
            low, step = _low_and_step(small)
            found = _small_sums(low, step, weights, k == 0)
        values = rows.values(found[0], t)
        sent = [minus(a, b) for a, b in zip(values, block.values(found[1]), strict=True)] if block else values
        r = send_round(transcript, ("rows", "row"), [sent[0], *sent[2:]], hiding.added if hiding else None)
        point.append(r)
        rows.bind(values, found[0][-1], t, r)
        if block:
            block.bind(r)
            if half == hiding.rows:
                rows.take_away(block)
                block = None
        constant = extension.constant(r)
        if small is None:
            chunks = threads.map(lambda pair: kernels.fold(*pair, constant), pairs)
        else:
            small = [field.add(a, extension.multiply(s, constant.reshape((-1,) + (1,) * (a.ndim - 1))))
                     for a, s in zip(low, step, strict=True)]
    helpers = chunks[0][2] if small is None else small[2]
    return RowClaim(point, rows.eq, rows.mu, tuple(np.asarray(v)[0] for v in helpers))


def _last_rows(eq: Extended, rows: int) -> Weights:
    """Weights of the last rows of so many, zeros before them."""
    before = rows - len(eq[0])
    return tuple(np.concatenate([np.zeros(before, np.uint32), v]) if before else v for v in (*eq, np.ones_like(eq[0])))


def _part(weights: Sequence[Weights], start: int, rows: int) -> list[Weights]:
    """So many rows of them, extended by zeros."""
    return [multilinear.pad(tuple(v[start : start + rows] for v in each), rows) for each in weights]


def _mask_sums(chunks: list[Chunk], eq: Extended, threads: Pool) -> tuple[Element, Element]:
    """Over the last rows, as many as eq has: the sums of eq times the bracket, and of H."""
    size = len(chunks[0][3][0])
    chunks = chunks[-len(eq[0]) // size :]
    weights = [_last_rows(eq, size * len(chunks))]

    def of_chunk(start: int, chunk: Chunk) -> np.ndarray:
        left, right, helpers, line, sums = chunk
        return np.asarray(kernels.brackets([helpers], kernels.products((left, right)), [line], sums, _part(weights, start, size)))[0]

    parts = threads.map(of_chunk, range(0, size * len(chunks), size), chunks)
    brackets, sum_h = (_added(each) for each in zip(*parts, strict=True))
    return brackets, sum_h


def _low_and_step(small: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of arrays [5, 2 H, ...] those whose highest bit is 0, and what is to be added for 1."""
    halves = [np.split(v, 2, axis=1) for v in small]
    return [low for low, _ in halves], [field.subtract(high, low) for low, high in halves]


def _small_sums(low: list[np.ndarray], step: list[np.ndarray], weights: Sequence[Weights], first: bool) -> list[RoundSums]:
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
