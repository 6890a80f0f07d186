"""The integer network (PROTOCOL.md, "Statement"), exact: matrix products in float32 and float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import ACTIVATION_MAX, BIAS_CONSTANTS, WEIGHT_LOW, VerificationKey


#: Products in float32, twice as quick, have to be cut where their sums pass 2^24: shorter pieces than this don't pay.
_WORTHWHILE = 256


@dataclass(frozen=True)
class Trace:
    """What the hidden layers compute, next to each other: int32 [N, F], F features in all; outputs int64 [N, D]."""

    quotients: np.ndarray
    remainders: np.ndarray
    activations: np.ndarray
    outputs: np.ndarray


def infer(key: VerificationKey, layers: Sequence[np.ndarray], x: np.ndarray) -> Trace:
    """Run the network on x int32 [N, K]; ValueError where a value is outside the key's range."""
    found: dict[str, list[np.ndarray]] = {"q": [], "r": [], "a": []}
    activation = x
    for number, (layer, weights) in enumerate(zip(key.layers, layers, strict=True), 1):
        bias = (np.array(BIAS_CONSTANTS, np.int64) @ weights[layer.inputs :].astype(np.int64)).astype(np.int32)
        z = _product(activation, weights[: layer.inputs], key.largest_input(number)) + bias
        if number == len(key.layers):
            break
        shifted = z + np.int32(1 << (layer.shift - 1))
        quotients = shifted >> np.int32(layer.shift)
        _check_range(quotients, key.range_bits, number)
        activation = np.clip(quotients, 0, ACTIVATION_MAX)
        found["q"].append(quotients)
        found["r"].append(shifted & np.int32((1 << layer.shift) - 1))
        found["a"].append(activation)
    q, r, a = (np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.int32) for parts in found.values())
    return Trace(q, r, a, z.astype(np.int64))


def _product(a: np.ndarray, weights: np.ndarray, largest: int) -> np.ndarray:
    """a W, int32 [N, M], for integers |a| <= largest: exact, since a float holds all sums of so many products.

    The key sees to it that the whole sums are below p / 2.
    """
    together = (1 << 24) // (-WEIGHT_LOW * largest) if largest else len(weights)
    if together < min(len(weights), _WORTHWHILE):
        return (a.astype(np.float64) @ weights.astype(np.float64)).astype(np.int32)
    narrow = a.astype(np.float32)
    return sum((narrow[:, start : start + together] @ weights[start : start + together].astype(np.float32)).astype(np.int32)
               for start in range(0, len(weights), together))


def _check_range(quotients: np.ndarray, range_bits: int, number: int) -> None:
    """ValueError where a rescaled value int32 [N, M] has no entry in the lookups' table."""
    outside = (quotients < -(1 << range_bits)) | (quotients >= 1 << range_bits)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(f"row {row}, layer {number}: a rescaled value is {quotients[row, column]}, outside "
                         f"[-2^{range_bits}, 2^{range_bits}): calibrate the scales on rows like it, or raise the range bits")
