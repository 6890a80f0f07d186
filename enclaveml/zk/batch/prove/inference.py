"""The integer network (PROTOCOL.md, "Statement"), exact: matrix products in float32 and float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from enclaveml.zk.batch.format import ACTIVATION_MAX, BIAS_CONSTANTS, WEIGHT_LOW, P, VerificationKey, Wiring
from enclaveml.zk.batch.prove.wiring import patches

#: Products in float32, twice as quick, have to be cut where their sums pass 2^24: shorter pieces than this don't pay.
_WORTHWHILE = 256

#: Cells of patches that are laid out at once.
_PATCHES = 1 << 21


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
    arrays = [x]
    for number, (layer, weights) in enumerate(zip(key.layers, layers, strict=True), 1):
        parts, start = [], 0
        for wiring in key.wirings(number):
            parts.append(_read(wiring, arrays[wiring.source], weights[start : start + wiring.inputs], key.largest(wiring.source)))
            start += wiring.inputs
        z = reduce(np.add, parts)
        z.reshape(len(x), -1, layer.outputs)[:] += _bias(weights[layer.inputs :])
        if layer.residual is not None:
            source, exponent = layer.residual
            z += arrays[source] << np.int32(exponent)
        if number == len(key.layers):
            break
        shifted = z + np.int32(1 << (layer.shift - 1))
        quotients = shifted >> np.int32(layer.shift)
        _check_range(quotients, key, number)
        arrays.append(activated(key, layer.table, quotients))
        found["q"].append(quotients)
        found["r"].append(shifted & np.int32((1 << layer.shift) - 1))
        found["a"].append(arrays[-1])
    q, r, a = (np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.int32) for parts in found.values())
    return Trace(q, r, a, z.astype(np.int64))


def infer_masks(key: VerificationKey, layers: Sequence[np.ndarray], x: np.ndarray, quotients: np.ndarray,
                activations: np.ndarray) -> Trace:
    """What the layers' sums are modulo p on mask rows, where x, q and a are anything: int32 [m, .] in [0, p)."""
    remainders, arrays, begin = [], [x], 0
    for number, (layer, weights) in enumerate(zip(key.layers, layers, strict=True), 1):
        z, start = np.zeros((len(x), layer.features), np.int64), 0
        for wiring in key.wirings(number):
            z += _read_modulo(wiring, arrays[wiring.source], weights[start : start + wiring.inputs])
            start += wiring.inputs
        z.reshape(len(x), -1, layer.outputs)[:] += _bias(weights[layer.inputs :])
        if layer.residual is not None:
            source, exponent = layer.residual
            z += arrays[source].astype(np.int64) << exponent
        z %= P
        if number == len(key.layers):
            break
        part = slice(begin, begin + layer.features)
        begin = part.stop
        arrays.append(activations[:, part])
        shifted = z + (1 << (layer.shift - 1)) - (quotients[:, part].astype(np.int64) << layer.shift)
        remainders.append((shifted % P).astype(np.int32))
    return Trace(quotients, np.concatenate(remainders, axis=1), activations, z)


def activated(key: VerificationKey, table: int, quotients: np.ndarray) -> np.ndarray:
    """Activations int32 of quotients int32, by one of the key's tables; 0: ReLU."""
    if not table:
        return np.clip(quotients, 0, ACTIVATION_MAX)
    values = np.array(key.tables[table - 1], np.int32)
    half = len(values) // 2
    return values[np.clip(quotients, -half, half - 1) + np.int32(half)]


def _bias(limbs: np.ndarray) -> np.ndarray:
    return (np.array(BIAS_CONSTANTS, np.int64) @ limbs.astype(np.int64)).astype(np.int32)


def _read_modulo(wiring: Wiring, array: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The part of the sums that one wiring gives, modulo p: int64 [m, M] of any elements [m, features].

    By halves of 16 bits, whose sums of 2^15 products stay below 2^38.
    """
    matrix, found = weights.astype(np.float64), []
    step = max(1, _PATCHES // (wiring.positions * wiring.inputs))
    for start in range(0, len(array), step):
        given = patches(wiring, array[start : start + step].astype(np.int64)).reshape(-1, wiring.inputs) % P
        low, high = ((part.astype(np.float64) @ matrix).astype(np.int64) for part in (given & 0xFFFF, given >> 16))
        found.append(((low + (high << 16)) % P).reshape(-1, wiring.positions * weights.shape[1]))
    return np.concatenate(found)


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


def _check_range(quotients: np.ndarray, key: VerificationKey, number: int) -> None:
    """ValueError where a rescaled value int32 [N, M] has no entry in the lookups' table; it is told where inputs are public."""
    range_bits = key.range_bits
    outside = (quotients < -(1 << range_bits)) | (quotients >= 1 << range_bits)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        value = "" if key.masks else f"{quotients[row, column]}, "
        raise ValueError(f"row {row}, layer {number}: a rescaled value is {value}outside "
                         f"[-2^{range_bits}, 2^{range_bits}): calibrate the scales on rows like it, or raise the range bits")
