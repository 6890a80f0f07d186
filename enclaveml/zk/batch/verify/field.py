"""Arrays of elements of F_p, as int64 around zero.

Every function here takes and returns *small* arrays: int64, congruent to the element, |v| <= SMALL, a little
more than p/2. Nine products of two small numbers fit in an int64 (9 SMALL^2 < 2^63): what a coordinate of a
product in the extension needs, so that it takes a single reduction.
"""

from __future__ import annotations

import numpy as np

from ..format import P

#: Bound of what ``small`` gives: half of p, and the rounding of the floating quotient (below 2^-17 of p).
SMALL = P // 2 + P // 2**17 + 2

#: Largest integer up to which every integer is a float64.
_EXACT = 2**53
_LIMB = 2**16


def small(values: np.ndarray) -> np.ndarray:
    """Any int64 numbers, |v| < 2^63, modulo p: the quotient by floating point, the remainder exactly.

    The quotient is below 2^33 and its float64 is off by less than 2^-18 before rounding, so the remainder
    exceeds p/2 by at most that part of p.
    """
    quotient = np.rint(values * (1.0 / P)).astype(np.int64)
    quotient *= -P
    quotient += values
    return quotient


def canonical(values: np.ndarray) -> np.ndarray:
    """int64 in [0, p): for comparing and for bytes."""
    return np.mod(values, P)


def times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products modulo p, broadcast."""
    return small(left * right)


def powers(bases: np.ndarray, count: int) -> np.ndarray:
    """[count, len(bases)]: row k holds bases^k. ``count`` is a power of two."""
    table = np.ones((1, len(bases)), np.int64)
    step = small(bases)
    while len(table) < count:
        table = np.concatenate([table, times(table, step)])
        step = times(step, step)
    return table


def inverse(values: np.ndarray) -> np.ndarray:
    """1/v of each of n numbers [n], by one inversion and 3 n products; ZeroDivisionError if one is zero."""
    count = len(values)
    if count == 1:
        value = int(values[0]) % P
        if not value:
            raise ZeroDivisionError("zero has no inverse modulo p")
        return small(np.array([pow(value, -1, P)]))
    half = count // 2
    first, second, rest = values[:half], values[half:2 * half], values[2 * half:]
    inverses = inverse(np.concatenate([times(first, second), rest]))
    both = inverses[:half]
    return np.concatenate([times(both, second), times(both, first), inverses[half:]])


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The matrix product left [r, k] @ right [k, c] modulo p, exactly, by float64 products of limbs.

    left: small. right: integers of any dtype, |v| < 2^31 (more than 2^15: two limbs of 16 bits with sign). So
    many of the k terms are added at once that the sum stays an exact float64: 2^8 of them at worst.
    """
    rows, terms = left.shape
    total = np.zeros((rows, right.shape[1]), np.int64)
    largest = max(abs(int(right.min())), abs(int(right.max()))) if right.size else 0
    chunk = _EXACT // (SMALL * min(max(largest, 1), _LIMB // 2))
    for start in range(0, terms, chunk):
        factor = left[:, start:start + chunk].astype(np.float64)
        part = right[start:start + chunk]
        if largest <= _LIMB // 2:
            sums = factor @ part.astype(np.float64)
            total = small(total + sums.astype(np.int64))
            continue
        part = part.astype(np.int64)
        low = ((part + _LIMB // 2) & (_LIMB - 1)) - _LIMB // 2
        high = (part - low) >> 16
        low_sums = (factor @ low.astype(np.float64)).astype(np.int64)
        high_sums = (factor @ high.astype(np.float64)).astype(np.int64)
        total = small(total + low_sums + small(high_sums) * _LIMB)
    return total
