"""Multilinear extensions at a point; the first coordinate belongs to the most significant bit."""

from __future__ import annotations

import numpy as np

from ..format import DEGREE
from .element import ONE, Element
from .extension import add, array, element, inner, multiply
from .field import product, small


def eq_table(point: list[Element]) -> np.ndarray:
    """[5, 2^n]: eq(point, i) for every i."""
    table = array([ONE])
    for coordinate in point:
        ones = multiply(table, array([coordinate]))
        table = np.stack([add(table, -ones), ones], axis=-1).reshape(DEGREE, -1)
    return table


def eq(left: list[Element], right: list[Element]) -> Element:
    """The product over k of l_k r_k + (1 - l_k)(1 - r_k)."""
    result = ONE
    for one, other in zip(left, right, strict=True):
        both = one * other
        result = result * (1 - one - other + both + both)
    return result


def ones(table: np.ndarray, count: int) -> Element:
    """1_M(t) = sum_{j < M} eq(t, j), of t's table."""
    return element(small(table[:, :count].sum(axis=1)))


def evaluate(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Element:
    """sum_ij eq_i matrix[i, j] eq'_j of integers [N, K], |v| < 2^31; rows [5, N], columns [5, K or more]."""
    return inner(product(rows, matrix), columns[:, :matrix.shape[1]])
