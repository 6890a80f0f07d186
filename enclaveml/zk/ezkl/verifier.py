"""Rank 0's verifier: statements built from its own rows, checked in children of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from enclaveml.errors import FormatError, ProofError
from enclaveml.zk.ezkl import document, field, statement
from enclaveml.zk.ezkl.files import SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.interface import Circuit, Proof, Verdict
from enclaveml.zk.pool import Pool, Spent, Steps, timed
from enclaveml.zk.process import Call, Reply
from enclaveml.zk.scratch import Scratch
from enclaveml.zk.verdict import compare, rejection, twice

#: A verification takes 5 to 150 ms; one that takes longer than this is a rejection.
TIMEOUT_S = 120.0


class EzklVerifier:
    """See ``interface.Verifier``. Files are checked against the circuit's digests here, once."""

    def __init__(self, circuit: Circuit, processes: int) -> None:
        self.circuit = circuit
        circuit.check_files(self._files())
        self._path = {name: str(circuit.folder / name) for name in circuit.files}
        self._scratch = Scratch()
        self._pool: Pool[Verdict] = Pool(EZKL, processes, 1, ahead=1)
        self._serial = 0

    def _files(self) -> tuple[str, ...]:
        """The files of the circuit's folder that verifying reads."""
        return SETTINGS, VK, VERIFIER_SRS, *((SRS,) if self.circuit.inputs == "committed" else ())

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        return self._pool.pids

    def submit(
        self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray, nonce: bytes = b"",
        input_key: bytes = b"",
    ) -> None:
        """See ``interface.Verifier``; an ezkl proof is bound to no nonce, and none is looked at."""
        self._serial += 1
        self._pool.submit(self._steps(task, np.array(rows), proof, np.array(float_outputs), self._serial))

    def poll(self) -> list[Verdict]:
        return self._pool.poll()

    def close(self) -> None:
        self._pool.close()
        self._scratch.close()

    def _steps(
        self, task: int, rows: np.ndarray, proof: Proof, floats: np.ndarray, serial: int
    ) -> Steps[Verdict]:
        spent = Spent()
        names = f"{serial}-felts", f"{serial}-document"
        try:
            outputs = yield from timed(self._check(rows, proof, names), spent)
        except Exception as problem:  # whatever it is, it is no proof
            return rejection(task, len(rows), self.circuit.outputs, str(problem), spent.seconds, isinstance(problem, ProofError))
        finally:
            self._scratch.drop(*names[self.circuit.inputs == "public":])
        circuit = self.circuit
        proved = field.dequantise(outputs, circuit.output_scale)[: len(rows)]
        return compare(task, proved, floats, circuit.tolerance, spent.seconds)

    def _check(self, rows: np.ndarray, proof: Proof, names: tuple[str, str]) -> Steps[np.ndarray]:
        """The proved outputs (B, D) int64 of a valid proof about these rows; else an exception."""
        circuit = self.circuit
        outputs = self._outputs(rows, proof)
        if circuit.inputs == "public":
            call = self._about_rows(rows, proof, outputs, names[1])
        else:
            call = yield from self._about_tie(rows, proof, outputs, names)
        reply = yield from twice(call)
        if unfit := reply.value.get("unfit"):
            raise FormatError(unfit)
        if reply.error or reply.value.get("valid") is not True:
            raise FormatError(f"verification: {reply.error or 'ezkl.verify returned False'}")
        return outputs

    def _outputs(self, rows: np.ndarray, proof: Proof) -> np.ndarray:
        """The claimed outputs (B, D) int64 of a proof whose sections, and whose rows, have the right form. Raises FormatError."""
        circuit = self.circuit
        outputs = statement.check_sections(proof, circuit.inputs, circuit.rows, circuit.outputs, circuit.proof_bytes)
        if rows.shape[1:] != circuit.row_shape:
            raise FormatError(f"rows of shape {rows.shape[1:]}, the circuit takes {circuit.row_shape}")
        return outputs

    def _own_tie(self, rows: np.ndarray, proof: Proof, path: Mapping[str, str], name: str) -> Steps[tuple[bytes, bytes]]:
        """Rank 0's rows as field elements, and its own commitment to them or hash of them (public inputs: none).

        path: of the files that the inputs' circuit has. Raises FormatError where the proof is tied to other rows, ProofError where
        rank 0's own child makes no tie of its own rows.
        """
        circuit = self.circuit
        felts, own = statement.input_felts(rows, circuit.rows, circuit.input_scale), b""
        if call := tie_call(circuit.inputs, felts, path, self._scratch, name, TIMEOUT_S):
            tied = yield from twice(call)
            if tied.error:
                raise ProofError(f"{call.name}: {tied.error}")
            own = tie_bytes(circuit.inputs, tied.value)
            if own != proof.commitment:
                raise FormatError(f"the input's {call.name} is not that of these rows")
            if circuit.inputs == "committed" and own != proof.computation[: len(own)]:
                raise FormatError("the proof's own commitment is not that of these rows")
        return felts, own

    def _about_rows(self, rows: np.ndarray, proof: Proof, outputs: np.ndarray, name: str) -> Call:
        """Public inputs: the statement is made of the rows themselves, by the child."""
        circuit = self.circuit
        of = {"rows": len(rows), "bundle": circuit.rows, "outputs": circuit.outputs, "values": math.prod(circuit.row_shape),
              "dtype": rows.dtype.str, "scale": circuit.input_scale}
        return self._call("verify_rows", name, statement.pack_rows(rows, outputs, proof.computation), self._path, of=of)

    def _about_tie(self, rows: np.ndarray, proof: Proof, outputs: np.ndarray, names: tuple[str, str]) -> Steps[Call]:
        """Committed or hashed inputs: the statement is made of rank 0's own commitment to, or hash of, its rows."""
        _, own = yield from self._own_tie(rows, proof, self._path, names[0])
        parts = statement.proof_parts(self.circuit.inputs, proof.computation, outputs, digest=own, commitment=own)
        return self._call("verify_parts", names[1], document.pack(*parts), self._path)

    def _call(self, name: str, file: str, packed: bytes, path: Mapping[str, str], **more: object) -> Call:
        return Call(name, {"parts": self._scratch.write(file, packed), "settings": path[SETTINGS], "vk": path[VK],
                           "srs": path[VERIFIER_SRS], **more}, TIMEOUT_S)
