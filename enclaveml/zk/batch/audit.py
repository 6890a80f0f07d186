"""Verifying batch proofs for somebody who trusts neither workers nor aggregator, from keys in a results file.

Needs numpy and h5py: no SRS, no ezkl, no JAX. The statement is rebuilt as rank 0's verifier does it, with the inputs that the file shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enclaveml.errors import FormatError, ProofError
from enclaveml.results_reader import CircuitKeys
from enclaveml.zk import process
from enclaveml.zk.auditing import Checked
from enclaveml.zk.batch import statement
from enclaveml.zk.batch.files import KEY, SETTINGS, WEIGHTS_PROOF, canonical
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.programs import VERIFIER
from enclaveml.zk.batch.verifier import TIMEOUT_S, check
from enclaveml.zk.batch.verify.api import proof_bytes, weights_proof_bytes
from enclaveml.zk.interface import PADDING, Circuit, Proof, circuit_from_manifest
from enclaveml.zk.pool import Pool, Steps
from enclaveml.zk.scratch import Scratch

#: Longest time (s) for checking that the weights are int8.
WEIGHTS_S = 600.0


@dataclass(frozen=True)
class BatchStatement:
    """What batch proofs of one circuit are checked against."""

    circuit: Circuit
    key: VerificationKey


class BatchAudit:
    """See ``auditing.AuditSystem``."""

    def statement(self, circuit_id: str, keys: CircuitKeys) -> BatchStatement:
        """Raises FormatError where the id does not follow from the keys, the manifest says anything else than they, or the proof
        that the weights are int8 does not hold."""
        found = _statement(circuit_id, keys)
        with contextlib.closing(Scratch()) as scratch, contextlib.closing(process.Child(VERIFIER)) as child:
            try:
                process.wait(child, "verify_weights", WEIGHTS_S, key=scratch.write("key", keys.vk),
                             proof=scratch.write("proof", keys.weights_proof))
            except ProofError as error:
                raise FormatError(f"circuit {circuit_id[:16]}: that its weights are int8 is not proved: {error}") from error
        return found

    def input_limit(self, wanted: BatchStatement) -> float | None:
        """None: inputs are public, and whoever verifies sees their range, or committed, and any numbers modulo p."""
        return None

    def auditor(self, wanted: BatchStatement, processes: int, data: bool, srs: Path | None,
                progress: Callable[[str], None]) -> BatchAuditor:
        """An auditor; neither data nor SRS make a difference to how it is set up."""
        return BatchAuditor(wanted, processes)

    def version(self) -> str:
        """The protocol's version."""
        return statement.VERSION


def _statement(circuit_id: str, keys: CircuitKeys) -> BatchStatement:
    circuit = circuit_from_manifest(keys.manifest, Path(circuit_id))
    try:
        key = VerificationKey.from_bytes(keys.vk)
        settings = json.loads(keys.settings)
        if canonical(settings) != keys.settings or set(settings) != {
                "system", "protocol", "inputs", "padding", "input_scale", "output_scale", "row_shape", "dtype"}:
            raise ValueError("settings are not in their one encoding")
        found = statement.circuit_id(keys.vk, settings)
        width = int(np.prod(settings["row_shape"], dtype=np.int64))
        said = {
            "system": ("batch", circuit.system, settings["system"]),
            "version": (statement.VERSION, circuit.version, settings["protocol"]),
            "circuit_id": (circuit_id, circuit.circuit_id),
            "inputs": ("committed" if key.masks else "public", circuit.inputs, settings["inputs"]),
            "hides_weights": (key.weight_rows > 0, circuit.hides_weights),
            "padding": (PADDING, settings["padding"]),
            "rows": (key.real_rows, circuit.rows),
            "outputs": (key.outputs, circuit.outputs),
            "row_shape": (settings["row_shape"], list(circuit.row_shape)),
            "inputs of a row": (key.width, width),
            "dtype": (settings["dtype"], circuit.dtype),
            "input_scale": (settings["input_scale"], circuit.input_scale),
            "output_scale": (settings["output_scale"], circuit.output_scale),
            "inputs_bounded": (False, circuit.inputs_bounded),
            "srs_origin": ("none", circuit.srs_origin),
            "proof_bytes": (proof_bytes(key), circuit.proof_bytes),
            "weights_proof": (weights_proof_bytes(key), len(keys.weights_proof)),
            KEY: (_sha(keys.vk), circuit.files.get(KEY)),
            SETTINGS: (_sha(keys.settings), circuit.files.get(SETTINGS)),
            WEIGHTS_PROOF: (_sha(keys.weights_proof), circuit.files.get(WEIGHTS_PROOF)),
        }
        scales = settings["input_scale"], settings["output_scale"]
        ranged = all(type(s) is int and abs(s) <= 1000 for s in scales) and circuit.tolerance >= 0
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise FormatError(f"circuit {circuit_id[:16]}: its key or settings are not those of a batch circuit: {error}") from error
    if found != circuit_id:
        raise FormatError(f"circuit {circuit_id[:16]}: its key and settings have the id {found[:16]}")
    for name, (wanted, *claims) in said.items():
        for claimed in claims:
            if wanted != claimed:
                raise FormatError(f"circuit {circuit_id[:16]}: {name} is {claimed!r}, where its key and settings give {wanted!r}")
    if not ranged:
        raise FormatError(f"circuit {circuit_id[:16]}: a scale or the tolerance is out of range")
    return BatchStatement(circuit, key)


class BatchAuditor:
    """See ``auditing.Auditor``."""

    def __init__(self, wanted: BatchStatement, processes: int) -> None:
        self.statement = wanted
        self._scratch = Scratch()
        self._key = self._scratch.write(KEY, wanted.key.to_bytes())
        self._pool: Pool[Checked] = Pool(VERIFIER, processes, 1, ahead=processes)
        self._serial = 0

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    def submit(self, task: int, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, nonce: bytes,
               input_key: bytes = b"") -> None:
        self._serial += 1
        self._pool.submit(self._steps(task, proof, shown, owned, nonce, input_key, f"{self._serial}-"), ready=True)

    def wait(self, seconds: float) -> None:
        self._pool.wait(seconds)

    def poll(self) -> list[Checked]:
        return self._pool.poll()

    def close(self) -> None:
        self._pool.close()
        self._scratch.close()

    def _steps(self, task: int, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, nonce: bytes,
               input_key: bytes, prefix: str) -> Steps[Checked]:
        started, error, (circuit, key) = time.monotonic(), "", (self.statement.circuit, self.statement.key)
        try:
            order, rows = {"nonce": statement.check_nonce(nonce)}, shown
            if key.masks:  # nobody but the owner has rows to show
                rows = owned
                if rows is not None:
                    order["input_key"] = statement.check_input_key(input_key, key)
            elif shown is None:
                raise FormatError("its input values are public, and not in the file")
            elif owned is not None and not np.array_equal(
                    statement.inputs_of(owned, circuit, key), statement.inputs_of(shown, circuit, key)):
                raise FormatError("its rows are not those of the inputs given")
            yield from check(proof, rows, circuit, key, order, self._scratch, prefix, self._key)
        except Exception as problem:  # whatever it is, it is no proof
            error = str(problem) or repr(problem)
        return Checked(task, error, owned is not None and not error, time.monotonic() - started)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
