"""Weights: what the prover takes for them, and the commitment to a layer's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import (
    BIAS_CONSTANTS,
    BLOWUP,
    WEIGHT_HIGH,
    WEIGHT_LOW,
    WEIGHT_SEED,
    WEIGHTS_DOMAIN,
    Layer,
    VerificationKey,
)
from enclaveml.zk.batch.prove import field
from enclaveml.zk.batch.prove.commitment import Committed
from enclaveml.zk.batch.prove.masks import Masks
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


@dataclass(frozen=True)
class Registered:
    """Hidden weights of all layers: the columns of one tree uint32 [n_w, C], and the tree."""

    columns: np.ndarray
    committed: Committed

    @classmethod
    def of(cls, key: VerificationKey, weights: Sequence[np.ndarray], seed: bytes, threads: Pool) -> Registered:
        """Of layers' weights int32 (K + 3, M), a key whose root does not matter, and the weights seed, 32 bytes."""
        masks, start = _registration(key, weights, seed), 0
        columns = np.zeros((key.weight_rows, key.weight_columns), np.uint32)
        for layer in weights:
            columns[: len(layer), start : start + layer.shape[1]] = field.from_signed(layer)
            start += layer.shape[1]
        below = columns[key.cell_rows :]
        below[:] = masks.elements("weights", below.shape)
        return cls(columns, Committed(columns, threads, masks.salts("weights", BLOWUP * key.weight_rows)))


def _registration(key: VerificationKey, weights: Sequence[np.ndarray], seed: bytes) -> Masks:
    """What hides registered weights: of the key and the weights too, so that one seed used again hides others by other masks."""
    if len(seed) != WEIGHT_SEED:
        raise ValueError(f"a seed of the weights of {len(seed)} bytes; {WEIGHT_SEED} are expected")
    about, values = key.unregistered.to_bytes(), b"".join(layer.astype(np.int8).tobytes() for layer in weights)
    return Masks(hashlib.sha256(WEIGHTS_DOMAIN + seed + len(about).to_bytes(8, "little") + about + values).digest())


def committed_weights(weights: np.ndarray, threads: Pool) -> Committed:
    """Commit to one layer's weights int32 (K + 3, M)."""
    return Committed(field.from_signed(padded_cells(weights)), threads)
