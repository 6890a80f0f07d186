"""Whether what an opening shows of a column's masks is independent (PROTOCOL.md, "The masked proof", at its end)."""

from __future__ import annotations

import numpy as np

from enclaveml.zk.batch.format import P


def independent(points: np.ndarray, weights: np.ndarray) -> bool:
    """Whether m uniform entries of a column make these values of it uniform: its symbols at points int64 [d], which differ,
    and its products with the columns of ``weights``, uint32 [m, 5] (on these entries).

    A symbol is sum_i x^i c_i but for a factor. What all symbols leave free are the multiples of Z = product of X - x of a degree
    below m: the products are independent of the symbols, and of each other, where the matrix of weights by X^k Z has the rank 5.
    """
    roots = np.zeros(len(points) + 1, np.int64)
    roots[0] = 1  # the highest coefficient first
    for count, x in enumerate(points.tolist(), 1):
        roots[1 : count + 1] = (roots[1 : count + 1] - roots[:count] * x) % P
    windows = np.lib.stride_tricks.sliding_window_view(weights.astype(np.int64), len(roots), axis=0)
    for some in (windows[:16], windows):  # the first show it but for one in 2^300
        if _rank(((some * roots[::-1] % P).sum(axis=-1) % P).T) == weights.shape[1]:
            return True
    return False


def _rank(matrix: np.ndarray) -> int:
    """Of int64 [r, c] modulo p."""
    rows = [row for row in matrix]
    rank = 0
    for column in range(matrix.shape[1]):
        pivot = next((i for i, row in enumerate(rows) if row[column]), None)
        if pivot is None:
            continue
        first = rows.pop(pivot)
        inverse = pow(int(first[column]), -1, P)
        rows = [(row - first * (int(row[column]) * inverse % P)) % P for row in rows]
        rank += 1
        if not rows:
            break
    return rank
