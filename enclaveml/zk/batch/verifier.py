"""Rank 0's verifier: statements built from its own rows and orders, checked in numpy in children of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.zk.batch.files import KEY
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.programs import VERIFIER
from enclaveml.zk.batch.statement import check_input_key, check_nonce, dequantised, inputs_of, outputs_of
from enclaveml.zk.interface import Circuit, Proof, Verdict
from enclaveml.zk.pool import Pool, Spent, Steps, timed
from enclaveml.zk.process import Call
from enclaveml.zk.scratch import Scratch
from enclaveml.zk.verdict import compare, rejection, twice

#: A verification takes some tenths of a second; one that takes longer than this is a rejection.
TIMEOUT_S = 120.0


class BatchVerifier:
    """See ``interface.Verifier``. The key is checked against the circuit's digest here, once."""

    def __init__(self, circuit: Circuit, processes: int) -> None:
        circuit.check_files((KEY,))
        self.circuit = circuit
        self._key = VerificationKey.from_bytes((circuit.folder / KEY).read_bytes())
        self._scratch = Scratch()
        self._pool: Pool[Verdict] = Pool(VERIFIER, processes, 1, ahead=1)
        self._serial = 0

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        return self._pool.pids

    def submit(self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray, nonce: bytes,
               input_key: bytes = b"") -> None:
        self._serial += 1
        order = {"nonce": check_nonce(nonce), "input_key": check_input_key(input_key, self._key)}
        self._pool.submit(self._steps(task, np.array(rows), proof, np.array(float_outputs), order, f"{self._serial}-"))

    def poll(self) -> list[Verdict]:
        return self._pool.poll()

    def close(self) -> None:
        self._pool.close()
        self._scratch.close()

    def _steps(self, task: int, rows: np.ndarray, proof: Proof, floats: np.ndarray, order: dict[str, str],
               prefix: str) -> Steps[Verdict]:
        spent, circuit = Spent(), self.circuit
        try:
            outputs = yield from timed(check(proof, rows, circuit, self._key, order, self._scratch, prefix,
                                             str(circuit.folder / KEY)), spent)
        except Exception as problem:  # whatever it is, it is no proof
            return rejection(task, len(rows), circuit.outputs, str(problem), spent.seconds)
        return compare(task, dequantised(outputs, circuit.output_scale)[: len(rows)], floats, circuit.tolerance, spent.seconds)


def check(proof: Proof, rows: np.ndarray | None, circuit: Circuit, key: VerificationKey, order: Mapping[str, str], scratch: Scratch,
          prefix: str, key_file: str) -> Steps[np.ndarray]:
    """The proved outputs (N, D) int32 of a valid proof about these rows (n, *row_shape) and this order; else an exception.

    rows: None where inputs are committed and nobody has them: then the proof is about some. order: nonce and input_key, hex.
    """
    outputs = outputs_of(proof, circuit)
    names = {part: f"{prefix}{part}" for part in ("inputs", "outputs", "proof")}
    try:
        told = {"key": key_file, "nonce": order["nonce"], "outputs": scratch.write(names["outputs"], outputs.tobytes()),
                "proof": scratch.write(names["proof"], proof.computation)}
        if rows is not None:
            told["inputs"] = scratch.write(names["inputs"], inputs_of(rows, circuit, key).tobytes())
            if key.masks:
                told["input_key"] = order["input_key"]
        reply = yield from twice(Call("verify_masked" if key.masks else "verify", told, TIMEOUT_S))
    finally:
        scratch.drop(*names.values())
    if reply.error or reply.value.get("valid") is not True:
        raise FormatError(f"verification: {reply.error or 'no answer'}")
    return outputs
