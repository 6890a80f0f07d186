"""A results file whose circuit hides its weights, made of the protocol's own proofs: 256 rows of a network 10-3-2 in one proof."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from batch_reference import hidden_case, masked_case
from batch_reference.hidden import HiddenProver, HiddenWeightsProver, registered
from results_case import start

from enclaveml.bundle_envelope import sealed
from enclaveml.input_key import DIGEST, digest, order_key
from enclaveml.journal import Journal
from enclaveml.nonce import nonce_of
from enclaveml.results import build_results
from enclaveml.results_schema import RowStatus
from enclaveml.zk.batch import statement
from enclaveml.zk.batch.files import KEY, SETTINGS, WEIGHTS_PROOF, canonical
from enclaveml.zk.batch.verify.api import proof_bytes
from enclaveml.zk.interface import PADDING, Circuit, Proof

#: The job's input key.
INPUT_KEY = bytes(range(7, 39))

JOB = "name: hidden\ncombine: {strategy: average, input: logits}\nproof: {coverage: 1.0, inputs: committed, strict: true}\nsplit: {strategy: by_capacity}\n"


@cache
def circuit() -> tuple[Circuit, dict[str, bytes]]:
    """The circuit, in no folder, and what a results file has of it."""
    network = masked_case.network((10, 3, 2), 6, 1)
    key, behind = registered(network, masked_case.key_of(network, 512, 256), 512, hidden_case.WEIGHT_SEED)
    weights = HiddenWeightsProver(key, behind, hidden_case.SEED)
    weights.prove()
    settings = {"system": "batch", "protocol": statement.VERSION, "inputs": "committed", "padding": PADDING, "input_scale": 0,
                "output_scale": 0, "row_shape": [10], "dtype": "float32"}
    parts = {"vk": key.to_bytes(), "settings": canonical(settings), "weights_proof": weights.proof}
    files = {name: hashlib.sha256(parts[part]).hexdigest()
             for name, part in ((KEY, "vk"), (SETTINGS, "settings"), (WEIGHTS_PROOF, "weights_proof"))}
    return Circuit(
        system="batch", version=statement.VERSION, circuit_id=statement.circuit_id(key.to_bytes(), settings), model_hash="5a" * 32,
        rows=key.real_rows, outputs=2, row_shape=(10,), dtype="float32", input_scale=0, output_scale=0, tolerance=0.5, inputs="committed",
        inputs_bounded=False, deviation=0.1, agreement=1.0, samples=256, logrows=9, proof_bytes=proof_bytes(key), srs_origin="none",
        settings=settings, measured={}, files=files, folder=Path(), hides_weights=True,
    ), parts


@cache
def proved() -> tuple[np.ndarray, np.ndarray, bytes]:
    """Rows (256, 10) float32 and their outputs (256, 2), and the proof of both for rank 1's first bundle."""
    made, _ = circuit()
    network = masked_case.network((10, 3, 2), 6, 1)
    key, behind = registered(network, masked_case.key_of(network, 512, 256), 512, hidden_case.WEIGHT_SEED)
    nonce = nonce_of("job", "node-1", 1, made.circuit_id, 0, 1, 1, np.arange(256))
    prover = HiddenProver(network, key, behind, nonce, masked_case.rows_of(key), order_key(INPUT_KEY, nonce), hidden_case.SEED)
    prover.prove()
    return np.array(prover.x, np.float32), np.array(prover.y, np.int64), prover.proof


def write(path: Path, change: Callable[[Circuit], Circuit] = lambda made: made) -> Path:
    """The results of the job, stopped after its one proof; ``change``: the circuit as the file has it."""
    made, parts = circuit()
    rows, outputs, proof = proved()
    floats, numbers = outputs.astype(np.float32), np.arange(256)
    made = change(made)
    with_journal = path.with_name(f"{path.name}.journal")
    journal = Journal.create(with_journal)
    journal.append("start", start(256, 2, job=JOB, inputs="committed", outputs=2, model_hash=made.model_hash, dataset_fingerprint="",
                                  versions={DIGEST: digest(INPUT_KEY)}))
    journal.append("circuit", {"circuit_id": made.circuit_id, "manifest": made.manifest()}, **parts)
    journal.append("outputs", {"rank": 1, "attempt": 1, "round": 0}, rows=numbers, outputs=floats)
    envelope = sealed(made, numbers, rows, floats, Proof(proof, b"", outputs), node_id="node-1", job_id="job", round=0, bundle=1, attempt=1)
    journal.append("bundle", {"bundle": 1, "rank": 1, "attempt": 1, "round": 0, "verdict": "verified", "verify_seconds": 0.25,
                              "circuit_id": made.circuit_id}, rows=numbers, status=np.full(256, RowStatus.VERIFIED, np.uint8),
                   proved=outputs.astype(np.float64), deviation=np.zeros(256), argmax_differs=np.zeros(256, bool), envelope=envelope)
    journal.append("end", {"status": "resumable", "exit_code": 75, "message": f"stopped early ({made.caution})", "finished": "2026-01-02T00:00:00Z"})
    journal.close()
    build_results(with_journal, path)
    return path


def without_weights(made: Circuit) -> Circuit:
    """A circuit that does not say that it hides them."""
    return replace(made, hides_weights=False)
