"""The sum-check over rows (PROTOCOL.md, "The proof", 5): all hidden features of all layers at once.

With B' = w_j B and w_j = lambda^(l-1) eq(sigma_l, j), what is summed is, for each row i,

    eq(tau, i) (sum_j (h A B')(i, j) - (w_j A + B')(i, j))  +  mu sum_j h(i, j)

The second part of the bracket is linear in what is folded, so that one number a row stands for it. eq(tau, .) is factored out of a
round's polynomial (Gruen, ePrint 2024/108): what is left has degree 3, and its value at 1 follows from the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enclaveml.zk.batch.prove import extension, multilinear
from enclaveml.zk.batch.prove.extension import ONE, Element, Extended, minus, plus, times
from enclaveml.zk.batch.prove.polynomial import eq_bit, extrapolated, interpolated, inverse
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class RowClaim:
    """The row point rho, eq(tau, rho), the last claim, and h(rho, j): five uint32 [F]."""

    point: list[Element]
    eq: Element
    claim: Element
    helpers: Extended


def prove_rows(transcript: Transcript, left: Extended, right: Extended, helpers: Extended, weights: Extended,
               tau: Sequence[Element], mu: Element) -> RowClaim:
    """Run all rounds: A, B and h are five uint32 [N, F], the weights w_j five uint32 [F]."""
    along_rows = tuple(w[None, :] for w in weights)
    right = extension.multiply(right, along_rows)
    linear = extension.sum_last(extension.add(extension.multiply(left, along_rows), right))
    claim = times(mu, _sum(helpers))
    scale, point = ONE, []
    for k, t in enumerate(tau):
        eq = multilinear.eq_table(tau[k + 1 :])
        # The bracket at 0, 2 and 3, weighted with eq of the rows that are left; and sum h at 0.
        values = []
        for a, b, h, line in zip(*(multilinear.at_points(v, 3) for v in (left, right, helpers, linear)), strict=True):
            products = extension.multiply(h, extension.multiply(a, b))
            bracket = extension.subtract(extension.sum_last(products), line)
            values.append(multilinear.inner(eq, bracket))
        low = _sum(multilinear.halves(helpers)[0])
        high = minus(_sum(helpers), low)
        sums = [low, high]
        while len(sums) < 5:
            sums.append(minus(plus(sums[-1], sums[-1]), sums[-2]))
        message, r, claim = _round(transcript, values, sums, scale, t, mu, claim)
        point.append(r)
        scale = times(scale, eq_bit(t, r))
        left, right, helpers, linear = (multilinear.fold(v, r) for v in (left, right, helpers, linear))
    return RowClaim(point, scale, claim, tuple(v[0] for v in helpers))


def _round(transcript: Transcript, values: Sequence[Element], sums: Sequence[Element], scale: Element, t: Element,
           mu: Element, claim: Element) -> tuple[list[Element], Element, Element]:
    """Send g(0), g(2), g(3), g(4); the challenge and g there. ``values``: the bracket at 0, 2, 3; ``sums`` of h at 0 .. 4."""
    at_0, at_2, at_3 = values
    g_0 = plus(times(times(scale, eq_bit(t, extension.lift(0))), at_0), times(mu, sums[0]))
    g_1 = minus(claim, g_0)
    at_1 = times(minus(g_1, times(mu, sums[1])), inverse(times(scale, t)))
    at_4 = extrapolated(at_0, at_1, at_2, at_3)
    rest = [plus(times(times(scale, eq_bit(t, extension.lift(c))), value), times(mu, sums[c]))
            for c, value in ((2, at_2), (3, at_3), (4, at_4))]
    message = [g_0, *rest]
    transcript.message("rows", extension.to_bytes(*message))
    r = transcript.elements("row")[0]
    return message, r, interpolated([g_0, g_1, *rest], r)


def _sum(x: Extended) -> Element:
    return multilinear.total(tuple(v.reshape(-1) for v in x))
