"""What the sum-check over rows sums, apart from the arrays: a round's values from sums over rows, and what stays when it is bound."""

from __future__ import annotations

from collections.abc import Sequence

from enclaveml.zk.batch.prove.extension import ONE, Element, lift, minus, plus, times
from enclaveml.zk.batch.prove.polynomial import cubic, eq_bit, interpolated, inverse

#: Sums over rows for a round: the bracket's at 0, at 2 and its leading coefficient, weighted by eq; H's at 0.
RoundSums = Sequence[Element]


class AllRows:
    """eq(tau, i) bracket(i) + mu H(i), summed over all rows that are left.

    eq: eq(tau, .) of what is bound. ``brackets`` is sum_i eq(tau, i) bracket(i), of all rows: 0 but for mask rows.
    """

    def __init__(self, sum_h: Element, mu: Element, brackets: Element) -> None:
        self.eq, self.mu = ONE, mu
        self._sum_h, self._claim = sum_h, plus(brackets, times(mu, sum_h))

    def values(self, found: RoundSums, t: Element) -> list[Element]:
        """At 0, 1, 2, 3, 4."""
        at_0, at_2, lead, low_h = found
        h_step = minus(self._sum_h, plus(low_h, low_h))

        def whole(x: int, value: Element) -> Element:
            h = plus(low_h, times(lift(x), h_step))
            return plus(times(times(self.eq, eq_bit(t, lift(x))), value), times(self.mu, h))

        g_0 = whole(0, at_0)
        g_1 = minus(self._claim, g_0)
        at_1 = times(minus(g_1, times(self.mu, plus(low_h, h_step))), inverse(times(self.eq, t)))
        at_3, at_4 = cubic(at_0, at_1, at_2, lead)
        return [g_0, g_1, whole(2, at_2), whole(3, at_3), whole(4, at_4)]

    def bind(self, values: list[Element], low_h: Element, t: Element, r: Element) -> None:
        """Set the variable whose round had these values."""
        self._claim = interpolated(values, r)
        self.eq = times(self.eq, eq_bit(t, r))
        self._sum_h = plus(low_h, times(r, minus(self._sum_h, plus(low_h, low_h))))

    def take_away(self, block: MaskRows) -> None:
        """From now on without mask rows: top(i) is bound, and what is left of both sums has the same factors."""
        self._claim = minus(self._claim, block.total())
        self.eq = minus(self.eq, times(block.top_tau, block.top))
        self.mu = minus(self.mu, times(self.mu, block.top))


class MaskRows:
    """top(i) (top(tau) eq(low tau, low i) bracket(i) + mu H(i)), summed over all rows, which is over mask rows, as long as top is not bound.

    ``brackets`` and ``sum_h``: sum eq(low tau, low i) bracket(i) and sum H(i) over the mask rows.
    """

    def __init__(self, brackets: Element, sum_h: Element, top_tau: Element, mu: Element) -> None:
        self.top, self.top_tau, self._mu = ONE, top_tau, mu
        self._brackets, self._sum_h = [brackets], [sum_h]

    @property
    def sum_h(self) -> Element:
        """H's sum."""
        return self._sum_h[0]

    def total(self) -> Element:
        """What the whole sum is, top(i) bound."""
        return self._whole(ONE, self._brackets[0], self._sum_h[0])

    def values(self, found: RoundSums) -> list[Element]:
        """At 0, 1, 2, 3, 4. What was bound before is at 1 what its round's polynomial is at the challenge."""
        at_0, at_2, lead, low_h = found
        at_1, high_h = self._brackets[0], self._sum_h[0]
        at_3, at_4 = cubic(at_0, at_1, at_2, lead)
        self._brackets, self._sum_h = [at_0, at_1, at_2, at_3], [low_h, high_h]
        h_step = minus(high_h, low_h)
        return [self._whole(lift(x), value, plus(low_h, times(lift(x), h_step)))
                for x, value in enumerate((at_0, at_1, at_2, at_3, at_4))]

    def bind(self, r: Element) -> None:
        """Set the variable of the last round."""
        self._brackets, self._sum_h = [interpolated(self._brackets, r)], [interpolated(self._sum_h, r)]
        self.top = times(self.top, r)

    def _whole(self, x: Element, brackets: Element, sum_h: Element) -> Element:
        return times(times(self.top, x), plus(times(self.top_tau, brackets), times(self._mu, sum_h)))


def product(elements: Sequence[Element]) -> Element:
    """Of single elements."""
    found = ONE
    for element in elements:
        found = times(found, element)
    return found
