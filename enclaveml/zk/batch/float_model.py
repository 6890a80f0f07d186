"""A network of float layers, as a graph gives them and the quantiser takes them.

Letters: N rows; K inputs and M' outputs of each of a layer's P positions, M = P M' features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import Wiring
from enclaveml.zk.batch.patches import products


@dataclass(frozen=True, eq=False)
class Activation:
    """A function of one number other than ReLU, float64 of float64 of any shape; ``name`` for people."""

    name: str
    function: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """What positions read times ``weights`` (K, M'), and ``bias`` (M',), float64. After every layer but the last is an activation.

    wirings: what is read, as in a key; () for all of the layer before. residual: the number of an array that is added. activation: None for ReLU.
    taken: the function that was taken for ReLU, where the model has it by another name.
    """

    weights: np.ndarray
    bias: np.ndarray
    wirings: tuple[Wiring, ...] = ()
    residual: int | None = None
    activation: Activation | None = None
    taken: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def positions(self) -> int:
        """P."""
        return self.wirings[0].positions if self.wirings else 1

    def reads(self, number: int) -> tuple[Wiring, ...]:
        """The wirings of layer ``number``, from 1, a dense layer's too."""
        return self.wirings or (Wiring(number - 1, (1, 1, len(self.weights))),)

    def sums(self, number: int, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """(N, M) float64 of the arrays (N, features) before it."""
        found = products(self.reads(number), arrays, self.weights).reshape(len(arrays[0]), -1, len(self.bias)) + self.bias
        found = found.reshape(len(arrays[0]), -1)
        return found if self.residual is None else found + arrays[self.residual]

    def activated(self, sums: np.ndarray) -> np.ndarray:
        """What the activation makes of the layer's sums, float64."""
        return np.maximum(sums, 0) if self.activation is None else self.activation.function(sums)

    @property
    def work(self) -> int:
        """Multiplications of a row."""
        return self.positions * self.weights.size


def run(layers: Sequence[FloatLayer], rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arrays, inputs (N, K) first, and every layer's sums (N, M), of rows (N, *row_shape)."""
    arrays, sums = [rows.reshape(len(rows), -1).astype(np.float64)], []
    for number, layer in enumerate(layers, 1):
        sums.append(layer.sums(number, arrays))
        if number < len(layers):
            arrays.append(layer.activated(sums[-1]))
    return arrays, sums
