"""One element of F = F_p[X] / (X^5 - 2), in Python integers: challenges, claims, the rounds of sum-checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..format import DEGREE, RESIDUE, P


@dataclass(frozen=True)
class Element:
    """c_0 + c_1 X + ... + c_4 X^4, every coordinate in [0, p). Integers mix in by the usual operators."""

    c: tuple[int, ...]

    @classmethod
    def of(cls, value: Element | int) -> Element:
        """An integer as an element; an element as it is."""
        return value if isinstance(value, Element) else cls((value % P, 0, 0, 0, 0))

    def __add__(self, other: Element | int) -> Element:
        return Element(tuple((a + b) % P for a, b in zip(self.c, Element.of(other).c, strict=True)))

    def __sub__(self, other: Element | int) -> Element:
        return Element(tuple((a - b) % P for a, b in zip(self.c, Element.of(other).c, strict=True)))

    def __rsub__(self, other: int) -> Element:
        return Element.of(other) - self

    def __mul__(self, other: Element | int) -> Element:
        if isinstance(other, int):
            return Element(tuple(a * other % P for a in self.c))
        wide = [0] * (2 * DEGREE - 1)
        for i, a in enumerate(self.c):
            for j, b in enumerate(other.c):
                wide[i + j] += a * b
        wide.append(0)
        return Element(tuple((wide[k] + RESIDUE * wide[k + DEGREE]) % P for k in range(DEGREE)))

    __radd__, __rmul__ = __add__, __mul__

    def to_bytes(self) -> bytes:
        """Five u32, little-endian."""
        return b"".join(coordinate.to_bytes(4, "little") for coordinate in self.c)


ZERO, ONE = Element.of(0), Element.of(1)


def power(base: Element, exponent: int) -> Element:
    """base^exponent, exponent >= 0."""
    result = ONE
    for bit in bin(exponent)[2:]:
        result = result * result
        if bit == "1":
            result = result * base
    return result


def total(elements: Iterable[Element]) -> Element:
    """Their sum."""
    result = ZERO
    for element in elements:
        result = result + element
    return result


def interpolate(values: list[Element], point: Element) -> Element:
    """g(point) of the polynomial of degree < len(values) with g(0), g(1), ... = values."""
    count = len(values)
    result = ZERO
    for i, value in enumerate(values):
        term, divisor = value, 1
        for j in range(count):
            if j != i:
                term = term * (point - j)
                divisor *= i - j
        result = result + term * pow(divisor, -1, P)
    return result
