"""The lookups of activations and remainders: how often each table entry is used, and the helpers h."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.prove import extension, kernels
from enclaveml.zk.batch.prove.extension import Element, Extended
from enclaveml.zk.batch.prove.inference import Trace
from enclaveml.zk.batch.prove.parallel import Pool


@dataclass(frozen=True)
class Challenges:
    """alpha and beta of the lookups, and for every hidden feature alpha - beta^2 s: F elements."""

    alpha: Element
    beta: Element
    offsets: tuple[Element, ...]

    @classmethod
    def of(cls, key: VerificationKey, alpha: Element, beta: Element) -> Challenges:
        square = extension.times(beta, beta)
        offsets = [extension.minus(alpha, extension.times(square, extension.lift(layer.shift))) for layer in key.hidden]
        return cls(alpha, beta, tuple(offset for offset, layer in zip(offsets, key.hidden, strict=True)
                                      for _ in range(layer.features)))


def multiplicities(key: VerificationKey, trace: Trace) -> np.ndarray:
    """uint32: uses of the activation entries, then of the remainders' table of each shift, ascending."""
    counts = [np.bincount((trace.quotients + (1 << key.range_bits)).reshape(-1), minlength=2 << key.range_bits)]
    column_shifts = np.repeat([layer.shift for layer in key.hidden], [layer.features for layer in key.hidden])
    for shift in key.shifts:
        counts.append(np.bincount(trace.remainders[:, column_shifts == shift].reshape(-1), minlength=1 << shift))
    return np.concatenate(counts).astype("<u4")


@dataclass(frozen=True)
class Helpers:
    """A, B and h of all rows: lists of chunks, five uint32 [H, F] each in Montgomery form."""

    left: list[Extended]
    right: list[Extended]
    helpers: list[Extended]


def helpers(trace: Trace, challenges: Challenges, chunk: int, threads: Pool) -> Helpers:
    """A = alpha - q - beta a, B = alpha - beta^2 s - r and h = 1/A + 1/B = (A + B) / (A B), chunk by chunk."""
    alpha, beta = extension.constant(challenges.alpha), extension.constant(challenges.beta)
    offsets = np.stack([extension.constant(offset) for offset in challenges.offsets], axis=1)

    def of_rows(start: int) -> tuple[Extended, Extended, Extended]:
        rows = slice(start, start + chunk)
        left, right = kernels.denominators(trace.quotients[rows], trace.remainders[rows], trace.activations[rows],
                                           alpha, beta, offsets)
        others, inverse = kernels.inverted(kernels.multiply(left, right))
        return left, right, kernels.scale(kernels.multiply(kernels.add(left, right), others), inverse)

    return Helpers(*map(list, zip(*threads.map(of_rows, range(0, len(trace.quotients), chunk)), strict=True)))
