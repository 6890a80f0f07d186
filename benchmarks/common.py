"""What every benchmark needs: the machine and versions, contenders taken in turns, a report.

A contender proves some rows, has its proofs verified and compares the proved outputs with the float
model, all inside its timed turn; a wrong result ends the benchmark. Turns of all contenders are
interleaved, so that a machine that others use slows all alike, and the best turn of each counts.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.machine import REPORTS, machine
from enclaveml.zk.interface import VERIFIED, Circuit
from enclaveml.zk.systems import system_of


class WrongResult(Exception):
    """A proof that does not verify, outputs further from the float model than allowed, or rows that came back changed."""


@dataclass(frozen=True)
class Turn:
    """One timed turn: rows proved and verified, wall and CPU seconds, largest deviation from float."""

    rows: int
    seconds: float
    cpu_seconds: float
    deviation: float
    load: float
    verify_seconds: float = 0.0


@dataclass
class Result:
    """A contender's turns. Rates are of its best turn; memory is the peak of all its provers together."""

    name: str
    detail: str
    turns: list[Turn] = field(default_factory=list)
    peak_bytes: int = 0
    setup_seconds: float = 0.0

    @property
    def row_seconds(self) -> float:
        return min(turn.seconds / turn.rows for turn in self.turns)

    @property
    def row_cpu_seconds(self) -> float:
        return min(turn.cpu_seconds / turn.rows for turn in self.turns)

    @property
    def row_verify_seconds(self) -> float:
        return min(turn.verify_seconds / turn.rows for turn in self.turns)

    @property
    def deviation(self) -> float:
        return max(turn.deviation for turn in self.turns)


class Contender(Protocol):
    """Something that proves rows; ``turn`` times one round of it, or is None where it sits this one out."""

    result: Result

    def turn(self, round_number: int) -> Turn | None: ...

    def close(self) -> None: ...


class Data:
    """Rows (N, *row_shape) float32 and the float model's outputs (N, D), dealt out in turn, over and over."""

    def __init__(self, rows: np.ndarray, truth: np.ndarray) -> None:
        self.rows, self.truth, self._next = rows, truth, 0

    def deal(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(self._next, self._next + count) % len(self.rows)
        self._next += count
        return self.rows[index], self.truth[index]


def _held(name: str, proved: np.ndarray, truth: np.ndarray, limit: float) -> float:
    """The largest deviation. Raises WrongResult above ``limit``."""
    deviation = float(np.abs(proved - truth).max())
    if not deviation <= limit:
        raise WrongResult(f"{name}: deviation {deviation:.3g}, allowed {limit:.3g}")
    return deviation


class Documented:
    """ezkl as its documentation shows (``documented.py``), ``rows_a_turn`` rows in the first ``rounds``."""

    def __init__(
        self, name: str, model: bytes, data: Data, calibrate: bool, rows_a_turn: int, rounds: int,
        limit: float,
    ) -> None:
        self.data, self.rows_a_turn, self.rounds, self.limit = data, rows_a_turn, rounds, limit
        self._folder = tempfile.TemporaryDirectory(prefix="enclaveml-benchmark-", dir=_room())
        (Path(self._folder.name) / "model.onnx").write_bytes(model)
        self._start()
        samples = [row.ravel().tolist() for row in data.rows[:20].astype(float)]
        made = self._call("set_up", 1800, model="model.onnx", samples=samples, calibrate=calibrate)
        self.scale = made["scale"]
        args = made["run_args"]
        detail = (
            f"logrows {made['logrows']}, scale {args['input_scale']}, decomposition "
            f"{args['decomp_base']}^{args['decomp_legs']}, key {made['key_bytes'] / 1e6:.0f} MB"
        )
        self.result = Result(name, detail, setup_seconds=made["seconds"])
        self.close_process()
        self._start()  # a fresh one, whose peak memory is that of proving

    def _start(self) -> None:
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.documented"], cwd=self._folder.name, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )

    def _call(self, name: str, timeout_s: float, **args: Any) -> Any:
        self._process.stdin.write(json.dumps({"call": name, "args": args}) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise WrongResult(f"{name} took longer than {timeout_s:g} s")
        answer = json.loads(self._process.stdout.readline() or '{"error": "the process ended"}')
        if "error" in answer:
            raise WrongResult(f"{name}: {answer['error']}")
        return answer["value"]

    def witnessed_deviation(self, count: int) -> float:
        """The largest deviation of the witnesses of the first ``count`` rows: the accuracy it offers."""
        rows, truth = self.data.rows[:count], self.data.truth[:count]
        found = [
            self._call("outputs", 120, row=row.ravel().tolist(), scale=self.scale) for row in rows.astype(float)
        ]
        return float(np.abs(np.array(found) - truth).max())

    def turn(self, round_number: int) -> Turn | None:
        if round_number >= self.rounds:
            return None
        rows, truth = self.data.deal(self.rows_a_turn)
        load = os.getloadavg()[0]
        found = [
            self._call("prove", 900, row=row.ravel().tolist(), scale=self.scale) for row in rows.astype(float)
        ]
        if not all(one["valid"] for one in found):
            raise WrongResult(f"{self.result.name}: a proof does not verify")
        deviation = _held(self.result.name, np.array([one["outputs"] for one in found]), truth, self.limit)
        self.result.peak_bytes = self._call("peak", 60)["bytes"]
        seconds, cpu = (sum(one[name] for one in found) for name in ("seconds", "cpu_seconds"))
        return Turn(len(rows), seconds, cpu, deviation, load)

    def close_process(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.close_process()
        self._folder.cleanup()


class Planned:
    """EnclaveML's planned circuit: a full bundle on each core, verified against rank 0's own statement."""

    def __init__(self, name: str, circuit: Circuit, data: Data, children: int, limit: float, warm: bool = True) -> None:
        self.circuit, self.data, self.children, self.limit = circuit, data, children, limit
        slices = [each["settings"] for each in circuit.settings.get("slices", ())]
        layouts = ("slice after slice: " if slices else "") + "; ".join(map(_layout, slices or [circuit.settings]))
        detail = (f"{circuit.rows} rows a proof, logrows {circuit.logrows}, {layouts}, key"
                  f"{'s' if slices else ''} {circuit.measured['key_bytes'] / 1e6:.0f} MB")
        self.result = Result(name, detail, setup_seconds=circuit.measured["setup_seconds"])
        system = system_of(circuit.system)
        self._prover = system.prover(circuit.folder, children)
        self._verifier = system.verifier(circuit)
        if warm:
            self._turn(1)  # importing ezkl and reading the key for the first time are not timed

    def turn(self, round_number: int) -> Turn:
        return self._turn(self.circuit.rows)

    def _turn(self, count: int) -> Turn:
        dealt = [self.data.deal(count) for _ in range(self.children)]
        pids = self._prover.pids
        load, used, started = os.getloadavg()[0], _cpu(pids), time.monotonic()
        for task, (rows, _) in enumerate(dealt):
            self._prover.submit(task, rows, 900)
        deviation, done, verifying = 0.0, 0, 0.0
        while done < len(dealt):
            for made in self._prover.poll():
                if made.proof is None:
                    raise WrongResult(f"{self.result.name}: {made.error}")
                rows, truth = dealt[made.task]
                self._verifier.submit(made.task, rows, made.proof, truth.astype(np.float32))
            for verdict in self._verifier.poll():
                if (verdict.status != VERIFIED).any():
                    raise WrongResult(f"{self.result.name}: {verdict.text}")
                held = _held(self.result.name, verdict.proved, dealt[verdict.task][1], self.limit)
                deviation, done, verifying = max(deviation, held), done + 1, verifying + verdict.seconds
            time.sleep(0.005)
        seconds = time.monotonic() - started
        self.result.peak_bytes = sum(_peak(pid) for pid in self._prover.pids)
        return Turn(count * self.children, seconds, _cpu(self._prover.pids) - used, deviation, load, verifying)

    def close(self) -> None:
        self._prover.close()
        self._verifier.close()


def _layout(used: Mapping[str, Any]) -> str:
    return (f"scales {used['input_scale']}+{used['param_scale']}, decomposition {used['decomp_base']}^{used['decomp_legs']}, columns "
            f"{used['num_inner_cols']}x{used['blocks']}")


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds of running processes so far (proc(5): utime and stime, in clock ticks)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def _room() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def take_turns(contenders: Sequence[Contender], rounds: int) -> None:
    """``rounds`` rounds of every contender in turn, each turn told as it ends."""
    for number in range(rounds):
        for contender in contenders:
            turn = contender.turn(number)
            if turn is None:
                continue
            contender.result.turns.append(turn)
            print(
                f"round {number + 1}: {contender.result.name}: {turn.rows} rows in {turn.seconds:.2f} s "
                f"({turn.cpu_seconds:.2f} CPU s), {turn.seconds / turn.rows:.4f} s a row, load {turn.load:.1f}",
                flush=True,
            )


def report(name: str, what: str, results: Sequence[Result], baseline: Result, goals: dict[str, float]) -> str:
    """Write the report as JSON and Markdown, and return the Markdown.

    ``goals`` maps a contender's name to the ratio of rows a second, against ``baseline``, to reach.
    """
    here = machine()
    command = " ".join([Path(sys.executable).name, "-m", f"benchmarks.{name}", *sys.argv[1:]])
    table = []
    for result in results:
        ratio = baseline.row_seconds / result.row_seconds
        table.append({
            **asdict(result), "row_seconds": result.row_seconds, "row_cpu_seconds": result.row_cpu_seconds,
            "row_verify_seconds": result.row_verify_seconds,
            "deviation": result.deviation, "ratio": ratio, "goal": goals.get(result.name),
            "ratio_cpu": baseline.row_cpu_seconds / result.row_cpu_seconds,
        })
    document = {"benchmark": name, "what": what, "command": command, "machine": here, "results": table}
    lines = [
        f"# {name}", "", what, "",
        f"`{command}` on {here['cores']} cores of {here['cpu']}, {here['memory_gb']} GB; "
        + ", ".join(f"{key} {here[key]}" for key in ("python", "ezkl", "jax", "flax", "jax2onnx")) + ".", "",
        "| contender | rows proved | s a row | CPU s a row | times the first | goal | by CPU s | verifying, ms a row | "
        "peak memory | deviation | load | settings |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        loads = [turn["load"] for turn in row["turns"]]
        goal = f"{row['goal']:g}" if row["goal"] else ""
        verifying = f"{1000 * row['row_verify_seconds']:.2g}" if row["row_verify_seconds"] else ""
        lines.append(
            f"| {row['name']} | {sum(turn['rows'] for turn in row['turns'])} | {row['row_seconds']:.4f} | "
            f"{row['row_cpu_seconds']:.4f} | {row['ratio']:.1f} | {goal} | {row['ratio_cpu']:.1f} | {verifying} | "
            f"{row['peak_bytes'] / 1e9:.2f} GB | {row['deviation']:.2g} | "
            f"{min(loads):.1f}-{max(loads):.1f} | {row['detail']} |"
        )
    lines += [
        "", "Witness, proof and verification are timed; the best turn of each counts. Every proof was verified "
        "and every proved output held against the float model inside the timed turns. Load is the machine's at "
        "the start of the turns: above 2, others were using its cores.", "",
    ]
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines)
    (REPORTS / f"{name}.md").write_text(text, encoding="utf-8")
    return text
