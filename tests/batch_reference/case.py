"""The small case that the verifier's tests share, and provers that lie."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from enclaveml.zk.batch.format import P, VerificationKey, Wiring
from enclaveml.zk.batch.verify import api

from .messages import Prover
from .network import Network, inputs
from .numbers import F, eq, evaluate
from .rows import RowsProver
from .weights import WeightsProver

NONCE = b"job 7, round 3, rank 1, rows 0 to 3"


@cache
def network(widths: tuple[int, ...] = (3, 4, 2), shifts: tuple[int, ...] = (6,), seed: int = 0) -> Network:
    return Network.random(list(widths), list(shifts), seed)


@cache
def key(rows: int = 4) -> VerificationKey:
    return network().key(rows)


@cache
def wired() -> Network:
    """Maps of 9 cells and 2 channels: zeros around them, strides, sums with cells left over, one cell of each window, two arrays side by side, residuals of both kinds."""
    wirings = {1: (Wiring(0, (6, 3, 1), (1, 1), (3, 3), (2, 1), (1, 1, 1, 1)),), 2: (Wiring(1, (3, 3, 2), (1, 1), (3, 3), (1, 1), (1, 1, 1, 1)),),
               3: (Wiring(2, (3, 3, 2)), Wiring(0, (3, 6, 1), (1, 2), cell=(0, 1))),
               4: (Wiring(3, (3, 3, 2), (2, 3), (1, 1)), Wiring(1, (3, 3, 2), (1, 1), (3, 2), (1, 2)))}
    return Network.of([(9, 2), (18, 2), (3, 2), (14, 2)], [6, 8, 7, 0], wirings, {2: (0, 5), 3: (1, 3)})


@cache
def wired_key(rows: int = 4) -> VerificationKey:
    return wired().key(rows, range_bits=11)


#: Activations by table: a signed one that is flat at both ends, and one of four numbers.
TANH = tuple(round(255 * math.tanh(q / 20)) for q in range(-64, 64))
STEPS = (-7, 0, 255, -255)


@cache
def tabled() -> Network:
    """Two layers by table, a residual of a table's numbers, a ReLU, and again the first table."""
    found = Network.random([3, 4, 4, 2, 3, 2], [7, 9, 8, 6], seed=4)
    return replace(found, residuals={2: (1, 4)}, tables={1: TANH, 2: STEPS, 4: TANH})


@cache
def tabled_key(rows: int = 4) -> VerificationKey:
    return tabled().key(rows, range_bits=10)


def honest(rows: int = 4, nonce: bytes = NONCE, seed: int = 1) -> RowsProver:
    """A prover that has proved."""
    prover = RowsProver(network(), key(rows), nonce, inputs(rows, 3, seed))
    prover.prove()
    return prover


def verify(prover: RowsProver, proof: bytes | None = None) -> None:
    """The verifier on what a prover has proved, or on another proof for the same statement."""
    api.verify(prover.key, prover.nonce, np.array(prover.x), np.array(prover.y),
               prover.proof if proof is None else proof)


def carried(prover: Prover, label: str, values: list[F], depth: int) -> list[F] | None:
    """What carries a lie on, from ``depth`` 1 the layers' parts, from 2 the claims; None where it is something else that is said."""
    if label == "layers" and depth >= 1:
        return [values[0] + prover.claim - sum(values, F(0)), *values[1:]]
    if label == "claims" and depth >= 2:
        q, a, h, r = values
        none, one = prover.expected(q, a, F(0), r), prover.expected(q, a, F(1), r)
        return [q, a, (prover.claim - none) * (one - none).inverse(), r]
    if label == "product claims" and depth >= 2:
        return [*values[:-1], prover.claim * prover.inner.inverse()]
    return None


class Carried(RowsProver):
    """Carries a lie on: from ``depth`` on it says what the verifier wants to hear instead of the truth.

    1: the layers' parts add up. 2: the claims are what the rounds lead to. 3: the evaluations are the claims.
    """

    depth = 0

    def say(self, label: str, values: list[F]) -> list[F]:
        if (told := carried(self, label, values, self.depth)) is not None:
            return told
        if label == "evaluation" and self.depth >= 3:
            return fitted(values, self.claim, self.point)
        return values


class Forged(Carried):
    """Adds ``change``, by table entry, to the multiplicities."""

    change: dict[int, int] = {}

    def multiplicities(self) -> list[int]:
        counts = super().multiplicities()
        for entry, by in self.change.items():
            counts[entry] = (counts[entry] + by) % P
        return counts


class CarriedWeights(WeightsProver):
    """The same for the weights proof. 1: the sums add up."""

    depth = 0

    def say(self, label: str, values: list[F]) -> list[F]:
        if label == "sums" and self.depth >= 1:
            table = sum(((self.alpha - w).inverse() * m for w, m in zip(range(-128, 128), self.multiplicities())), F(0))
            return [values[0] + table - sum(values, F(0)), *values[1:]]
        if label == "claims" and self.depth >= 2:
            w, _ = values
            factor, one = self.cell
            # factor (g (alpha one - w) - one) + mu g = claim
            return [w, (self.claim + factor * one) * (factor * (self.alpha * one - w) + self.mu).inverse()]
        if label == "evaluation" and self.depth >= 3:
            return fitted(values, self.claim, self.point)
        return values


def fitted(values: list[F], claim: F, point: list[F]) -> list[F]:
    """The vector with its first entry moved so that it evaluates to the claim."""
    return [values[0] + (claim - evaluate(values, point)) * eq(point, 0).inverse(), *values[1:]]
