"""The lookups of activations and remainders: how often each table entry is used, and the helpers h."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.prove import extension, field
from enclaveml.zk.batch.prove.extension import Element, Extended
from enclaveml.zk.batch.prove.inference import Trace


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
                                      for _ in range(layer.outputs)))


def multiplicities(key: VerificationKey, trace: Trace) -> np.ndarray:
    """uint32: uses of the activation entries, then of the remainders' table of each shift, ascending."""
    counts = [np.bincount((trace.quotients + (1 << key.range_bits)).reshape(-1), minlength=2 << key.range_bits)]
    column_shifts = np.repeat([layer.shift for layer in key.hidden], [layer.outputs for layer in key.hidden])
    for shift in key.shifts:
        counts.append(np.bincount(trace.remainders[:, column_shifts == shift].reshape(-1), minlength=1 << shift))
    return np.concatenate(counts).astype("<u4")


def denominators(trace: Trace, challenges: Challenges) -> tuple[Extended, Extended]:
    """A = alpha - q - beta a and B = alpha - beta^2 s - r: five uint32 [N, F] each, in Montgomery form."""
    q, r, a = (field.to_montgomery(field.from_signed(values))
               for values in (trace.quotients, trace.remainders, trace.activations))
    alpha, beta = extension.constant(challenges.alpha), extension.constant(challenges.beta)
    offsets = np.stack([extension.constant(offset) for offset in challenges.offsets])
    left = [field.subtract(np.full_like(a, alpha[k]), field.multiply(a, beta[k])) for k in range(5)]
    left[0] = field.subtract(left[0], q)
    right = [np.broadcast_to(offsets[:, k], r.shape).copy() for k in range(5)]
    right[0] = field.subtract(right[0], r)
    return tuple(left), tuple(right)


def helpers(left: Extended, right: Extended) -> Extended:
    """h = 1/A + 1/B = (A + B) / (A B)."""
    return extension.multiply(extension.add(left, right), extension.inverse(extension.multiply(left, right)))
