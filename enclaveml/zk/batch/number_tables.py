"""A layer's activation as a table of whole numbers (PROTOCOL.md, "Activations"): where it is not flat, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from enclaveml.zk.batch.float_model import Activation, FloatLayer, run
from enclaveml.zk.batch.format import ACTIVATION_MAX, LEAST_TABLE_BITS
from enclaveml.zk.batch.integer import IntegerLayer, IntegerModel

#: Places of a function that are looked at for where it is flat.
_PLACES = 4097


def steep(each: FloatLayer, low: float, high: float, top: float) -> tuple[float, float]:
    """Of a layer's activation on sums from ``low`` to ``high``, 0 between them, cut at values of the size ``top``: the largest sum, either way,
    where it is not yet what it is at that end, but for half of what 8 bits tell apart; and the largest value."""
    z = np.linspace(min(low, -1e-6), max(high, 1e-6), _PLACES)
    value = np.clip(_finite(each, z), -top, top)
    most = float(np.abs(value).max()) or 1.0
    end = np.where(z < 0, value[0], value[-1])
    differs = np.abs(value - end) > most / ACTIVATION_MAX / 2
    return float(np.abs(z[differs]).max(initial=0.0)) or float(np.abs(z).max()), most


def numbers(each: FloatLayer, activation: int, factor: float, reach: float, given: tuple[int, float], most_bits: int) -> tuple[int, ...]:
    """The numbers of a table of quotients that stand for q 2^-activation / factor, as far as ``reach``."""
    half = 2 ** min(most_bits - 1, max(LEAST_TABLE_BITS - 1, math.ceil(math.log2(reach * factor * 2.0**activation) - 1e-9)))
    values = _finite(each, np.arange(-half, half) * 2.0**-activation / factor) * 2.0 ** given[0] * given[1]
    return tuple(np.clip(np.rint(values), -ACTIVATION_MAX, ACTIVATION_MAX).astype(int).tolist())


def costs(layers: Sequence[FloatLayer], model: IntegerModel, rows: np.ndarray) -> tuple[float, ...]:
    """Of each hidden layer how far the outputs on rows (S, *row_shape) come off by its table alone, all else in floats; 0 for ReLU, which is exact."""
    truth, found = run(layers, rows)[1][-1], []
    for number, made in enumerate(model.layers[:-1]):
        changed = list(layers)
        if made.table:
            changed[number] = replace(layers[number], activation=Activation("", partial(_looked_up, made)))
        found.append(float(np.abs(run(changed, rows)[1][-1] - truth).max(initial=0.0)) if made.table else 0.0)
    return tuple(found)


def _looked_up(made: IntegerLayer, z: np.ndarray) -> np.ndarray:
    """What a layer's table makes of the float layer's sums."""
    (step, unit), half = made.units, len(made.table) // 2
    places = np.clip(np.rint(z / step), -half, half - 1).astype(np.int64) + half
    return np.array(made.table)[places] * unit


def _finite(each: FloatLayer, z: np.ndarray) -> np.ndarray:
    """What the activation makes of sums, 0 where it is none: no row of those that there are has such a sum."""
    value = each.activated(z)
    return np.where(np.isfinite(value), value, 0.0)
