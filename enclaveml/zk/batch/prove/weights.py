"""Weights: what the prover takes for them, and the commitment to a layer's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import BIAS_CONSTANTS, WEIGHT_HIGH, WEIGHT_LOW, Layer
from enclaveml.zk.batch.prove import field
from enclaveml.zk.batch.prove.commitment import Committed
from enclaveml.zk.batch.prove.parallel import Pool


def checked_weights(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The layers' weights as int32; ValueError where they are not int8 values of shape (K + 3, M)."""
    checked = []
    for number, given in enumerate(layers, 1):
        weights = np.asarray(given)
        if weights.ndim != 2 or weights.shape[0] <= len(BIAS_CONSTANTS) or weights.shape[1] < 1:
            raise ValueError(f"layer {number}: weights have the shape {weights.shape}; (K + 3, M) is expected: the bias's three limbs "
                             "are the last rows")
        if weights.dtype.kind not in "iu":
            raise ValueError(f"layer {number}: weights are {weights.dtype}; integers are expected")
        if weights.min() < WEIGHT_LOW or weights.max() > WEIGHT_HIGH:
            raise ValueError(f"layer {number}: weights are between {weights.min()} and {weights.max()}; "
                             f"{WEIGHT_LOW} to {WEIGHT_HIGH} is expected")
        checked.append(weights.astype(np.int32))
    return checked


def padded_cells(weights: np.ndarray) -> np.ndarray:
    """A layer's weights int32 (K + 3, M) as columns int32 [n, M], extended by zeros."""
    length = Layer(weights.shape[0] - len(BIAS_CONSTANTS), weights.shape[1], 0).length
    return np.pad(weights, ((0, length - len(weights)), (0, 0)))


def committed_weights(weights: np.ndarray, threads: Pool) -> Committed:
    """Commit to one layer's weights int32 (K + 3, M)."""
    return Committed(field.from_signed(padded_cells(weights)), threads)
