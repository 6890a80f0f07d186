"""Small proofs with hidden weights that the tests share."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from enclaveml.zk.batch import format as sizes
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.verify import api

from . import masked_case
from .hidden import HiddenProver, HiddenWeightsProver, Registered, registered
from .masked_case import INPUT_KEY, NONCE, SEED
from .network import Network

WEIGHT_SEED = bytes(range(64, 96))


def small_sizes(patch: pytest.MonkeyPatch, queries: int) -> None:
    """As ``masked_case.small_sizes``; the key's limits go by the positions."""
    masked_case.small_sizes(patch, queries)
    patch.setattr(sizes, "QUERIES", queries)


@cache
def key_of(network: Network, rows: int = 16, masks: int = 8, range_bits: int = 5, weight_rows: int = 32) -> tuple[VerificationKey, Registered]:
    return registered(network, masked_case.key_of(network, rows, masks, range_bits), weight_rows, WEIGHT_SEED)


class Careless(HiddenProver):
    """Sends what hides too little."""

    def hidden_enough(self) -> bool:
        return True


class CarelessWeights(HiddenWeightsProver):
    def hidden_enough(self) -> bool:
        return True


def made(kind: type[HiddenProver] = Careless, network: Network | None = None, **attributes: object) -> HiddenProver:
    """A prover of the small case that has proved, with these attributes."""
    network = network or masked_case.network()
    key, behind = key_of(network)
    prover = kind(network, key, behind, NONCE, masked_case.rows_of(key), INPUT_KEY, SEED)
    for name, value in attributes.items():
        setattr(prover, name, value)
    prover.prove()
    return prover


def verify(prover: HiddenProver, proof: bytes | None = None, known: bool = False) -> None:
    inputs = api.KnownInputs(np.array(prover.x), prover.input_key) if known else None
    api.verify_masked(prover.key, prover.nonce, np.array(prover.y), prover.proof if proof is None else proof, inputs)
