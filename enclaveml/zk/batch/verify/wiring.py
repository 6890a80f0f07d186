"""How positions read arrays (``PROTOCOL.md``, "Wiring"): tables of eq over a layer's features, and where a reading's weights go."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..format import Layer, Wiring, bits
from .element import Element
from .extension import multiply
from .field import small
from .multilinear import eq_table, ones

#: Pairs of a position and an input of it that are worked on at once.
_PORTION = 2**18


@dataclass(frozen=True)
class Features:
    """A point phi over a layer's features.

    table: eq(phi, f) of the features [5, M]. positions, outputs: of its two parts, [5, P] and [5, M'].
    inside, one: the sums of eq over the positions, and over the features.
    """

    table: np.ndarray
    positions: np.ndarray
    outputs: np.ndarray
    inside: Element
    one: Element

    @classmethod
    def at(cls, layer: Layer, point: list[Element]) -> Features:
        """Of phi, whose first variables are the positions'."""
        split = bits(layer.positions)
        positions = eq_table(point[:split])[:, :layer.positions]
        outputs = eq_table(point[split:])[:, :layer.outputs]
        table = multiply(positions[:, :, None], outputs[:, None, :]).reshape(5, -1)
        inside = ones(positions, layer.positions)
        return cls(table, positions, outputs, inside, inside * ones(outputs, layer.outputs))


def reads(wiring: Wiring, positions: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """theta [5, features]: of each feature the sum of positions[p] inputs[k] over the pairs (p, k) that read it.

    positions [5, P], inputs [5, K].
    """
    if wiring.whole:
        return multiply(positions, inputs)
    source = _feature_read(wiring)
    height, width = wiring.pooled
    channels = wiring.shape[2]
    summed = np.zeros((5, height * width * channels + 1), np.int64)  # the last is what zeros around the map get
    portion = max(1, _PORTION // wiring.inputs)
    for start in range(0, wiring.positions, portion):
        some = slice(start, start + portion)
        products = multiply(positions[:, some, None], inputs[:, None, :]).reshape(5, -1)
        at = source[some].reshape(-1)
        # Exact in float64: at most 2^18 + 2^15 numbers below 2^31 are added up.
        added = [np.bincount(at, weights=row, minlength=summed.shape[1]) for row in products]
        summed = small(summed + np.stack(added).astype(np.int64))
    found = np.zeros((5, *wiring.shape), np.int64)
    cells = summed[:, :-1].reshape(5, height, width, channels)
    for dy, dx in product(*map(range, wiring.pool)) if wiring.cell is None else [wiring.cell]:
        found[:, dy::wiring.pool[0], dx::wiring.pool[1]][:, :height, :width] = cells
    return found.reshape(5, -1)


def _feature_read(wiring: Wiring) -> np.ndarray:
    """[P, K]: which cell of the summed map position p reads as its k-th; one past the last for a zero."""
    (height, width), channels = wiring.pooled, wiring.shape[2]
    rows, columns = (
        np.arange(count)[:, None] * stride + np.arange(kernel) - pad
        for count, stride, kernel, pad in zip(wiring.places, wiring.stride, wiring.kernel, wiring.pads[:2], strict=True))
    cell = rows[:, None, :, None] * width + columns[None, :, None, :]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[None, :, None, :]
    found = cell[..., None] * channels + np.arange(channels)
    return np.where(inside[..., None], found, height * width * channels).reshape(wiring.positions, wiring.inputs)
