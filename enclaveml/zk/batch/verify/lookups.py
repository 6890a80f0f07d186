"""The table's side of the lookups: sum over its entries of multiplicity / (alpha - fingerprint).

Where multiplicities are committed, the multilinear extension of 1 / (alpha - fingerprint).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..format import ACTIVATION_MAX, TABLE_TAG, WEIGHT_HIGH, WEIGHT_LOW, VerificationKey, bits
from .element import ZERO, Element
from .extension import add, array, element, inner, inverse
from .field import small, times
from .multilinear import eq_table
from .rejection import Rejected

#: Entries that are inverted at once.
_PORTION = 2**16


def left_base(table: int, alpha: Element, beta: Element) -> Element:
    """What q + beta a of an activation is taken from: alpha less the part of a fingerprint that says which table it is of."""
    return alpha - beta * beta * (TABLE_TAG + table) if table else alpha


def rows_sum(key: VerificationKey, multiplicities: np.ndarray, alpha: Element, beta: Element) -> Element:
    """S of the rows' proof; multiplicities [T], in the order of ``PROTOCOL.md``."""
    result = np.zeros(5, np.int64)
    for start, terms in _rows_terms(key, alpha, beta):
        weighted = times(terms, small(multiplicities[start:start + terms.shape[1]]))
        result = add(result, small(weighted.sum(axis=1)))
    return element(result)


def rows_value(key: VerificationKey, point: list[Element], alpha: Element, beta: Element) -> Element:
    """sum_t eq(point, t) / (alpha - fingerprint_t) over the rows' table; the point's entries are at least T."""
    split = max(0, len(point) - bits(_PORTION))
    high, low = eq_table(point[:split]), eq_table(point[split:])
    width, result = low.shape[1], ZERO
    for start, terms in _rows_terms(key, alpha, beta):
        end = start + terms.shape[1]
        for block in range(start // width, -(-end // width)):
            first, last = max(start, block * width), min(end, (block + 1) * width)
            here = inner(terms[:, first - start:last - start], low[:, first - block * width:last - block * width])
            result = result + here * element(high[:, block])
    return result


def weights_sum(multiplicities: np.ndarray, alpha: Element) -> Element:
    """The weights proof's sum over w = -128..127."""
    terms = _inverses(alpha, ZERO, np.arange(WEIGHT_LOW, WEIGHT_HIGH + 1), None)
    return element(small(times(terms, small(multiplicities)).sum(axis=1)))


def weights_value(point: list[Element], alpha: Element) -> Element:
    """sum_t eq(point, t) / (alpha - w_t) over w = -128..127."""
    return inner(_inverses(alpha, ZERO, np.arange(WEIGHT_LOW, WEIGHT_HIGH + 1), None), eq_table(point)[:, :WEIGHT_HIGH - WEIGHT_LOW + 1])


def _rows_terms(key: VerificationKey, alpha: Element, beta: Element) -> Iterator[tuple[int, np.ndarray]]:
    """1 / (alpha - fingerprint) of all entries, in portions [5, n], each with the number of its first entry."""
    q = np.arange(-(2**key.range_bits), 2**key.range_bits)
    segments = [(alpha, beta, q, np.clip(q, 0, ACTIVATION_MAX))]
    for number, table in enumerate(key.tables, 1):
        half = len(table) // 2
        values = np.array(table, np.int64)[np.clip(q, -half, half - 1) + half]
        segments.append((left_base(number, alpha, beta), beta, q, values))
    segments += [(alpha - beta * beta * shift, ZERO, np.arange(2**shift), None) for shift in key.shifts]
    at = 0
    for base, factor, first, second in segments:
        for start in range(0, len(first), _PORTION):
            part = slice(start, start + _PORTION)
            yield at + start, _inverses(base, factor, first[part], None if second is None else second[part])
        at += len(first)


def _inverses(alpha: Element, beta: Element, first: np.ndarray, second: np.ndarray | None) -> np.ndarray:
    """[5, n]: 1 / (alpha - first - beta second)."""
    denominators = np.repeat(array([alpha]), len(first), axis=1)
    denominators[0] -= first
    if second is not None:
        denominators -= times(array([beta]), second)
    try:
        return inverse(small(denominators))
    except ZeroDivisionError:
        raise Rejected("lookups: a challenge is an entry of the table") from None
