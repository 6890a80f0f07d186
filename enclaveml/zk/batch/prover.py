"""A rank's prover: bundles of rows in, proofs out, in one long-lived child that uses all of the rank's threads.

Rows whose inputs leave the circuit's range are named before anything is proved; every other row has a witness.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enclaveml.zk.batch.files import KEY, SEED, WEIGHTS
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.programs import PROVER
from enclaveml.zk.batch.integer import quantised
from enclaveml.zk.batch.statement import check_input_key, check_nonce, inputs_of, out_of_range
from enclaveml.zk.interface import Proof, ProofResult, load_circuit
from enclaveml.zk.pool import Pool, Steps
from enclaveml.zk.process import Call, Reply
from enclaveml.zk.scratch import Scratch


class BatchChildProver:
    """See ``interface.Prover``. The circuit's files are checked against its manifest here, once."""

    def __init__(self, folder: Path, children: int, threads: int, scratch: Path | None) -> None:
        self.circuit = load_circuit(folder)
        self._secret = {"weights": WEIGHTS} | ({"seed": SEED} if self.circuit.hides_weights else {})
        self.circuit.check_files((KEY, *self._secret.values()))
        self._key = VerificationKey.from_bytes((self.circuit.folder / KEY).read_bytes())
        self._scratch = Scratch(scratch)
        self._pool: Pool[ProofResult] = Pool(PROVER, children, threads, ahead=children)
        self._serial = 0
        self._running: dict[int, Steps[ProofResult]] = {}

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        return self._pool.pids

    def submit(self, task: int, rows: np.ndarray, timeout_s: float, nonce: bytes, input_key: bytes = b"") -> None:
        self._serial += 1
        order = {"nonce": check_nonce(nonce), "input_key": check_input_key(input_key, self._key)}
        self._running[task] = self._steps(task, np.array(rows), timeout_s, order, f"{self._serial}-inputs")
        self._pool.submit(self._running[task])

    def cancel(self, task: int) -> bool:
        steps = self._running.get(task)
        if steps is None or not self._pool.cancel(steps):
            return False
        del self._running[task]
        return True

    def poll(self) -> list[ProofResult]:
        results = self._pool.poll()
        for result in results:
            self._running.pop(result.task, None)
        return results

    def close(self) -> None:
        self._pool.close()
        self._scratch.close()

    def _steps(self, task: int, rows: np.ndarray, timeout_s: float, order: dict[str, str], name: str) -> Steps[ProofResult]:
        circuit, key = self.circuit, self._key
        try:
            if rows.shape[1:] == circuit.row_shape and (out := out_of_range(quantised(rows, circuit.input_scale), key)):
                return ProofResult(task, None, f"input: {len(out)} of {len(rows)} rows are out of the circuit's range "
                                   f"({key.input_low * 2.0**-circuit.input_scale:g} to {key.input_high * 2.0**-circuit.input_scale:g})",
                                   0.0, 0.0, out)
            x = inputs_of(rows, circuit, key)
            made: Reply = yield Call("prove", {
                "key": str(circuit.folder / KEY), **{name: str(circuit.folder / file) for name, file in self._secret.items()}, **order,
                "inputs": self._scratch.write(name, x.tobytes()),
            }, timeout_s)
            if made.error:
                return ProofResult(task, None, f"prove: {made.error}", 0.0, made.seconds)
            return ProofResult(task, proof_of(made.block, key), "", 0.0, made.seconds)
        except Exception as problem:  # one bundle's failure is not the queue's
            return ProofResult(task, None, str(problem) or type(problem).__name__, 0.0, 0.0)
        finally:
            self._scratch.drop(name)


def proof_of(block: bytes, key: VerificationKey) -> Proof:
    """What the child's ``prove`` answers, as a proof."""
    end = 4 * key.real_rows * key.outputs
    outputs = np.frombuffer(block[:end], "<i4").reshape(key.real_rows, key.outputs)
    return Proof(block[end:], b"", outputs.astype(np.int64))
