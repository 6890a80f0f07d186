"""A small model, its circuits and helpers, for the tests of real proofs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction, Proof, Verdict

RNG = np.random.default_rng(7)
W1 = RNG.normal(size=(6, 4)).astype(np.float32)
B1 = RNG.normal(size=4).astype(np.float32)
W2 = RNG.normal(size=(4, 3)).astype(np.float32)
ROWS = (RNG.integers(-8, 9, size=(12, 6)) / 8).astype(np.float32)


def model(x, shift=0.0):
    """MLP 6-4-3 with ReLU; ``shift`` gives another model."""
    import jax

    return jax.nn.relu(x @ W1 + B1) @ (W2 + np.float32(shift))


def outputs(rows: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """The model's float outputs."""
    return np.asarray(np.maximum(rows @ W1 + B1, 0) @ (W2 + np.float32(shift)), np.float32)


def function(shift: float = 0.0) -> ModelFunction:
    return ModelFunction(lambda x: model(x, shift), (6,), np.dtype(np.float32), f"test-mlp-{shift}")


@dataclass
class Case:
    """A circuit with one honest proof of ``rows``."""

    circuit: Circuit
    rows: np.ndarray
    floats: np.ndarray
    proof: Proof


def prepare(inputs: str = "public", shift: float = 0.0, **more) -> Circuit:
    request = CircuitRequest(inputs=inputs, scale=8, expected_rows=4, rows_per_proof=4, **more)
    return EzklSystem().prepare(function(shift), ROWS, request)


def drain(worker) -> list:
    """Poll a prover or verifier until nothing is outstanding."""
    found, deadline = [], time.monotonic() + 300
    while worker.outstanding:
        found += worker.poll()
        assert time.monotonic() < deadline, "stuck"
        time.sleep(0.01)
    return found


def prove(circuit: Circuit, rows: np.ndarray) -> Proof:
    prover = EzklSystem().prover(circuit.folder, 1)
    try:
        prover.submit(0, rows, 120)
        (result,) = drain(prover)
    finally:
        prover.close()
    assert result.error == ""
    return result.proof


def verdict(verifier, rows: np.ndarray, proof: Proof, floats: np.ndarray) -> Verdict:
    verifier.submit(3, rows, proof, floats)
    (found,) = drain(verifier)
    assert found.task == 3
    return found


def honest(inputs: str) -> Case:
    circuit = prepare(inputs)
    rows = ROWS[:3]  # one fewer than B: the last row is repeated
    return Case(circuit, rows, outputs(rows), prove(circuit, rows))
