"""Small masked proofs that the tests share, and provers that lie.

A whole proof has 512 rows at least and takes seconds here; in ``small_sizes`` the protocol's smallest sizes are smaller, so
that one takes 50 ms. What is lost is hiding (155 positions of 64), or with fewer positions soundness: never a rule.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from enclaveml.zk.batch import format as sizes
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.verify import api, masked, opening

from . import messages
from .case import carried
from .masked import MaskedProver, inner
from .network import Network
from .numbers import F

INPUT_KEY = bytes(range(32))
SEED = bytes(range(32, 64))
NONCE = b"job 7, round 3, rank 1, rows 0 to 7"


def small_sizes(patch: pytest.MonkeyPatch, queries: int | None = None) -> None:
    """8 mask rows are enough, 8 rows of multiplicities, 64 masks of rounds; ``queries`` positions."""
    patch.setattr(sizes, "LEAST_MASKS", 8)
    patch.setattr(sizes, "LEAST_TABLE_ROWS", 8)
    for module in (sizes, masked):
        patch.setattr(module, "ROUND_MASKS", 64)
    if queries:
        for module in (opening, messages):
            patch.setattr(module, "QUERIES", queries)


@cache
def network(widths: tuple[int, ...] = (2, 3, 2), shift: int = 3, seed: int = 0) -> Network:
    """Small weights, so that quotients of inputs -8..7 are in -32..31."""
    draw = random.Random(seed)
    weights = [[[draw.randint(-4, 4) if k < inputs + 1 else 0 for _ in range(outputs)] for k in range(inputs + 3)]
               for inputs, outputs in zip(widths, widths[1:])]
    return Network(weights, [shift] * (len(widths) - 2) + [0])


def key_of(found: Network, rows: int = 16, masks: int = 8, range_bits: int = 5) -> VerificationKey:
    return replace(found.key(rows, -8, 7, range_bits), masks=masks)


def rows_of(key: VerificationKey, seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randint(-8, 7) for _ in range(key.width)] for _ in range(key.real_rows)]


def made(kind: type[MaskedProver] = MaskedProver, **attributes: object) -> MaskedProver:
    """A prover of the small case that has proved, with these attributes."""
    key = key_of(network())
    prover = kind(network(), key, NONCE, rows_of(key), INPUT_KEY, SEED)
    for name, value in attributes.items():
        setattr(prover, name, value)
    prover.prove()
    return prover


def verify(prover: MaskedProver, proof: bytes | None = None, known: bool = False) -> None:
    """The verifier on what a prover has proved, or on another proof of it; with its inputs or without."""
    inputs = api.KnownInputs(np.array(prover.x), prover.input_key) if known else None
    api.verify_masked(prover.key, prover.nonce, np.array(prover.y), prover.proof if proof is None else proof, inputs)


class Careless(MaskedProver):
    """Sends what hides nothing: where all of 155 positions of 64 are opened, no masks are enough."""

    def hidden_enough(self) -> bool:
        return True


class Carried(Careless):
    """Carries a lie on: from ``depth`` on it says what the verifier wants to hear instead of the truth.

    1: the layers' parts are what the rounds lead to. 2: the claims are what their rounds lead to. 3: the combinations e are what
    was claimed.
    """

    depth = 0

    def say(self, label: str, values: list[F]) -> list[F]:
        if (told := carried(self, label, values, self.depth)) is not None:
            return told
        if label == "evaluation" and self.depth >= 3 and self.weights:
            return [values[0] + (self.goal - inner(self.weights, values)) * self.weights[0].inverse(), *values[1:]]
        return values

    def open(self, *opened) -> None:
        self.weights = []  # the weights' openings, where nothing is false
        super().open(*opened)
