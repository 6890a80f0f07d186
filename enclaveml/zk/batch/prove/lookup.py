"""The lookups of activations and remainders: their challenges, and how often each table entry is used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import TABLE_TAG, VerificationKey
from enclaveml.zk.batch.prove import extension
from enclaveml.zk.batch.prove.extension import Element
from enclaveml.zk.batch.prove.inference import Trace


@dataclass(frozen=True)
class Challenges:
    """alpha and beta of the lookups, and for every hidden feature what q + beta a and r are taken from: alpha less beta^2 times the tag
    of its activation's table (0 for ReLU), F elements, and alpha - beta^2 s."""

    alpha: Element
    beta: Element
    bases: tuple[Element, ...]
    offsets: tuple[Element, ...]

    @classmethod
    def of(cls, key: VerificationKey, alpha: Element, beta: Element) -> Challenges:
        square = extension.times(beta, beta)

        def of_features(tags: list[int]) -> tuple[Element, ...]:
            found = [extension.minus(alpha, extension.times(square, extension.lift(tag))) for tag in tags]
            return tuple(each for each, layer in zip(found, key.hidden, strict=True) for _ in range(layer.features))

        return cls(alpha, beta, of_features([tag(layer.table) for layer in key.hidden]), of_features([layer.shift for layer in key.hidden]))


def tag(table: int) -> int:
    """What beta^2 is multiplied with in the fingerprints of a table's entries."""
    return TABLE_TAG + table if table else 0


def multiplicities(key: VerificationKey, trace: Trace) -> np.ndarray:
    """uint32: uses of the entries of ReLU, of those of each table, then of the remainders' table of each shift, ascending."""
    features = [layer.features for layer in key.hidden]
    tables, column_shifts = (np.repeat(values, features) for values in (
        [layer.table for layer in key.hidden], [layer.shift for layer in key.hidden]))
    counts = []
    for table in range(len(key.tables) + 1):
        mine = trace.quotients if not key.tables else trace.quotients[:, tables == table]
        counts.append(np.bincount((mine + (1 << key.range_bits)).reshape(-1), minlength=2 << key.range_bits))
    for shift in key.shifts:
        counts.append(np.bincount(trace.remainders[:, column_shifts == shift].reshape(-1), minlength=1 << shift))
    return np.concatenate(counts).astype("<u4")


@dataclass(frozen=True)
class Denominators:
    """Of what A = base - q - beta a and B = offset - r are made: bases and offsets of each feature, uint32 [5, F], and beta, [5], in
    Montgomery form."""

    bases: np.ndarray
    offsets: np.ndarray
    beta: np.ndarray

    @classmethod
    def of(cls, challenges: Challenges) -> Denominators:
        bases, offsets = (np.stack([extension.constant(each) for each in found], axis=1) for found in (challenges.bases, challenges.offsets))
        return cls(bases, offsets, extension.constant(challenges.beta))
