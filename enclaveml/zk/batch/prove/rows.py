"""The sum-check over rows (PROTOCOL.md, "The proof", 5): all hidden features of all layers at once.

With B' = w_j B and w_j = lambda^(l-1) eq(sigma_l, j), what is summed is, for each row i,

    eq(tau, i) (sum_j (h A B')(i, j) - line(i))  +  mu sum_j h(i, j)         line(i) = sum_j (w_j A + B')(i, j)

``line`` is linear in what is folded, so that one number a row stands for it. eq(tau, .) is factored out of a round's polynomial
(Gruen, ePrint 2024/108): what is left, the bracket, has degree 3. It is computed at 0, at 2 and at infinity; its value at 1
follows from the claim. In the first round it is 0 at 0 and 1: those are the rows themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml.zk.batch.prove import extension, field, kernels, multilinear
from enclaveml.zk.batch.prove.chunks import tier
from enclaveml.zk.batch.prove.extension import ONE, ZERO, Element, Extended, minus, plus, times
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.polynomial import cubic, eq_bit, interpolated, inverse
from enclaveml.zk.batch.prove.transcript import Transcript

#: A chunk of rows: A, B' and h, five uint32 [H, F] each, and the line, five uint32 [H].
Chunk = tuple[Extended, Extended, Extended, Extended]


@dataclass(frozen=True)
class RowClaim:
    """The row point rho, eq(tau, rho), the last claim, and h(rho, j): five uint32 [F]."""

    point: list[Element]
    eq: Element
    claim: Element
    helpers: Extended


#: Cells, rows times features, from which on numpy is as quick as starting programs.
SMALL = 1 << 10


def prove_rows(transcript: Transcript, chunks: list[Chunk], tau: Sequence[Element], mu: Element,
               threads: Pool) -> RowClaim:
    """Run all rounds over the chunks, which are given up as they are folded."""
    suffixes = multilinear.eq_suffixes(tau)
    sum_h = _added([kernels.total(chunk[2]) for chunk in chunks])
    claim, scale, point = times(mu, sum_h), ONE, []
    size, features = chunks[0][0][0].shape
    small = None
    for k, t in enumerate(tau):
        half = 1 << (len(tau) - k - 1)
        if small is None and half * features <= SMALL and len(chunks) == 1:
            small = [np.stack(v)[:, : 2 * half] for v in chunks.pop()]
        if small is None:
            pairs = _pairs(chunks, half, size)
            low_h, *values = _sums(pairs, suffixes[k + 1], k == 0, threads)
        else:
            low, step = _low_and_step(small)
            low_h, *values = _small_sums(low, step, np.stack(suffixes[k + 1]))
        claim, r = _round(transcript, values, (low_h, minus(sum_h, low_h)), scale, t, mu, claim)
        point.append(r)
        scale = times(scale, eq_bit(t, r))
        sum_h = plus(low_h, times(r, minus(sum_h, plus(low_h, low_h))))
        constant = extension.constant(r)
        if small is None:
            chunks = threads.map(lambda pair: kernels.fold(*pair, constant), pairs)
        else:
            small = [field.add(a, extension.multiply(s, constant.reshape((-1,) + (1,) * (a.ndim - 1))))
                     for a, s in zip(low, step, strict=True)]
    helpers = chunks[0][2] if small is None else small[2]
    return RowClaim(point, scale, claim, tuple(np.asarray(v)[0] for v in helpers))


def _low_and_step(small: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of arrays [5, 2 H, ...] those whose highest bit is 0, and what is to be added for 1."""
    halves = [np.split(v, 2, axis=1) for v in small]
    return [low for low, _ in halves], [field.subtract(high, low) for low, high in halves]


def _small_sums(low: list[np.ndarray], step: list[np.ndarray], eq: np.ndarray) -> list[Element]:
    """What ``_sums`` returns, in numpy: A, B', h uint32 [5, H, F] and the line [5, H]."""
    at_2 = [field.add(field.add(a, s), s) for a, s in zip(low, step, strict=True)]
    left, right, helpers = (np.stack([low[v], at_2[v], step[v]], axis=1) for v in range(3))
    sums = np.stack(extension.sum_last(extension.multiply(helpers, extension.multiply(left, right))))
    line = np.stack([low[3], at_2[3], np.zeros_like(low[3])], axis=1)
    weighted = np.stack(extension.sum_last(extension.multiply(extension.subtract(sums, line), eq[:, None])))
    low_h = extension.sum_last(low[2].reshape(len(low[2]), -1))
    return [extension.element(low_h), *(extension.element(weighted[:, c, None]) for c in range(3))]


def _pairs(chunks: list[Chunk], half: int, size: int) -> list[tuple[Chunk, Chunk]]:
    """Chunks whose highest bit is 0, each with the one where it is 1."""
    if len(chunks) > 1:
        middle = len(chunks) // 2
        return list(zip(chunks[:middle], chunks[middle:], strict=True))
    return [kernels.split(chunks[0], half, tier(size, half))]


def _sums(pairs: list[tuple[Chunk, Chunk]], eq: Extended, first: bool, threads: Pool) -> list[Element]:
    """Over all pairs: sum h at 0; the bracket at 0, at 2, and its leading coefficient, summed with eq."""
    rows = pairs[0][0][0][0].shape[0]

    def of_pair(start: int, pair: tuple[Chunk, Chunk]) -> np.ndarray:
        low, high = pair
        weights = multilinear.pad(tuple(v[start : start + rows] for v in eq), rows)
        step, at_2 = kernels.steps(low, high)
        points = [at_2, step] if first else [low, at_2, step]
        products = kernels.products(*((left, right) for left, right, _, _ in points))
        lines = [line for *_, line in points[:-1]]  # a line has no leading coefficient of a cubic
        return np.asarray(kernels.brackets([point[2] for point in points], products, lines, weights, low[2]))

    parts = threads.map(of_pair, range(0, rows * len(pairs), rows), pairs)
    *values, low_h = (_added(each) for each in zip(*parts, strict=True))
    return [low_h, *([ZERO] if first else []), *values]


def _added(parts: Sequence[Any]) -> Element:
    """The sum of elements uint32 [5], as integers."""
    found = ZERO
    for part in parts:
        found = plus(found, extension.element(np.asarray(part)[:, None]))
    return found


def _round(transcript: Transcript, values: Sequence[Element], sums: tuple[Element, Element], scale: Element,
           t: Element, mu: Element, claim: Element) -> tuple[Element, Element]:
    """Send g(0), g(2), g(3), g(4); returns g at the challenge, and the challenge. ``sums`` of h at 0 and 1."""
    at_0, at_2, lead = values
    h_step = minus(sums[1], sums[0])

    def whole(x: int, value: Element) -> Element:
        h = plus(sums[0], times(extension.lift(x), h_step))
        return plus(times(times(scale, eq_bit(t, extension.lift(x))), value), times(mu, h))

    g_0 = whole(0, at_0)
    g_1 = minus(claim, g_0)
    at_1 = times(minus(g_1, times(mu, sums[1])), inverse(times(scale, t)))
    at_3, at_4 = cubic(at_0, at_1, at_2, lead)
    rest = [whole(2, at_2), whole(3, at_3), whole(4, at_4)]
    transcript.message("rows", extension.to_bytes(g_0, *rest))
    r = transcript.elements("row")[0]
    return interpolated([g_0, g_1, *rest], r), r
