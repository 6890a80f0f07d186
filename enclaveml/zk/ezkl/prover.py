"""A rank's prover: bundles of rows in, proofs out, in persistent children.

A bundle for which the circuit has no witness is searched for the rows that leave its range, by halving, and
these are named: witnesses are made in a small part of a proof's time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enclaveml.zk.ezkl import field, statement
from enclaveml.zk.ezkl.bench import input_document
from enclaveml.zk.ezkl.files import COMPILED, PK, SETTINGS, SRS, VK
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.interface import Proof, ProofResult, load_circuit
from enclaveml.zk.pool import Pool, Steps
from enclaveml.zk.process import Call, Reply
from enclaveml.zk.scratch import Scratch


#: Witnesses that are made to find the rows without one; what is not told apart by then is named with them.
TRIALS = 64


class EzklProver:
    """See ``interface.Prover``. The circuit's files are checked against its manifest here, once."""

    def __init__(self, folder: Path, children: int, threads: int, scratch: Path | None) -> None:
        self.circuit = load_circuit(folder)
        self.circuit.check_files(self._files())
        self._path = {name: str(self.circuit.folder / name) for name in self.circuit.files}
        self._scratch = Scratch(scratch)
        self._pool: Pool[ProofResult] = Pool(EZKL, children, threads, ahead=children)
        self._serial = 0
        self._running: dict[int, Steps[ProofResult]] = {}

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run (the peak of their memory is in /proc)."""
        return self._pool.pids

    def submit(self, task: int, rows: np.ndarray, timeout_s: float, nonce: bytes = b"", input_key: bytes = b"") -> None:
        """See ``interface.Prover``; an ezkl circuit has no place for a nonce, which is left out."""
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

    def _files(self) -> tuple[str, ...]:
        """The files of the circuit's folder that proving reads."""
        return COMPILED, SETTINGS, PK, VK, SRS

    def _names(self, serial: int) -> dict[str, str]:
        """The scratch files of a bundle."""
        return {part: f"{serial}-{part}" for part in ("input", "witness", "proof", "felts")}

    def _steps(self, task: int, rows: np.ndarray, timeout_s: float, serial: int) -> Steps[ProofResult]:
        """Witness, check of its ranges, proof, and the section that ties the input."""
        names = self._names(serial)
        seconds = {"witness": 0.0, "prove": 0.0}
        proof, error, overflow = None, "", ()
        try:
            proof = yield from self._prove(rows, timeout_s, names, seconds)
        except NoWitness as problem:
            error = str(problem)
            overflow = yield from self._without_witness(rows, timeout_s, names, seconds)
        except Exception as problem:  # one bundle's failure is not the queue's
            error = str(problem) or type(problem).__name__
        finally:
            self._scratch.drop(*names.values())
        return ProofResult(task, proof, error, seconds["witness"], seconds["prove"], overflow)

    def _prove(
        self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[Proof]:
        circuit, path = self.circuit, self._path
        if rows.shape[1:] != circuit.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, the circuit takes {circuit.row_shape}")
        felts, outputs = yield from self._witness(rows, timeout_s, names, seconds)
        proved: Reply = yield Call(
            "prove",
            {
                "witness": str(self._scratch.file(names["witness"])), "circuit": path[COMPILED], "pk": path[PK], "srs": path[SRS],
                "proof": str(self._scratch.file(names["proof"])),
            },
            timeout_s - seconds["witness"],
        )
        seconds["prove"] = proved.seconds
        raise_error("prove", proved)
        section = b""
        if circuit.inputs == "committed":
            section = proved.block[: statement.COMMITMENT_BYTES]
        elif call := tie_call(circuit.inputs, felts, path, self._scratch, names["felts"], timeout_s):
            tied: Reply = yield call
            raise_error(call.name, tied)
            section = tie_bytes(circuit.inputs, tied.value)
        return Proof(proved.block, section, outputs)

    def _witness(
        self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[tuple[bytes, np.ndarray]]:
        """Make the witness, its file in the scratch folder: the input's field elements, outputs (B, D) int64.

        Raises NoWitness where the circuit has none for these rows.
        """
        circuit = self.circuit
        try:
            felts = statement.input_felts(rows, circuit.rows, circuit.input_scale)
        except ValueError as error:
            raise NoWitness(f"input: {error}") from error
        made: Reply = yield Call(
            "witness",
            {
                "data": self._scratch.write(names["input"], input_document(felts)),
                "circuit": self._path[COMPILED], "output": str(self._scratch.file(names["witness"])),
            },
            timeout_s,
        )
        seconds["witness"] += made.seconds
        if made.ended:
            raise_error("witness", made)
        if made.error:
            raise NoWitness(f"witness: {made.error}")
        low, high = circuit.settings["lookup_range"]
        if not low <= made.value["min_lookup"] <= made.value["max_lookup"] <= high:
            raise NoWitness(  # prove would never return
                f"lookups reach {made.value['min_lookup']}..{made.value['max_lookup']}, "
                f"the circuit's table is {low}..{high}"
            )
        try:
            outputs = field.from_felts(made.block)
        except ValueError as error:
            raise NoWitness(f"an output: {error}") from error
        return felts, outputs.reshape(circuit.rows, circuit.outputs)

    def _without_witness(
        self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[tuple[int, ...]]:
        """Places of the rows, which together have no witness, that have none by themselves."""
        found: list[int] = []
        parts, trials = [(0, len(rows))], 0
        while parts:
            start, stop = parts.pop()
            if stop - start == 1 or trials >= TRIALS or seconds["witness"] > timeout_s:
                found += range(start, stop)
                continue
            middle = (start + stop) // 2
            whole = []
            for half in ((start, middle), (middle, stop)):
                if half[0] == middle and len(whole) == 1:
                    parts.append(half)  # the fault is in this one, since it is not in the other
                    break
                trials += 1
                try:
                    yield from self._witness(rows[slice(*half)], timeout_s, names, seconds)
                    whole.append(half)
                except NoWitness:
                    parts.append(half)
                except Failed:  # time, memory or a crash: nothing is learnt of these rows
                    trials = TRIALS
                    parts.append((half[0], stop))
                    break
        return tuple(sorted(found))


class Failed(Exception):
    """A step that did not give what the next one needs."""


class NoWitness(Exception):
    """The circuit has no witness for these rows: a value is out of its range."""


def raise_error(step: str, reply: Reply) -> None:
    if reply.error:
        raise Failed(f"{step}: {reply.error}")
