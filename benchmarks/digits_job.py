"""``python -m benchmarks.digits_job``: the whole job over all 1,797 digits under mpirun, beside ezkl as documented.

The job is timed from mpirun's start to its end: start of Python and JAX, shards, inference, proofs, the
partly filled last bundles, verification, results file. Keys are prepared before, as ezkl's set-up is.
Every row must be verified, and every proved output within what calibrated ezkl gives.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import REPORTS, Data, Documented, Turn, WrongResult, machine
from benchmarks.mlp import LOOSE, one_row
from enclaveml.datasets import open_dataset
from enclaveml.job import load_job
from enclaveml.models import build_model, package_model
from enclaveml.results import RowStatus, read_results
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.interface import ModelFunction

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "jobs/digits/job.yaml"

#: All images, and what the whole job is to reach: ezkl's seconds a row in those of the job.
EVERY_ROW = ("--set", "input.key=x_all", "--set", "input.labels=y_all")
GOAL = 45.0


def _used() -> float:
    """CPU seconds of all processes that this one started and waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_timed(command: list[str], timeout_s: float) -> tuple[float, float]:
    """Seconds and CPU seconds of a command that must end with status 0."""
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"
    }
    began, used = time.monotonic(), _used()
    done = subprocess.run(command, env=env, timeout=timeout_s, stderr=subprocess.PIPE, text=True)
    print(done.stderr, flush=True)
    if done.returncode:
        raise WrongResult(f"{' '.join(command)}: exit status {done.returncode}")
    return time.monotonic() - began, _used() - used


def main() -> None:
    """Run the benchmark and write its report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=3, help="of which one aggregates")
    parser.add_argument("--rows", type=int, default=4, help="rows that ezkl as documented proves")
    parser.add_argument("--beside", type=Path, metavar="REPORT",
                        help="take ezkl's figures from this report (reports/digits.json) instead of proving anew")
    options = parser.parse_args()

    job = load_job(JOB, (EVERY_ROW[1], EVERY_ROW[3]))
    dataset = open_dataset(job.input.path, job.input.key, job.input.labels, job.input.scale)
    rows = dataset.read_rows(np.arange(dataset.rows))
    folder = JOB.parent
    package = package_model(job.model.flax, dict(job.model.args), job.model.weights, folder)
    model = build_model(package, dataset.row_shape, dataset.dtype, folder, ())
    data = Data(rows, float_outputs(model.function, rows, 64))
    if options.beside:
        turn, limit = _reported(options.beside)
    else:
        turn, limit = _baseline(model.function, data, options.rows)
    print(f"ezkl, calibrated: {turn.seconds / turn.rows:.4f} s a row, deviation up to {limit:.3g}", flush=True)

    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    with tempfile.TemporaryDirectory(prefix="enclaveml-benchmark-") as scratch:
        asked = [*EVERY_ROW, "--set", f"proof.tolerance={limit:.6g}"]
        results = Path(scratch) / "results.h5"
        prepare = [sys.executable, "-m", "enclaveml", "prepare", str(JOB), *asked, "--ranks", str(options.ranks)]
        prepared, _ = run_timed(prepare, 1800)
        load = os.getloadavg()[0]
        seconds, cpu = run_timed(
            [mpirun, "--oversubscribe", "-np", str(options.ranks), sys.executable, "-m", "enclaveml", "run", str(JOB),
             *asked, "-o", str(results)], 3600,
        )
        found = _read(results, data.truth, limit)
    n = len(rows)
    ratio, by_cpu = turn.seconds / turn.rows / (seconds / n), turn.cpu_seconds / turn.rows / (cpu / n)
    document = {
        "benchmark": "digits_job", "machine": machine(), "ranks": options.ranks, "rows": n, "goal": GOAL,
        "load": load, "seconds": seconds, "cpu_seconds": cpu, "prepare_seconds": prepared, "ratio": ratio,
        "ratio_cpu": by_cpu, "baseline": {"from": options.beside.name if options.beside else "this run", "rows": turn.rows, "seconds": turn.seconds, "cpu_seconds": turn.cpu_seconds,
                                          "load": turn.load, "deviation": limit},
        **found,
    }
    lines = [
        "# digits_job", "",
        f"The digits job over all {n} rows, `mpirun -np {options.ranks}`, from start to end with prepared keys; made by "
        "`python -m benchmarks.digits_job`. Every row verified, every proved output within the deviation of "
        "calibrated ezkl.", "",
        f"{options.ranks - 1} workers on {document['machine']['cores']} cores of {document['machine']['cpu']}; load {load:.1f} before the "
        f"job, {turn.load:.1f} before ezkl's rows"
        + (f", which are those of `{options.beside.name}`." if options.beside else "."), "",
        "| | rows | s | s a row | CPU s a row | times the first | goal | by CPU s | deviation |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| ezkl, calibrated | {turn.rows} | {turn.seconds:.1f} | {turn.seconds / turn.rows:.4f} | "
        f"{turn.cpu_seconds / turn.rows:.4f} | 1.0 | | 1.0 | {limit:.2g} |",
        f"| the whole job | {n} | {seconds:.1f} | {seconds / n:.4f} | {cpu / n:.4f} | {ratio:.1f} | {GOAL:g} | "
        f"{by_cpu:.1f} | {found['deviation']:.2g} |", "",
        f"Preparing the keys took {prepared:.1f} s before. Verifying took rank 0 {found['verify_ms_a_row']:.2g} ms a row.",
        "", "Where the time went, by rank, in seconds; waiting is the time in which a rank's provers had nothing to do:", "",
        "| rank | rows | proofs | inferring | proving | waiting | of the job's time |", "|---|---|---|---|---|---|---|",
    ]
    for rank in found["stages"]:
        lines.append(
            f"| {rank['rank']} | {rank['rows']} | {rank['proofs']} | {rank['inferring']:.2f} | {rank['proving']:.1f} | "
            f"{rank['waiting']:.2f} | {100 * rank['waiting'] / seconds:.1f} % |"
        )
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "digits_job.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (REPORTS / "digits_job.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _baseline(function: ModelFunction, data: Data, count: int) -> tuple[Turn, float]:
    """ezkl as documented: some rows proved, and the deviation of 360 rows' witnesses."""
    baseline = Documented("ezkl, calibrated", one_row(function), data, True, count, 1, LOOSE)
    try:
        limit = baseline.witnessed_deviation(360)
        baseline.limit = limit  # the rows that it proves are among those
        return baseline.turn(0), limit
    finally:
        baseline.close()


def _reported(path: Path) -> tuple[Turn, float]:
    """The same, as the first contender of a report has it: its best turn, and the deviation of the rows it proved."""
    first = json.loads(path.read_text(encoding="utf-8"))["results"][0]
    best = min(first["turns"], key=lambda turn: turn["seconds"] / turn["rows"])
    return Turn(**best), first["deviation"]


def _read(path: Path, truth: np.ndarray, limit: float) -> dict[str, object]:
    """What the results file says; WrongResult where a proved output is further from the float model than allowed."""
    with read_results(path) as results:
        if (results.row("status") != RowStatus.VERIFIED).any():
            raise WrongResult("not every row is verified")
        deviation = float(np.abs(results.proved_outputs() - truth).max())
        if not deviation <= limit:
            raise WrongResult(f"deviation {deviation:.3g}, allowed {limit:.3g}")
        verify = float(np.sum(results.proofs("verify_seconds")))
        stages = [
            {"rank": r["rank"], "rows": r["rows"], "proofs": r["proofs"], "inferring": r["seconds_inferring"],
             "proving": r["seconds_proving"], "waiting": r["seconds_waiting"]}
            for r in results.ranks
        ]
    return {"deviation": deviation, "verify_ms_a_row": 1000 * verify / len(truth), "stages": stages}


if __name__ == "__main__":
    main()
