"""The integer network (PROTOCOL.md, "Statement"), exact: matrix products in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import ACTIVATION_MAX, BIAS_CONSTANTS, VerificationKey


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
        bias = (np.array(BIAS_CONSTANTS, np.int64) @ weights[layer.inputs:].astype(np.int64)).astype(np.float64)
        z = (activation.astype(np.float64) @ weights[: layer.inputs].astype(np.float64) + bias).astype(np.int64)
        if number == len(key.layers):
            break
        shifted = z + (1 << (layer.shift - 1))
        quotients = shifted >> layer.shift
        _check_range(quotients, key.range_bits, number)
        activation = np.clip(quotients, 0, ACTIVATION_MAX).astype(np.int32)
        found["q"].append(quotients.astype(np.int32))
        found["r"].append((shifted & ((1 << layer.shift) - 1)).astype(np.int32))
        found["a"].append(activation)
    q, r, a = (np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.int32) for parts in found.values())
    return Trace(q, r, a, z)


def _check_range(quotients: np.ndarray, range_bits: int, number: int) -> None:
    """ValueError where a rescaled value int64 [N, M] has no entry in the lookups' table."""
    outside = (quotients < -(1 << range_bits)) | (quotients >= 1 << range_bits)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(f"row {row}, layer {number}: a rescaled value is {quotients[row, column]}, outside "
                         f"[-2^{range_bits}, 2^{range_bits}): calibrate the scales on rows like it, or raise the range bits")
