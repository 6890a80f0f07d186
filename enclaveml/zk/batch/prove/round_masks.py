"""Random polynomials that are added to what a sum-check sums, so that its messages are uniform.

Libra's (Xie, Zhang, Zhang, Papamanthou and Song 2019): g(X) = c_0 + sum_k sum_i c_{k,i} X_k^i. Their coefficients are a committed
column over F, in which sums and values of g are linear.
"""

from __future__ import annotations

from collections.abc import Sequence

from enclaveml.zk.batch.prove.extension import ONE, ZERO, Element, lift, plus, times


class RoundMask:
    """g of ``variables`` variables and this degree in each, from its coefficients in the column's order; bound from the first on."""

    def __init__(self, coefficients: Sequence[Element], variables: int, degree: int) -> None:
        self._bound = coefficients[0]  # c_0 and the terms of the variables that are bound
        self._terms = [list(coefficients[1 + k * degree :][:degree]) for k in range(variables)]
        self._points = [0, *range(2, degree + 1)]

    def total(self) -> Element:
        """The sum over the cube of the variables that are not bound."""
        return self._whole(self._bound, self._terms)

    def values(self) -> list[Element]:
        """The sum over all variables but the next one, which is 0, 2, 3, ...: what is added to a round's message."""
        first, *others = self._terms
        return [self._whole(plus(self._bound, _value(first, lift(x))), others) for x in self._points]

    def bind(self, r: Element) -> None:
        """Set the next variable."""
        self._bound = plus(self._bound, _value(self._terms.pop(0), r))

    @staticmethod
    def _whole(bound: Element, terms: list[list[Element]]) -> Element:
        """The sum over a cube: a term is 0 for half of it."""
        ends = ZERO
        for term in terms:
            for c in term:
                ends = plus(ends, c)
        found = times(bound, lift(1 << len(terms)))
        return plus(found, times(ends, lift(1 << (len(terms) - 1)))) if terms else found


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


def _value(term: list[Element], x: Element) -> Element:
    """sum_i c_i x^i, i = 1, 2, ..."""
    found = ZERO
    for c in reversed(term):
        found = times(plus(found, c), x)
    return found
