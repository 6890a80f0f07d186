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


def extrapolated(at_0: Element, at_1: Element, at_2: Element, at_3: Element) -> Element:
    """A cubic's value at 4: its fourth difference is 0."""
    return tuple((4 * d - 6 * c + 4 * b - a) % P for a, b, c, d in zip(at_0, at_1, at_2, at_3, strict=True))


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
