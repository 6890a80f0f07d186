"""Factors that make channels of one size without changing the function: each hidden channel's own, as ``calibrate`` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from enclaveml.zk.batch.float_model import FloatLayer, run
from enclaveml.zk.batch.format import Wiring


def tied(layers: Sequence[FloatLayer]) -> set[int]:
    """Numbers of the layers whose values are added to others, or to whose sums others are: they are multiplied by nothing."""
    return {number for at, each in enumerate(layers, 1) if each.residual is not None for number in (at, each.residual)}


def equalised(dense: Sequence[FloatLayer], rows: np.ndarray, by: str) -> list[FloatLayer]:
    """The same function, each hidden channel behind a ReLU multiplied so that its weights (or largest value) and the next layers' are of one size."""
    found, fixed = list(dense), tied(dense)
    arrays = run(dense, rows)[0] if by == "activations" else []
    for i in range(len(dense) - 1) if by else ():
        here = found[i]
        channels = len(here.bias)
        readers = _readers(found, i + 1)
        if i + 1 in fixed or here.activation or any(wiring.shape[2] != channels and not wiring.whole for _, wiring, _ in readers):
            continue
        if by == "weights":
            sizes = np.abs(here.weights).max(axis=0)
        else:
            sizes = arrays[i + 1].reshape(-1, channels).max(axis=0)
        ahead = np.max([np.abs(found[j].weights[part]).reshape(-1, channels, found[j].weights.shape[1]).max(axis=(0, 2))
                        for j, _, part in readers], axis=0)
        dead = (sizes <= 0) | (ahead <= 0)
        factor = np.sqrt(np.where(dead, 1.0, ahead) / np.where(dead, 1.0, sizes))
        factor = np.where(dead, np.median(factor[~dead]) if (~dead).any() else 1.0, factor)
        factor = np.clip(factor, np.median(factor) / 8, np.median(factor) * 8)
        found[i] = replace(here, weights=here.weights * factor, bias=here.bias * factor)
        for j, _, part in readers:
            weights = found[j].weights.copy()
            weights[part] /= np.tile(factor, (part.stop - part.start) // channels)[:, None]
            found[j] = replace(found[j], weights=weights)
    return found


def _readers(layers: Sequence[FloatLayer], source: int) -> list[tuple[int, Wiring, slice]]:
    """Who reads an array: the layer's place, the wiring, and which of its weights that takes."""
    found = []
    for j, each in enumerate(layers):
        start = 0
        for wiring in each.reads(j + 1):
            if wiring.source == source:
                found.append((j, wiring, slice(start, start + wiring.inputs)))
            start += wiring.inputs
    return found
