"""A rank's prover: bundles of rows in, proofs out, in persistent children.

A bundle for which the circuit has no witness is searched for the rows that leave its range, by halving, and
these are named: witnesses are made in a small part of a proof's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Stage:
    """A key that a bundle is proved by, of which a whole circuit has one, a circuit in slices (``slices/prover.py``) several.

    path: of its files, by their names in ``files.py``. lookup: the range of its tables. where: which one it is, behind an error's text.
    """

    path: Mapping[str, str]
    lookup: tuple[int, int]
    where: str = ""


#: Witnesses that are made to find the rows without one; what is not told apart by then is named with them.
TRIALS = 64


class EzklProver:
    """See ``interface.Prover``. The circuit's files are checked against its manifest here, once."""

    def __init__(self, folder: Path, children: int, threads: int, scratch: Path | None) -> None:
        self.circuit = load_circuit(folder)
        self.circuit.check_files(self._files())
        self._stages = self._stages_of()
        self._scratch = Scratch(scratch)
        self._pool: Pool[ProofResult] = Pool(EZKL, children, threads, ahead=children)
        self._serial = 0
        self._running: dict[int, Steps[ProofResult]] = {}
        self._parts: list[ProofResult] = []

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run (the peak of their memory is in /proc)."""
        return self._pool.pids

    def submit(self, task: int, rows: np.ndarray, timeout_s: float, nonce: bytes = b"", input_key: bytes = b"") -> None:
        """See ``interface.Prover``; an ezkl circuit has no place for a nonce, which is left out."""
        self._begin(task, rows, timeout_s, tuple(range(len(self._stages))))

    def _begin(self, task: int, rows: np.ndarray, timeout_s: float, order: tuple[int, ...]) -> None:
        """Queue a bundle whose stages are proved in this order."""
        self._serial += 1
        self._running[task] = self._steps(task, np.array(rows), timeout_s, self._serial, order)
        self._pool.submit(self._running[task])

    def cancel(self, task: int) -> bool:
        steps = self._running.get(task)
        if steps is None or not self._pool.cancel(steps):
            return False
        del self._running[task]
        self._parts = [part for part in self._parts if part.task != task]
        return True

    def poll(self) -> list[ProofResult]:
        results = self._pool.poll()
        for result in results:
            self._running.pop(result.task, None)
        ended = {result.task for result in results}
        self._parts = [part for part in self._parts if part.task not in ended]
        return results

    def poll_slices(self) -> list[ProofResult]:
        """See ``interface.SlicesProverProtocol``; none of a circuit of one stage."""
        parts, self._parts = self._parts, []
        return parts

    def close(self) -> None:
        self._pool.close()
        self._scratch.close()

    def _files(self) -> tuple[str, ...]:
        """The files of the circuit's folder that proving reads."""
        return COMPILED, SETTINGS, PK, VK, SRS

    def _stages_of(self) -> tuple[Stage, ...]:
        """What a bundle is proved by, in order."""
        path = {name: str(self.circuit.folder / name) for name in self.circuit.files}
        return (Stage(path, tuple(self.circuit.settings["lookup_range"])),)

    def _names(self, serial: int) -> dict[str, str]:
        """The scratch files of a bundle."""
        witnesses = (f"witness-{number}" for number in range(len(self._stages)))
        return {part: f"{serial}-{part}" for part in ("input", "proof", "felts", *witnesses)}

    def _steps(self, task: int, rows: np.ndarray, timeout_s: float, serial: int, order: tuple[int, ...]) -> Steps[ProofResult]:
        """Witness, check of its ranges, proof, and the section that ties the input."""
        names = self._names(serial)
        seconds = {"witness": 0.0, "prove": 0.0}
        proof, error, overflow = None, "", ()
        try:
            proof = yield from self._prove(task, rows, timeout_s, names, seconds, order)
        except NoWitness as problem:
            error = str(problem)
            overflow = yield from self._without_witness(rows, timeout_s, names, seconds)
        except Exception as problem:  # one bundle's failure is not the queue's
            error = str(problem) or type(problem).__name__
        finally:
            self._scratch.drop(*names.values())
        return ProofResult(task, proof, error, seconds["witness"], seconds["prove"], overflow)

    def _prove(
        self, task: int, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float], order: tuple[int, ...]
    ) -> Steps[Proof]:
        """The stages' witnesses, each from the outputs of the one before, then their proofs: a child holds one key at a time.

        Each stage's proof but the last one made is given out (``poll_slices``) as it is there.
        """
        circuit = self.circuit
        if rows.shape[1:] != circuit.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, the circuit takes {circuit.row_shape}")
        felts, outputs = yield from self._witness(rows, timeout_s, names, seconds)
        proofs: dict[int, bytes] = {}
        section = b""
        for number in order:
            stage = self._stages[number]
            path = stage.path
            proved: Reply = yield Call(
                "prove",
                {
                    "witness": str(self._scratch.file(names[f"witness-{number}"])), "circuit": path[COMPILED], "pk": path[PK],
                    "srs": path[SRS], "proof": str(self._scratch.file(names["proof"])),
                },
                timeout_s - seconds["witness"] - seconds["prove"],
            )
            seconds["prove"] += proved.seconds
            raise_error(f"prove{stage.where}", proved)
            proofs[number] = proved.block
            if not number:
                section = yield from self._section(proved.block, felts, names, timeout_s)
            if len(proofs) < len(order):
                part = Proof(proved.block, b"" if number else section, outputs)
                self._parts.append(ProofResult(task, part, "", seconds["witness"] if len(proofs) == 1 else 0.0, proved.seconds, slice=number))
        return Proof(b"".join(proofs[number] for number in sorted(proofs)), section, outputs)

    def _section(self, first: bytes, felts: bytes, names: dict[str, str], timeout_s: float) -> Steps[bytes]:
        """What ties a bundle's inputs; ``first`` is the proof of the stage that takes them."""
        if self.circuit.inputs == "committed":
            return first[: statement.COMMITMENT_BYTES]
        call = tie_call(self.circuit.inputs, felts, self._stages[0].path, self._scratch, names["felts"], timeout_s)
        if call is None:
            return b""
        tied: Reply = yield call
        raise_error(call.name, tied)
        return tie_bytes(self.circuit.inputs, tied.value)

    def _witness(
        self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[tuple[bytes, np.ndarray]]:
        """Make every stage's witness, its file in the scratch folder: the input's field elements, outputs (B, D) int64.

        Raises NoWitness where a stage has none for these rows.
        """
        circuit = self.circuit
        try:
            felts = statement.input_felts(rows, circuit.rows, circuit.input_scale)
        except ValueError as error:
            raise NoWitness(f"input: {error}") from error
        values, outputs = felts, np.empty(0, np.int64)
        for number, stage in enumerate(self._stages):
            values, outputs = yield from self._one_witness(number, stage, values, timeout_s, names, seconds)
        return felts, outputs.reshape(circuit.rows, circuit.outputs)

    def _one_witness(
        self, number: int, stage: Stage, values: bytes, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[tuple[bytes, np.ndarray]]:
        """One stage's outputs, as field elements and as int64 (they are in range)."""
        made: Reply = yield Call(
            "witness",
            {
                "data": self._scratch.write(names["input"], input_document(values)),
                "circuit": stage.path[COMPILED], "output": str(self._scratch.file(names[f"witness-{number}"])),
            },
            timeout_s - seconds["witness"],
        )
        seconds["witness"] += made.seconds
        if made.ended:
            raise_error(f"witness{stage.where}", made)
        if made.error:
            raise NoWitness(f"witness{stage.where}: {made.error}")
        low, high = stage.lookup
        if not low <= made.value["min_lookup"] <= made.value["max_lookup"] <= high:
            raise NoWitness(  # prove would never return
                f"lookups reach {made.value['min_lookup']}..{made.value['max_lookup']}, "
                f"the circuit's table is {low}..{high}{stage.where}"
            )
        try:
            return made.block, field.from_felts(made.block)
        except ValueError as error:
            raise NoWitness(f"an output{stage.where}: {error}") from error

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
