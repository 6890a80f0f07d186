"""Random polynomials that are added to what a sum-check sums, so that its messages are uniform.

Libra's (Xie, Zhang, Zhang, Papamanthou and Song 2019): g(X) = c_0 + sum_k sum_i c_{k,i} X_k^i. Their coefficients are a committed
column over F, in which sums and values of g are linear.
"""

from __future__ import annotations

from collections.abc import Sequence

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove.extension import ONE, ZERO, Element, lift, plus, times


class RoundMask:
    """g of ``variables`` variables and this degree in each, from its coefficients in the column's order; bound from the first on."""

    def __init__(self, coefficients: Sequence[Element], variables: int, degree: int) -> None:
        self._bound = coefficients[0]  # c_0 and the terms of the variables that are bound
        self._terms = [coefficients[1 + k * degree :][:degree] for k in range(variables)]
        self._points = [0, *range(2, degree + 1)]
        #: What the terms from k on are together where all their variables are 1.
        self._ends = [ZERO]
        for term in reversed(self._terms):
            self._ends.append(_sum([self._ends[-1], *term]))

    def total(self) -> Element:
        """The sum over the cube of the variables that are not bound."""
        return self._whole(self._bound, len(self._terms))

    def values(self) -> list[Element]:
        """The sum over all variables but the next one, which is 0, 2, 3, ...: what is added to a round's message."""
        first, left = self._terms[0], len(self._terms) - 1
        found = []
        for x in self._points:
            term = tuple(sum(c[k] * x**i for i, c in enumerate(first, 1)) % P for k in range(DEGREE))
            found.append(self._whole(plus(self._bound, term), left))
        return found

    def bind(self, r: Element) -> None:
        """Set the next variable."""
        found = ZERO
        for c in reversed(self._terms.pop(0)):
            found = times(plus(found, c), r)
        self._bound = plus(self._bound, found)

    def _whole(self, bound: Element, left: int) -> Element:
        """The sum over a cube of the last variables: each term counts in half of it."""
        return tuple(((a << left) + (b << left >> 1)) % P for a, b in zip(bound, self._ends[left], strict=True))


def sum_weights(variables: int, degree: int) -> list[Element]:
    """What the coefficients are combined with for the sum of g over the cube."""
    return [lift(1 << variables)] + [lift(1 << (variables - 1))] * (variables * degree)


def value_weights(point: Sequence[Element], degree: int) -> list[Element]:
    """What the coefficients are combined with for g at a point."""
    found = [ONE]
    for r in point:
        power = ONE
        for _ in range(degree):
            power = times(power, r)
            found.append(power)
    return found


def _sum(elements: Sequence[Element]) -> Element:
    return tuple(sum(coordinates) % P for coordinates in zip(*elements, strict=True))
