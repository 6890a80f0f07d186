"""The integer network (PROTOCOL.md, "Statement"), exact: matrix products in float32 and float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from enclaveml.zk.batch.format import ACTIVATION_MAX, BIAS_CONSTANTS, WEIGHT_LOW, VerificationKey, Wiring
from enclaveml.zk.batch.prove.wiring import patches

#: Products in float32, twice as quick, have to be cut where their sums pass 2^24: shorter pieces than this don't pay.
_WORTHWHILE = 256

#: Cells of patches that are laid out at once.
_PATCHES = 1 << 21


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
    arrays = [x]
    for number, (layer, weights) in enumerate(zip(key.layers, layers, strict=True), 1):
        bias = (np.array(BIAS_CONSTANTS, np.int64) @ weights[layer.inputs :].astype(np.int64)).astype(np.int32)
        parts, start = [], 0
        for wiring in key.wirings(number):
            parts.append(_read(wiring, arrays[wiring.source], weights[start : start + wiring.inputs], key.largest(wiring.source)))
            start += wiring.inputs
        z = reduce(np.add, parts)
        z.reshape(len(x), -1, layer.outputs)[:] += bias
        if layer.residual is not None:
            source, exponent = layer.residual
            z += arrays[source] << np.int32(exponent)
        if number == len(key.layers):
            break
        shifted = z + np.int32(1 << (layer.shift - 1))
        quotients = shifted >> np.int32(layer.shift)
        _check_range(quotients, key.range_bits, number)
        arrays.append(np.clip(quotients, 0, ACTIVATION_MAX))
        found["q"].append(quotients)
        found["r"].append(shifted & np.int32((1 << layer.shift) - 1))
        found["a"].append(arrays[-1])
    q, r, a = (np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.int32) for parts in found.values())
    return Trace(q, r, a, z.astype(np.int64))


def _read(wiring: Wiring, array: np.ndarray, weights: np.ndarray, largest: int) -> np.ndarray:
    """The part of the sums that one wiring gives, int32 [N, M], of an array [N, features]."""
    if wiring.whole:
        return _product(array, weights, largest)
    found = np.empty((len(array), wiring.positions, weights.shape[1]), np.int32)
    kind = _kind(wiring.inputs, largest * wiring.window)
    step = max(1, _PATCHES // (wiring.positions * wiring.inputs))
    for start in range(0, len(array), step):
        given = patches(wiring, array[start : start + step].astype(kind))
        found[start : start + step] = _product(given.reshape(-1, wiring.inputs), weights, largest * wiring.window).reshape(
            -1, *found.shape[1:])
    return found.reshape(len(array), -1)


def _together(terms: int, largest: int) -> int:
    """How many products of a weight and an integer, |a| <= largest, a float32 holds the sum of."""
    return (1 << 24) // (-WEIGHT_LOW * largest) if largest else terms


def _kind(terms: int, largest: int) -> type[np.floating]:
    """The floats to add so many products up in."""
    return np.float64 if _together(terms, largest) < min(terms, _WORTHWHILE) else np.float32


def _product(a: np.ndarray, weights: np.ndarray, largest: int) -> np.ndarray:
    """a W, int32 [N, M], for integers |a| <= largest: exact, since a float holds all sums of so many products.

    The key sees to it that the whole sums are below p / 2.
    """
    if _kind(len(weights), largest) is np.float64:
        return (a.astype(np.float64, copy=False) @ weights.astype(np.float64)).astype(np.int32)
    together, narrow = _together(len(weights), largest), a.astype(np.float32, copy=False)
    return sum((narrow[:, start : start + together] @ weights[start : start + together].astype(np.float32)).astype(np.int32)
               for start in range(0, len(weights), together))


def _check_range(quotients: np.ndarray, range_bits: int, number: int) -> None:
    """ValueError where a rescaled value int32 [N, M] has no entry in the lookups' table."""
    outside = (quotients < -(1 << range_bits)) | (quotients >= 1 << range_bits)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(f"row {row}, layer {number}: a rescaled value is {quotients[row, column]}, outside "
                         f"[-2^{range_bits}, 2^{range_bits}): calibrate the scales on rows like it, or raise the range bits")
