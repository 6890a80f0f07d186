"""A rank's prover: bundles of rows in, proofs out, in persistent children."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from enclaveml.zk.ezkl import field, statement
from enclaveml.zk.ezkl.bench import input_document
from enclaveml.zk.ezkl.files import COMPILED, PK, SETTINGS, SRS, VK
from enclaveml.zk.ezkl.pool import Pool, Steps
from enclaveml.zk.ezkl.process import Call, Reply
from enclaveml.zk.ezkl.scratch import Scratch
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.interface import Proof, ProofResult, load_circuit


class EzklProver:
    """See ``interface.Prover``. The circuit's files are checked against its manifest here, once."""

    def __init__(self, folder: Path, children: int, threads: int, scratch: Path | None) -> None:
        self.circuit = load_circuit(folder)
        self.circuit.check_files((COMPILED, SETTINGS, PK, VK, SRS))
        self._path = {name: str(self.circuit.folder / name) for name in self.circuit.files}
        self._scratch = Scratch(scratch)
        self._pool: Pool[ProofResult] = Pool(children, threads, ahead=children)
        self._serial = 0
        self._running: dict[int, Steps[ProofResult]] = {}

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run (the peak of their memory is in /proc)."""
        return self._pool.pids

    def submit(self, task: int, rows: np.ndarray, timeout_s: float) -> None:
        self._serial += 1
        self._running[task] = self._steps(task, np.array(rows), timeout_s, self._serial)
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

    def _steps(self, task: int, rows: np.ndarray, timeout_s: float, serial: int) -> Steps[ProofResult]:
        """Witness, check of its ranges, proof, and the section that ties the input."""
        names = {part: f"{serial}-{part}" for part in ("input", "witness", "proof", "felts")}
        seconds = {"witness": 0.0, "prove": 0.0}
        try:
            proof = yield from self._prove(rows, timeout_s, names, seconds)
            error = ""
        except Exception as problem:  # one bundle's failure is not the queue's
            proof, error = None, str(problem) or type(problem).__name__
        finally:
            self._scratch.drop(*names.values())
        return ProofResult(task, proof, error, seconds["witness"], seconds["prove"])

    def _prove(
        self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[Proof]:
        circuit, path = self.circuit, self._path
        if rows.shape[1:] != circuit.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, the circuit takes {circuit.row_shape}")
        felts = statement.input_felts(rows, circuit.rows, circuit.input_scale)
        witness_path = str(self._scratch.file(names["witness"]))
        data = self._scratch.write(names["input"], input_document(felts))
        made: Reply = yield Call(
            "witness", {"data": data, "circuit": path[COMPILED], "output": witness_path}, timeout_s
        )
        seconds["witness"] = made.seconds
        _raise_error("witness", made)
        low, high = circuit.settings["lookup_range"]
        if not low <= made.value["min_lookup"] <= made.value["max_lookup"] <= high:
            raise _Failed(  # prove would never return
                f"lookups reach {made.value['min_lookup']}..{made.value['max_lookup']}, "
                f"the circuit's table is {low}..{high}"
            )
        outputs = field.from_felts(made.block).reshape(circuit.rows, circuit.outputs)
        proved: Reply = yield Call(
            "prove",
            {
                "witness": witness_path, "circuit": path[COMPILED], "pk": path[PK], "srs": path[SRS],
                "proof": str(self._scratch.file(names["proof"])),
            },
            timeout_s - made.seconds,
        )
        seconds["prove"] = proved.seconds
        _raise_error("prove", proved)
        section = b""
        if circuit.inputs == "committed":
            section = proved.block[: statement.COMMITMENT_BYTES]
        elif call := tie_call(circuit.inputs, felts, path, self._scratch, names["felts"], timeout_s):
            tied: Reply = yield call
            _raise_error(call.name, tied)
            section = tie_bytes(circuit.inputs, tied.value)
        return Proof(proved.block, section, outputs)


class _Failed(Exception):
    """A step that did not give what the next one needs."""


def _raise_error(step: str, reply: Reply) -> None:
    if reply.error:
        raise _Failed(f"{step}: {reply.error}")
