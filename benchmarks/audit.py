"""``python -m benchmarks.audit [RESULTS]``: what ``enclaveml audit`` checks a second beside bare ``ezkl.verify`` loops.

The file is made from a finished job's: its proofs, over and over, each copy about rows of its own, so
that it has as many proofs as asked for without proving for hours. Both sides verify the same proofs in as many
processes as cores, in turns; a proof that does not verify, or an audit that finds fault, ends the
benchmark. Timed of the audit is all that a user waits for, from the start of the program to its exit; of
the loops, verification alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WrongResult
from enclaveml import hdf5
from enclaveml.audit_bundle import limits_of
from enclaveml.audit_rows import job_of
from enclaveml.combined import Combining
from enclaveml.envelope import decode, encode, input_hash
from enclaveml.journal import Journal
from enclaveml.results import build_results, read_results
from enclaveml.results_reader import CircuitKeys, Results, StoredProof
from enclaveml.results_schema import RowStatus
from enclaveml.zk.ezkl import statement
from enclaveml.zk.interface import circuit_from_manifest

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.9

# A bare loop: reads the names of the proof documents, says so, then verifies at a word.
LOOP = """
import json, sys, time
import ezkl
given = json.load(sys.stdin)
print("ready", flush=True)
open(given["go"]).read()
started, used = time.perf_counter(), time.process_time()
for proof in given["proofs"]:
    assert ezkl.verify(proof, given["settings"], given["vk"], given["srs"], False) is True, proof
print(time.perf_counter() - started, time.process_time() - used)
"""

# The audit as a user starts it, and its own peak memory (Linux: kilobytes).
AUDIT = """
import resource, sys
from enclaveml.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "jobs/digits/results.h5",
                        help="a finished job's file with public inputs, all rows verified (default: the digits job's)")
    parser.add_argument("--proofs", type=int, default=1000, help="proofs in the file that is audited (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: 3)")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="enclaveml-benchmark-", dir=_room()) as folder:
        place = Path(folder)
        small, large = max(1, args.proofs // 8), args.proofs
        files, sizes = {}, (small, large)
        for size in sizes:
            path, count = grown(args.results, place / f"{size}.h5", size)
            files[count] = path
        small, large = sorted(files)[0], sorted(files)[-1]
        bare, audited, peaks = [], [], {}
        for number in range(args.rounds):
            load = os.getloadavg()[0]
            bare.append(loops(files[large], place, cores))
            *spent, peaks[large] = audit(files[large])
            audited.append(tuple(spent))
            by_clock, by_cpu = (bare[-1][i] / audited[-1][i] for i in (0, 1))
            print(f"round {number + 1}: {cores} bare loops {large / bare[-1][0]:.1f} proofs/s, {1e3 * bare[-1][1] / large:.1f} "
                  f"CPU ms a proof; audit {large / audited[-1][0]:.1f} and {1e3 * audited[-1][1] / large:.1f}: ratio "
                  f"{by_clock:.3f} by the clock, {by_cpu:.3f} by CPU time, load {load:.1f}", flush=True)
        peaks[small] = audit(files[small])[2]
    by_clock, by_cpu = (min(one[i] for one in bare) / min(one[i] for one in audited) for i in (0, 1))
    print(f"{large} proofs on {cores} cores, best of {args.rounds}: {by_clock:.3f} of the bare rate by the clock, {by_cpu:.3f} by "
          f"CPU time (goal {GOAL}; with a load above {cores} others were using the cores, and only CPU time compares)")
    print("peak memory of the audit: " + ", ".join(f"{peak / 1e6:.1f} MB at {n} proofs" for n, peak in sorted(peaks.items())))


def grown(source: Path, out: Path, proofs: int) -> tuple[Path, int]:
    """A results file with at least ``proofs`` proofs: those of ``source``, each repeat about rows of its own."""
    with read_results(source) as results:
        if results.attribute("inputs") != "public" or (results.row("status") != RowStatus.VERIFIED).any():
            raise WrongResult(f"{source}: its inputs are not public, or not all of its rows are verified")
        chosen = results.row("bundle")
        bundles = [results.proof(i) for i in np.unique(chosen).tolist()]
        keys = {i: results.circuit(i) for i in results.circuit_ids}
        copies = -(-proofs // len(bundles))
        job = job_of(results)
        n = results.n_rows
        journal = Journal.create(out.with_suffix(".journal"))
        journal.append("start", _start(results, n * copies))
        for circuit_id, key in keys.items():
            journal.append("circuit", {"circuit_id": circuit_id, "manifest": dict(key.manifest)}, vk=key.vk,
                           settings=key.settings, srs=key.srs)
        for number in range(copies * len(bundles)):
            copy, at = divmod(number, len(bundles))
            _append(journal, results, keys, bundles[at], copy * n, number + 1)
        journal.append("round", {"counter": 1, "start": 0, "rows": n * copies})
        journal.append("end", {"status": "complete", "exit_code": 0, "message": "", "finished": ""})
        journal.close()
        build_results(journal.path, out, combined=lambda made: _combined(made, job), inputs=_Repeated(results, copies))
    return out, copies * len(bundles)


def _combined(results: Results, job: Mapping[str, Any]) -> dict[str, np.ndarray]:
    combining = Combining(job["combine"]["strategy"], job["combine"]["input"], results.n_outputs, False)
    n = results.n_rows
    for start in range(0, n, 1 << 14):
        proved = results.proved_outputs(start, min(n, start + (1 << 14)))
        combining.add(proved[:, None], np.ones((len(proved), 1)), np.ones((len(proved), 1), bool))
    return combining.result()


def _start(results: Results, rows: int) -> dict[str, object]:
    """The start record of the grown job: its data are the source's, repeated; nothing is combined."""
    names = ("job", "job_given", "inputs", "strategy", "model_hash", "started")
    return {name: results.attribute(name) for name in names} | {
        "versions": results.versions, "dataset_fingerprint": "", "rows": rows, "outputs": results.n_outputs,
        "ranks": [{name: line[name] for name in ("rank", "node_id", "host", "device", "memory_gb")}
                  for line in results.ranks if line["session"] == 0]}


def _append(journal: Journal, results: Results, keys: Mapping[str, CircuitKeys], bundle: StoredProof, shift: int,
            number: int) -> None:
    circuit = circuit_from_manifest(keys[bundle.circuit_id].manifest, Path())
    old = decode(bundle.envelope, limits_of(circuit))
    rows = bundle.rows + shift
    shown = results.input_rows(bundle.rows)
    new = dataclasses.replace(old, rows=rows, bundle=number, round=0, attempt=1,
                              input_hash=input_hash("public", shown))
    journal.append("outputs", {"rank": bundle.rank, "attempt": 1, "round": 0}, rows=rows, outputs=old.outputs)
    take = {name: np.asarray(results.row(name))[bundle.rows] for name in ("deviation", "argmax_differs")}
    journal.append(
        "bundle",
        {"bundle": number, "rank": bundle.rank, "attempt": 1, "round": 0, "circuit_id": bundle.circuit_id,
         "verdict": "", "verify_seconds": 0.0},
        rows=rows, status=np.full(len(rows), RowStatus.VERIFIED, np.uint8),
        proved=results.take("proved_outputs", bundle.rows), deviation=take["deviation"],
        argmax_differs=take["argmax_differs"].astype(bool), envelope=encode(new))


class _Repeated:
    """A results file's inputs, several times over, as ``build_results`` takes a dataset."""

    def __init__(self, results: Results, copies: int) -> None:
        self._results, self._copies = results, copies
        self.rows = results.n_rows * copies
        self.row_shape, self.dtype = results.inputs.shape[1:], results.inputs.dtype
        shapes = json.loads(hdf5.get_attribute(results.inputs, "parts", str))
        self.parts = [_Part(tuple(shape)) for shape in shapes]

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        every = np.arange(self._results.n_rows)
        for copy in range(self._copies):
            yield copy * len(every), self._results.input_rows(every)


@dataclasses.dataclass(frozen=True)
class _Part:
    row_shape: tuple[int, ...]


def loops(path: Path, place: Path, cores: int) -> tuple[float, float]:
    """Wall seconds, from the word go to the slowest's end, and CPU seconds of ``cores`` bare loops over a file's proofs."""
    with read_results(path) as results:
        keys = {i: results.circuit(i) for i in results.circuit_ids}
        (circuit_id,) = keys
        circuit = circuit_from_manifest(keys[circuit_id].manifest, Path())
        for name, data in (("vk", keys[circuit_id].vk), ("settings", keys[circuit_id].settings), ("srs", keys[circuit_id].srs)):
            (place / name).write_bytes(data)
        proofs = []
        for number in range(results.n_proofs):
            stored = results.proof(number)
            envelope = decode(stored.envelope, limits_of(circuit))
            felts = statement.input_felts(results.input_rows(stored.rows), circuit.rows, circuit.input_scale)
            document = statement.proof_document("public", envelope.computation, envelope.consistency.proved, felts=felts)
            proofs.append(place / f"proof-{number}")
            proofs[-1].write_text(document)
    env = {**os.environ, "RAYON_NUM_THREADS": "1"}
    processes = []
    for core in range(cores):
        go = place / f"go-{core}"
        go.unlink(missing_ok=True)
        os.mkfifo(go)
        process = subprocess.Popen([sys.executable, "-c", LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        process.stdin.write(json.dumps({"go": str(go), "proofs": [str(p) for p in proofs[core::cores]],
                                        **{name: str(place / name) for name in ("vk", "settings", "srs")}}))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        processes.append((process, go))
    for _, go in processes:
        go.write_text("go")
    slowest = used = 0.0
    for process, _ in processes:
        said = process.stdout.read().strip()
        if process.wait() != 0:
            raise WrongResult("a bare loop failed: a proof does not verify")
        seconds, cpu = map(float, said.split())
        slowest, used = max(slowest, seconds), used + cpu
    for proof in proofs:
        proof.unlink()
    return slowest, used


def audit(path: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds with its children, and peak bytes of one audit, as a program of its own.

    It must check every proof and find no fault.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    before, started = _children_cpu(), time.monotonic()
    done = subprocess.run([sys.executable, "-c", AUDIT, "audit", str(path), "--json"], capture_output=True, text=True, env=env)
    seconds = time.monotonic() - started
    found = json.loads(done.stdout)
    if done.returncode != 0 or found["proofs_checked"] != found["proofs"] or found["failures"]:
        raise WrongResult(f"the audit found fault:\n{found['verdict']}\n{found['failures'][:3]}")
    return seconds, _children_cpu() - before, int(done.stderr.split()[-1]) * (1024 if sys.platform != "darwin" else 1)


def _children_cpu() -> float:
    """CPU seconds of this process's children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _room() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    main()
