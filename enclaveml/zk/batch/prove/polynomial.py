"""Single elements of F: polynomials given by their values at 0, 1, 2, ..., and eq of one variable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from enclaveml.zk.batch.format import DEGREE, RESIDUE, P
from enclaveml.zk.batch.prove import extension
from enclaveml.zk.batch.prove.extension import ONE, Element, minus, plus, times


def eq_bit(t: Element, r: Element) -> Element:
    """eq of one variable: t r + (1 - t)(1 - r) = 1 - t - r + 2 t r."""
    product = times(t, r)
    return plus(minus(minus(ONE, t), r), plus(product, product))


def cubic(at_0: Element, at_1: Element, at_2: Element, lead: Element) -> tuple[Element, Element]:
    """A cubic's values at 3 and 4, from its leading coefficient: its third differences are 6 times that."""
    def following(a: Element, b: Element, c: Element) -> Element:
        return tuple((6 * v + 3 * z - 3 * y + x) % P for x, y, z, v in zip(a, b, c, lead, strict=True))
    at_3 = following(at_0, at_1, at_2)
    return at_3, following(at_1, at_2, at_3)


def interpolated(values: Sequence[Element], r: Element) -> Element:
    """The value at r of the polynomial with these values at 0, 1, 2, ..."""
    found = extension.ZERO
    for row in reversed(_inverse_vandermonde(len(values))):
        coefficient = tuple(sum(c * v[k] for c, v in zip(row, values, strict=True)) % P for k in range(DEGREE))
        found = plus(times(found, r), coefficient)
    return found


@cache
def _inverse_vandermonde(count: int) -> list[list[int]]:
    """Row d: what the values at 0 .. count - 1 are combined with for the coefficient of x^d."""
    rows = [[0] * count for _ in range(count)]
    for i in range(count):
        basis = [pow(math.prod(i - j for j in range(count) if j != i), -1, P)]  # of the polynomial that is 1 at i, 0 elsewhere
        for j in range(count):
            if j != i:
                basis = [(low - j * high) % P for low, high in zip([0, *basis], [*basis, 0], strict=True)]
        for d, c in enumerate(basis):
            rows[d][i] = c
    return rows


def inverse(x: Element) -> Element:
    """1 / x of a single element, by its norm."""
    def conjugate(y: Element, count: int) -> Element:
        z = pow(RESIDUE, (P - 1) // DEGREE * count, P)
        return tuple(v * pow(z, k, P) % P for k, v in enumerate(y))
    once = conjugate(x, 1)
    pair = times(once, conjugate(once, 1))
    others = times(pair, conjugate(pair, 2))
    return times(others, extension.lift(pow(times(x, others)[0], -1, P)))
