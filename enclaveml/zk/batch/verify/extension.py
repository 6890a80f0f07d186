"""Arrays of elements of F = F_p[X] / (X^5 - 2): int64 [5, ...], each coordinate small (``field``)."""

from __future__ import annotations

import numpy as np

from ..format import DEGREE, RESIDUE, P
from .element import Element
from .field import inverse as base_inverse
from .field import product, small, times

#: X^p = ZETA X, so that the Frobenius map multiplies coordinate k by ZETA^k.
ZETA = pow(RESIDUE, (P - 1) // DEGREE, P)


def array(elements: list[Element]) -> np.ndarray:
    """[5, n] of n elements."""
    return small(np.array([element.c for element in elements], np.int64).reshape(-1, DEGREE).T)


def element(values: np.ndarray) -> Element:
    """The one element of [5]."""
    return Element(tuple(int(value) % P for value in values))


def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products, broadcast after the first axis. Nine terms at most in a coordinate before it is reduced."""
    result = []
    for k in range(DEGREE):
        high = sum(left[i] * right[k + DEGREE - i] for i in range(k + 1, DEGREE))
        result.append(small(sum(left[i] * right[k - i] for i in range(k + 1)) + RESIDUE * high))
    return np.stack(result)


def by_x(values: np.ndarray) -> np.ndarray:
    """X times each: coordinates move up by one, the highest comes back twice."""
    return np.concatenate([small(RESIDUE * values[-1:]), values[:-1]])


def frobenius(values: np.ndarray, times_applied: int) -> np.ndarray:
    """v^(p^times_applied)."""
    factors = small(np.array([pow(ZETA, k * times_applied, P) for k in range(DEGREE)], np.int64))
    return times(values, factors.reshape(DEGREE, *[1] * (values.ndim - 1)))


def inverse(values: np.ndarray) -> np.ndarray:
    """1/v of [5, n]: v's conjugates over its norm, which lies in F_p. ZeroDivisionError if one is zero."""
    pair = multiply(frobenius(values, 1), frobenius(values, 2))
    others = multiply(pair, frobenius(pair, 2))
    high = sum(values[i] * others[DEGREE - i] for i in range(1, DEGREE))
    norm = small(values[0] * others[0] + RESIDUE * high)
    return times(others, base_inverse(norm))


def scale(values: np.ndarray, factor: Element) -> np.ndarray:
    """factor times each of [5, n]."""
    return multiply(values, array([factor]))


def add(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sums, broadcast."""
    return small(left + right)


def inner(left: np.ndarray, right: np.ndarray) -> Element:
    """sum_i left_i right_i of [5, n] and [5, n]."""
    return from_table(product(left, right.T))


def from_table(table: np.ndarray) -> Element:
    """sum of table[a, b] X^a X^b, of [5, 5] small numbers."""
    wide = [0] * (2 * DEGREE)
    for a in range(DEGREE):
        for b in range(DEGREE):
            wide[a + b] += int(table[a, b])
    return Element(tuple((wide[k] + RESIDUE * wide[k + DEGREE]) % P for k in range(DEGREE)))
