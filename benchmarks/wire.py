"""The wire and what surrounds inference, each beside the least that could do it, in turns in one run.

``python -m benchmarks.wire`` measures, as ratios: rows scattered and gathered by ``enclaveml.comm`` beside bare mpi4py
buffers; rows a second of jobs at coverage 0 on 2 ranks that both compute beside bare jitted loops in 2 processes, for
a CNN and for a tiny MLP; the tiny MLP's job beside loops of pickled objects; HDF5 beside bare h5py; and the time to the
first row beside importing JAX. ``wire_ranks.py`` is what runs under mpirun.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WrongResult
from benchmarks.gpu import clean, write_job
from benchmarks.machine import REPORTS, machine, sentence, table, write_report

CNN_ROW = (64, 64, 3)


def mpirun(ranks: int, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Python under this environment's mpirun. Raises RuntimeError with what it said."""
    beside = Path(sys.executable).with_name("mpirun")
    launcher = str(beside) if beside.exists() else "mpirun"
    done = subprocess.run([launcher, "--oversubscribe", "-np", str(ranks), sys.executable, "-m", *command],
                          env=clean(), capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{command}: exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def ranks_part(name: str, ranks: int = 2, /, **given: Any) -> dict[str, Any]:
    """A part of ``wire_ranks``."""
    return json.loads(mpirun(ranks, "benchmarks.wire_ranks", name, json.dumps(given)).stdout.strip().splitlines()[-1])


def write_cnn_job(folder: Path, rows: int) -> Path:
    """A job at coverage 0 with a small residual network (one block a stage, 16 wide), 50 million multiply-adds a row."""
    from benchmarks.gpu_parts import ROOT

    (folder / "resnet.py").write_bytes((ROOT / "benchmarks" / "resnet.py").read_bytes())
    np.save(folder / "cnn.npy", np.random.default_rng(5).standard_normal((rows, *CNN_ROW), np.float32))
    subprocess.run([sys.executable, "-m", "benchmarks.wire_loops", "weights", json.dumps({"folder": str(folder)})],
                   env=clean(), check=True, timeout=300)
    path = folder / "cnn.yaml"
    path.write_text(json.dumps({
        "model": {"flax": "resnet.py:ResNet", "args": {"blocks": [1, 1, 1, 1], "width": 16, "classes": 10},
                  "weights": "cnn.safetensors"},
        "input": {"path": "cnn.npy"}, "proof": {"coverage": 0}, "output": {"path": "cnn.h5"},
        "split": {"strategy": "equal"}, "cluster": {"aggregator_computes": True}}), encoding="utf-8")
    return path


def job(path: Path, ranks: int) -> dict[str, Any]:
    """Run a job. rows_s: rows over the seconds between the first order and the last output, as its log ends."""
    began = time.monotonic()
    done = mpirun(ranks, "enclaveml", "run", str(path), "--force")
    whole = time.monotonic() - began
    rate = re.findall(r"\(100 %\).*?([\d.e+]+) rows/s", done.stderr)
    inferring = [float(line.split()[5]) for line in done.stderr.splitlines()
                 if re.match(r"\d+ +rank-\d+ ", line)]
    return {"rows_s": float(rate[-1]), "seconds": whole, "infer_s": inferring}


def loops(folder: Path, name: str, by_row: bool, batch: int, expected: Path | None = None) -> dict[str, Any]:
    """Two processes, a jitted loop each over half of the rows in memory; rows a second of both, by the slower.

    expected: .npy of the outputs (N, D) that they are held against.
    """
    gate = folder / f"gate-{time.monotonic_ns()}"
    started = [subprocess.Popen([sys.executable, "-m", "benchmarks.wire_loops", "loop", json.dumps(
        {"folder": str(folder), "name": name, "by_row": by_row, "half": half, "gate": str(gate), "batch": batch,
         "expected": expected and str(expected)})],
        env=clean(), stdout=subprocess.PIPE, text=True) for half in (0, 1)]
    said = [process.communicate(timeout=600)[0] for process in started]
    if any(process.returncode for process in started):
        raise WrongResult(f"{name}: a bare loop failed; its last words are above")
    found = [json.loads(text.strip().splitlines()[-1]) for text in said]
    return {"rows_s": sum(f["rows"] for f in found) / max(f["seconds"] for f in found)}


def in_turns(rounds: int, contenders: dict[str, Callable[[], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Every contender ``rounds`` times, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            found[name].append(call())
            print(f"{name}: {found[name][-1]}, load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def best(turns: Sequence[dict[str, Any]], key: str = "rows_s") -> float:
    return max(turn[key] for turn in turns)


def hdf5_seconds(name: str, path: Path, data: np.ndarray) -> float:
    """Seconds to write ``data`` as a dataset of a new file and sync it: "ours" by ``enclaveml.hdf5``, "bare" by h5py alone.

    Raises WrongResult where the file then has other values.
    """
    import h5py

    from enclaveml import hdf5 as ours

    path.unlink(missing_ok=True)
    os.sync()
    began = time.perf_counter()
    if name == "ours":
        with ours.create(path) as file:
            ours.write(file, "outputs", data, long_name="outputs", units="1")
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("outputs", data=data)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    seconds = time.perf_counter() - began
    with h5py.File(path) as file:
        if not np.array_equal(file["outputs"][()], data):
            raise WrongResult(f"{name}: the file has other values than were written")
    return seconds


def hdf5(folder: Path, megabytes: int, rounds: int) -> dict[str, Any]:
    """A dataset of rows written and synced, in turns of which each begins every other one; the first is not counted."""
    data = np.random.default_rng(6).random((megabytes * 250, 1000), np.float32)
    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(rounds + 1):
        for name in sorted(taken, reverse=turn % 2 == 0):
            seconds = hdf5_seconds(name, folder / f"{name}.h5", data)
            if turn:
                taken[name].append(seconds)
    return {"bytes": data.nbytes, **{f"{k}_s": sorted(v) for k, v in taken.items()},
            "ratio": min(taken["bare"]) / min(taken["ours"])}


def first_row(path: Path, rounds: int) -> dict[str, Any]:
    """From the command to the first outputs in the journal, on 2 ranks; from the command to JAX imported; and to MPI begun,
    with the settings that a run gives it, and JAX and Flax imported on 2 ranks: the least that any such program takes."""
    from enclaveml.journal import read_records
    from enclaveml.launcher import mpi_settings

    rows, imports, least = [], [], []
    mpi = [str(Path(sys.executable).with_name("mpirun")), "--oversubscribe", "-np", "2", sys.executable]
    results = path.with_suffix(".h5")
    for _ in range(rounds):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], check=True,
                       env=clean() | {"JAX_PLATFORMS": "cpu", "NPROC": "1"})
        imports.append(time.monotonic() - began)
        began = time.monotonic()
        subprocess.run([*mpi, "-c", "from mpi4py import MPI; import jax; jax.devices(); from flax import nnx"], check=True,
                       env=clean() | mpi_settings(clean()) | {"JAX_PLATFORMS": "cpu", "NPROC": "1"})
        least.append(time.monotonic() - began)
        began_at = time.time()
        kept = results.with_name(results.name + ".journal.kept")
        kept.unlink(missing_ok=True)
        process = subprocess.Popen([*mpi, "-m", "enclaveml", "run", str(path), "--force"], env=clean(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = results.with_name(results.name + ".journal")
        while process.poll() is None:  # the journal is removed at the end: its bytes stay under another name
            if not kept.exists() and journal.exists() and journal.stat().st_mtime > began_at:
                os.link(journal, kept)
            time.sleep(0.005)
        times = [record.time for record in read_records(kept, kinds={"outputs"})]
        rows.append(min(times) - began_at)
        print(f"first row after {rows[-1]:.2f} s, JAX after {imports[-1]:.2f} s, MPI, JAX and Flax on 2 ranks after "
              f"{least[-1]:.2f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    return {"first_row_s": rows, "jax_s": imports, "least_s": least, "more_s": min(rows) - min(imports)}


def lines_of(d: dict[str, Any]) -> list[str]:
    """The report."""
    rows: list[list[object]] = []
    for t in d.get("transfers", ()):
        for other, ratio, goal in (("bare", "ratio", "0.9"), ("reused", "ratio_reused", "")):
            rows.append([f"Scatterv and Gatherv of {t['rows']} rows, {t['bytes'] / 1e6:.3g} MB",
                         f"bare mpi4py buffers, {'fresh as ours' if other == 'bare' else other}", f"{t[ratio]:.2f}", goal,
                         f"{np.median(t['ours_s']) * 1e3:.3g} ms beside {np.median(t[other + '_s']) * 1e3:.3g} ms "
                         "(medians)"])
    if "cnn" in d:
        c = d["cnn"]
        for other, goal in (("bare batched", "0.95"), ("bare by row", "")):
            rows.append(["rows/s of a job, CNN, 2 ranks", f"{other} jitted loops in 2 processes",
                         f"{best(c['job']) / best(c[other]):.2f}", goal,
                         f"{best(c['job']):.0f} beside {best(c[other]):.0f} rows/s"])
    if "mlp" in d:
        m = d["mlp"]
        for other, goal in (("scatter/gather of a row each", "5"), ("MPIPoolExecutor.map", "3"),
                            ("scatter/gather of 256 rows each", ""), ("MPIPoolExecutor.map, chunks of 256", ""),
                            ("bare batched", "")):
            if other in m:
                rows.append(["rows/s of a job, tiny MLP, 2 ranks", other, f"{best(m['job']) / best(m[other]):.2f}", goal,
                             f"{best(m['job']):.0f} beside {best(m[other]):.0f} rows/s"])
    if "hdf5" in d:
        h = d["hdf5"]
        rows.append([f"{h['bytes'] / 1e6:.0f} MB of rows to HDF5, synced", "h5py alone", f"{h['ratio']:.2f}", "0.9",
                     f"{min(h['ours_s']):.2f} s beside {min(h['bare_s']):.2f} s"])
    if "first_row" in d:
        f = d["first_row"]
        rows.append([f"first row of {f['what']}", "importing JAX", f"{f['more_s']:+.1f} s", "at most +2 s",
                     f"{min(f['first_row_s']):.1f} s beside {min(f['jax_s']):.1f} s"])
        rows.append(["the same", "mpirun, MPI begun, JAX and Flax imported on 2 ranks", f"{min(f['first_row_s']) - min(f['least_s']):+.1f} s",
                     "", f"{min(f['first_row_s']):.1f} s beside {min(f['least_s']):.1f} s"])
    text = ["# wire", "", "What surrounds inference, beside the least that could do it, in turns in one run. A ratio is "
            "the other's time over ours (1: as fast); rates are the best of the turns.", "",
            sentence(d["machine"], "wire"), "", *table(("what", "beside", "ratio", "goal", "figures"), rows)]
    if "mlp" in d:
        turn = max(d["mlp"]["job"], key=lambda t: t["rows_s"])
        count = d["mlp"]["rows"]
        text += ["", f"Where the tiny MLP's job spends its time: of {turn['seconds']:.1f} s from start to end for "
                 f"{count} rows, {count / turn['rows_s']:.1f} s are from the first order to the last output, of which "
                 f"its ranks infer {', '.join(f'{s:.2f}' for s in turn['infer_s'])} s; the rest is importing JAX, "
                 "building and compiling the model, reading and fingerprinting the data, and writing and sealing the "
                 "results."]
    return text


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description="transfers, jobs at coverage 0, HDF5, first row")
    parser.add_argument("--parts", default="transfers,hdf5,first_row,cnn,mlp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cnn-rows", type=int, default=24_000)
    parser.add_argument("--out", type=Path, default=REPORTS)
    options = parser.parse_args()
    document: dict[str, Any] = {"benchmark": "wire", "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="enclaveml-wire-") as name:
        folder, rounds = Path(name), options.rounds
        for part in options.parts.split(","):
            if part == "transfers":
                document[part] = [ranks_part(part, rows=r, width=w, repeats=n) for r, w, n in (
                    (2000, 64, 60), (65536, 64, 30), (111, 150528, 10))]
            elif part == "hdf5":
                document[part] = hdf5(folder, 200, max(10, rounds))
            elif part == "cnn":
                path = write_cnn_job(folder, options.cnn_rows)
                document[part] = {"rows": options.cnn_rows, **in_turns(rounds, {
                    "job": lambda: job(path, 2),  # noqa: B023
                    "bare batched": lambda: loops(folder, "cnn", False, 256),
                    "bare by row": lambda: loops(folder, "cnn", True, 256)})}
            elif part == "mlp":
                (beside := folder / "mlp").mkdir(exist_ok=True)
                path = write_job(beside, "digits", 300_000, "cpu")
                given = json.loads(path.read_text(encoding="utf-8"))
                given |= {"split": {"strategy": "equal"}, "cluster": {"aggregator_computes": True}}
                path.write_text(json.dumps(given), encoding="utf-8")
                document[part] = {"rows": 300_000, **in_turns(rounds, {
                    "job": lambda: job(path, 2),  # noqa: B023
                    "scatter/gather of a row each": lambda: ranks_part("pickled", rows=300_000, batch=1, limit_s=5),
                    "scatter/gather of 256 rows each": lambda: ranks_part("pickled", rows=300_000, batch=256, limit_s=5),
                    "MPIPoolExecutor.map": lambda: ranks_part("pool", 3, rows=20_000, chunk=1),
                    "MPIPoolExecutor.map, chunks of 256": lambda: ranks_part("pool", 3, rows=200_000, chunk=256),
                    "bare batched": lambda: loops(beside, "digits", False, 256)})}  # noqa: B023
            elif part == "first_row":
                (beside := folder / "first").mkdir(exist_ok=True)
                path = write_job(beside, "digits", 400, "cpu")
                document[part] = {"what": "400 at coverage 0 on 2 ranks", **first_row(path, rounds)}
            write_report("wire", document, lines_of(document), options.out)
    print("\n".join(lines_of(document)))


if __name__ == "__main__":
    main()
