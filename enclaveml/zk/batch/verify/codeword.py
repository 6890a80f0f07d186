"""Single symbols of Reed-Solomon codewords.

155 symbols of 4n are asked for. A transform of the whole codeword takes 2 n log2(4n) products that no matrix
library makes; these symbols alone take 155 n, by matrix products in float64, at any allowed n faster.
"""

from __future__ import annotations

import numpy as np

from ..format import BLOWUP, GENERATOR, P
from .field import powers, product, small, times

#: Coefficients per block: what ``field.product`` adds at once.
_BLOCK = 256


def symbols(columns: np.ndarray, positions: list[int]) -> np.ndarray:
    """[c, Q]: the codewords of c columns of coefficients [c, n] (small) at the positions, w^position each."""
    count, length = columns.shape
    w = pow(GENERATOR, (P - 1) // (BLOWUP * length), P)
    points = np.array([pow(w, position, P) for position in positions], np.int64)
    block = min(length, _BLOCK)
    inside = powers(points, block)
    outside = powers(np.array([pow(int(point), block, P) for point in points], np.int64), length // block)
    result = np.empty((count, len(positions)), np.int64)
    for i in range(count):
        parts = product(columns[i].reshape(-1, block), inside)
        result[i] = small(times(parts, outside).sum(axis=0))
    return result
