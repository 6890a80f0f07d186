"""The table's side of the lookups: sum over its entries of multiplicity / (alpha - fingerprint)."""

from __future__ import annotations

import numpy as np

from ..format import ACTIVATION_MAX, WEIGHT_HIGH, WEIGHT_LOW, VerificationKey
from .element import ZERO, Element
from .extension import add, array, element, inverse
from .field import small, times
from .rejection import Rejected

#: Entries that are inverted at once.
_PORTION = 2**16


def entries(key: VerificationKey) -> int:
    """T: activations for every q, then the remainders of every different shift."""
    return 2 ** (key.range_bits + 1) + sum(2**shift for shift in key.shifts) if key.hidden else 0


def rows_sum(key: VerificationKey, multiplicities: np.ndarray, alpha: Element, beta: Element) -> Element:
    """S of the rows' proof; multiplicities [T], in the order of ``PROTOCOL.md``."""
    q = np.arange(-(2**key.range_bits), 2**key.range_bits)
    result = _sum(alpha, beta, q, np.clip(q, 0, ACTIVATION_MAX), multiplicities[:len(q)])
    at = len(q)
    for shift in key.shifts:
        part = multiplicities[at:at + 2**shift]
        result = result + _sum(alpha - beta * beta * shift, ZERO, np.arange(2**shift), None, part)
        at += 2**shift
    return result


def weights_sum(multiplicities: np.ndarray, alpha: Element) -> Element:
    """The weights proof's sum over w = -128..127."""
    return _sum(alpha, ZERO, np.arange(WEIGHT_LOW, WEIGHT_HIGH + 1), None, multiplicities)


def _sum(alpha: Element, beta: Element, first: np.ndarray, second: np.ndarray | None,
         multiplicities: np.ndarray) -> Element:
    """sum of m / (alpha - first - beta second)."""
    result = np.zeros(5, np.int64)
    base = array([alpha])
    for start in range(0, len(first), _PORTION):
        part = slice(start, start + _PORTION)
        denominators = np.repeat(base, len(first[part]), axis=1)
        denominators[0] -= first[part]
        if second is not None:
            denominators -= times(array([beta]), second[part])
        try:
            terms = times(inverse(small(denominators)), small(multiplicities[part]))
        except ZeroDivisionError:
            raise Rejected("lookups: a challenge is an entry of the table") from None
        result = add(result, small(terms.sum(axis=1)))
    return element(result)
