"""The integer network (PROTOCOL.md, "Statement"), exact: matrix products in float32 and float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import ACTIVATION_MAX, BIAS_CONSTANTS, WEIGHT_LOW, P, VerificationKey


#: Products in float32, twice as quick, have to be cut where their sums pass 2^24: shorter pieces than this don't pay.
_WORTHWHILE = 256


@dataclass(frozen=True)
class Trace:
    """What the hidden layers compute, next to each other: int32 [N, F], F features in all; outputs int64 [N, D].

    In mask rows all are elements of the field, in [0, p).
    """

    quotients: np.ndarray
    remainders: np.ndarray
    activations: np.ndarray
    outputs: np.ndarray


def infer(key: VerificationKey, layers: Sequence[np.ndarray], x: np.ndarray) -> Trace:
    """Run the network on x int32 [N, K]; ValueError where a value is outside the key's range."""
    found: dict[str, list[np.ndarray]] = {"q": [], "r": [], "a": []}
    activation = x
    for number, (layer, weights) in enumerate(zip(key.layers, layers, strict=True), 1):
        z = _product(activation, weights[: layer.inputs], key.largest_input(number)) + _bias(weights[layer.inputs :])
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


def infer_masks(key: VerificationKey, layers: Sequence[np.ndarray], x: np.ndarray, quotients: np.ndarray,
                activations: np.ndarray) -> Trace:
    """What the layers' sums are modulo p on mask rows, where x, q and a are anything: int32 [m, .] in [0, p)."""
    remainders, start, a = [], 0, x
    for layer, weights in zip(key.layers, layers, strict=True):
        z = (_product_modulo(a, weights[: layer.inputs]) + _bias(weights[layer.inputs :])) % P
        if not layer.shift:  # the last
            break
        part = slice(start, start + layer.outputs)
        a, start = activations[:, part], part.stop
        shifted = z + (1 << (layer.shift - 1)) - (quotients[:, part].astype(np.int64) << layer.shift)
        remainders.append((shifted % P).astype(np.int32))
    return Trace(quotients, np.concatenate(remainders, axis=1), activations, z)


def _bias(limbs: np.ndarray) -> np.ndarray:
    return (np.array(BIAS_CONSTANTS, np.int64) @ limbs.astype(np.int64)).astype(np.int32)


def _product_modulo(a: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """a W modulo p, int64 [n, M], for any a in [0, p): by halves of 16 bits, whose sums of 2^15 products stay below 2^38."""
    matrix = weights.astype(np.float64)
    low, high = ((part.astype(np.float64) @ matrix).astype(np.int64) for part in (a & 0xFFFF, a >> 16))
    return (low + (high << 16)) % P


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
