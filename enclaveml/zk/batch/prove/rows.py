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

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension, kernels, multilinear
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


def prove_rows(transcript: Transcript, chunks: list[Chunk], tau: Sequence[Element], mu: Element,
               threads: Pool) -> RowClaim:
    """Run all rounds over the chunks, which are given up as they are folded."""
    suffixes = multilinear.eq_suffixes(tau)
    sum_h = _added([kernels.total(chunk[2]) for chunk in chunks])
    claim, scale, point = times(mu, sum_h), ONE, []
    size = chunks[0][0][0].shape[0]
    for k, t in enumerate(tau):
        half = 1 << (len(tau) - k - 1)
        pairs = _pairs(chunks, half, size)
        low_h, *values = _sums(pairs, suffixes[k + 1], k == 0, threads)
        claim, r = _round(transcript, values, (low_h, minus(sum_h, low_h)), scale, t, mu, claim)
        point.append(r)
        scale = times(scale, eq_bit(t, r))
        sum_h = plus(low_h, times(r, minus(sum_h, plus(low_h, low_h))))
        constant = extension.constant(r)
        chunks = threads.map(lambda pair: kernels.fold(*pair, constant), pairs)
    return RowClaim(point, scale, claim, tuple(np.asarray(v)[0] for v in chunks[0][2]))


def _pairs(chunks: list[Chunk], half: int, size: int) -> list[tuple[Chunk, Chunk]]:
    """Chunks whose highest bit is 0, each with the one where it is 1."""
    if len(chunks) > 1:
        middle = len(chunks) // 2
        return list(zip(chunks[:middle], chunks[middle:], strict=True))
    return [kernels.split(chunks[0], half, tier(size, half))]


def _sums(pairs: list[tuple[Chunk, Chunk]], eq: Extended, first: bool, threads: Pool) -> list[Element]:
    """Over all pairs: sum h at 0; the bracket at 0, at 2, and its leading coefficient, summed with eq."""
    rows = pairs[0][0][0][0].shape[0]

    def of_pair(start: int, pair: tuple[Chunk, Chunk]) -> list[Any]:
        low, high = pair
        weights = multilinear.pad(tuple(v[start : start + rows] for v in eq), rows)
        step, at_2 = kernels.steps(low, high)
        found = [kernels.total(low[2]), np.zeros(DEGREE, np.uint32)]
        if not first:
            found[1] = kernels.bracket(low[2], kernels.multiply(low[0], low[1]), low[3], weights)
        found.append(kernels.bracket(at_2[2], kernels.multiply(at_2[0], at_2[1]), at_2[3], weights))
        found.append(kernels.leading(step[2], kernels.multiply(step[0], step[1]), weights))
        return [np.asarray(v) for v in found]

    parts = threads.map(of_pair, range(0, rows * len(pairs), rows), pairs)
    return [_added(each) for each in zip(*parts, strict=True)]


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
