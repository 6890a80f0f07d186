"""Single elements of F: polynomials given by their values at 0, 1, 2, ..., and eq of one variable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import P
from enclaveml.zk.batch.prove import extension, field
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
    """The value at r of the polynomial with these values at 0, 1, 2, ... (Lagrange)."""
    found = extension.ZERO
    for i, value in enumerate(values):
        factor, denominator = ONE, 1
        for j in range(len(values)):
            if j != i:
                factor = times(factor, minus(r, extension.lift(j)))
                denominator = denominator * (i - j) % P
        found = plus(found, times(value, times(factor, extension.lift(pow(denominator, -1, P)))))
    return found


def inverse(x: Element) -> Element:
    """1 / x of a single element."""
    return extension.element(extension.inverse(tuple(np.full(1, field.montgomery_int(v), np.uint32) for v in x)))
