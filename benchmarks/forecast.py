"""``python -m benchmarks.forecast``: the forecast held against real runs, and its curve to 4,096 ranks.

Runs jobs/digits under mpirun with 1, 2 and 4 ranks on this machine, with keys in the cache, and compares the
rounds' and the whole run's seconds with what ``enclaveml forecast`` says of this machine. Ranks that crowd the
machine share its cores in the forecast too. What else runs there takes its part of the cores: the CPU seconds that
all others take during a run are measured (those of the machine less those of the run's processes), and what they
leave is the forecast's ``--core-speed``; of the run itself the forecast is told nothing. Then it forecasts a job of ten
million such rows on up to 4,096 ranks.
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
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from enclaveml.capacity import GB, node_cores, node_memory
from enclaveml.forecast import Forecast, curve, data_of, predict, stops_at
from enclaveml.forecast_costs import DEVICES, Target
from enclaveml.job import load_job
from enclaveml.progress import significant, table
from enclaveml.results_reader import read_results

REPORTS = Path(__file__).parent / "reports"
JOB = Path(__file__).resolve().parent.parent / "jobs/digits/job.yaml"
RANKS = (1, 2, 4)
ALLOWED = 0.25
CURVE_ROWS = 10_000_000


def of_others(stat: Path = Path("/proc/stat")) -> float:
    """CPU seconds that were taken on this machine so far by whatever is no child of this process that has ended, and
    those that its own host did not give it (steal). References: proc_stat(5)."""
    user, nice, system, _idle, _iowait, irq, soft, steal = map(int, stat.read_text().splitlines()[0].split()[1:9])
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - mine.ru_utime - mine.ru_stime


def here(ranks: int, speed: float) -> Target:
    """This machine as a target, its ranks sharing its cores; nothing is lost, no rank is slow by itself."""
    cores = node_cores(ranks, os.environ)
    return Target(ranks=ranks, cores_per_rank=max(1, cores // ranks), ranks_per_node=ranks, device=DEVICES["cpu"],
                  memory_gb=node_memory(os.environ) / GB / ranks, core_speed=speed, slow=0.0, years=1e6,
                  cores_of_node=cores)


def run(path: Path, ranks: int, folder: Path) -> dict[str, Any]:
    """One real run: its seconds by the clock, and the rounds' as the results file has them."""
    output = folder / f"results-{ranks}.h5"
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    options = ["--oversubscribe"] if "Open MPI" in subprocess.run([mpirun, "--version"], capture_output=True,
                                                                   text=True).stdout else []
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    load, others, began = os.getloadavg()[0], of_others(), time.monotonic()
    done = subprocess.run([mpirun, *options, "-np", str(ranks), sys.executable, "-m", "enclaveml", "run", str(path),
                           "-o", str(output)], env=environment, capture_output=True, text=True)
    wall = time.monotonic() - began
    left = 1 - (of_others() - others) / wall / (os.cpu_count() or 1)
    if done.returncode:
        raise SystemExit(f"the run on {ranks} ranks ended with {done.returncode}:\n{done.stderr[-4000:]}")
    with read_results(output) as results:
        started, finished = (datetime.fromisoformat(results.attribute(n)) for n in ("started", "finished"))
        return {"wall_s": wall, "rounds_s": (finished - started).total_seconds(), "circuit": results.circuit_ids[0],
                "proofs": results.n_proofs, "load_before": load, "load_after": os.getloadavg()[0], "core_left": left}


def compare(path: Path) -> list[dict[str, Any]]:
    """Forecast and run for each number of ranks. A run without keys comes first where the cache has none."""
    job, lines = load_job(path), []
    with tempfile.TemporaryDirectory() as name:
        for ranks in RANKS:
            subprocess.run([sys.executable, "-m", "enclaveml", "prepare", str(path), "--ranks", str(ranks)], check=True,
                           capture_output=True)
            real = run(path, ranks, Path(name))
            speed = min(1.0, max(0.05, real["core_left"]))
            found = predict(*data_of(job), here(ranks, speed))
            lines.append({"ranks": ranks, "core_speed": speed, "forecast": _short(found), "real": real,
                          "wall_error": found.wall / real["wall_s"] - 1,
                          "rounds_error": found.outcome.seconds / real["rounds_s"] - 1})
            print(json.dumps(lines[-1]), flush=True)
    return lines


def _short(found: Forecast) -> dict[str, Any]:
    return {"wall_s": found.wall, "stages": found.stages, "bundles": found.bundles, "circuit": found.circuit_id,
            "rows_per_proof": found.rows_per_proof, "provers": found.provers}


def curves() -> list[dict[str, Any]]:
    """Rows a second over ranks of 4 cores, 4 to a node: rank 0 beside three of them, or on a node of its own."""
    data, circuits = data_of(load_job(JOB), CURVE_ROWS)
    found = []
    for cores, root in ((4, None), (4, 64)):
        target = Target(ranks=2, cores_per_rank=cores, ranks_per_node=4, device=DEVICES["h100"], memory_gb=64.0,
                        root_cores=root)
        points = curve(data, circuits, target)
        last = predict(data, circuits, replace(target, ranks=1024))
        found.append({
            "cores_per_rank": cores, "root_cores": root, "stops_at": stops_at(points),
            "limits_at_1024": [[limit.name, limit.ranks, limit.text] for limit in last.limits],
            "points": [{"ranks": p, "seconds": o.seconds, "rows_per_second": data.proved / o.seconds,
                        "root_busy": o.root_busy, "verify_busy": o.verify_busy, "prove_busy": o.prove_busy,
                        "binds_first": name} for p, o, name in points],
        })
    return found


def svg(found: list[dict[str, Any]]) -> str:
    """A log-log plot of rows a second over ranks, with the line of perfect scaling from the first point."""
    import math

    width, height, left, bottom, top = 840, 460, 70, 400, 20
    right = width - 270
    points = [(p["ranks"], p["rows_per_second"]) for one in found for p in one["points"]]
    x0, x1 = (math.log2(f(p for p, _ in points)) for f in (min, max))
    low = math.floor(math.log10(min(r for _, r in points)))
    high = math.ceil(math.log10(max(r for _, r in points) * 1.5))

    def x(ranks: float) -> float:
        return left + (right - left) * (math.log2(ranks) - x0) / (x1 - x0)

    def y(rate: float) -> float:
        return bottom - (bottom - top) * (math.log10(rate) - low) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>']
    for power in range(low, high + 1):
        out.append(f'<line x1="{left}" x2="{right}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(10**power) + 4:.1f}" text-anchor="end">1e{power}</text>')
    for k in range(round(x0), round(x1) + 1):
        out.append(f'<text x="{x(2**k):.1f}" y="{bottom + 18}" text-anchor="middle">{2**k}</text>')
    out.append(f'<text x="{(left + right) / 2}" y="{bottom + 42}" text-anchor="middle">ranks</text>'
               f'<text x="18" y="{(top + bottom) / 2}" transform="rotate(-90 18 {(top + bottom) / 2})" '
               'text-anchor="middle">verified rows a second</text>')
    for one, colour in zip(found, ("#1b6ca8", "#c0392b", "#2e8b57"), strict=False):
        path = " ".join(f"{x(p['ranks']):.1f},{y(p['rows_per_second']):.1f}" for p in one["points"])
        first, last = one["points"][0], one["points"][-1]
        ideal = min(10.0**high, first["rows_per_second"] * (last["ranks"] - 1) / (first["ranks"] - 1))
        reach = first["ranks"] + ideal / first["rows_per_second"] * (first["ranks"] - 1) - 1
        out.append(f'<line x1="{x(first["ranks"]):.1f}" y1="{y(first["rows_per_second"]):.1f}" x2="{x(reach):.1f}" '
                   f'y2="{y(ideal):.1f}" stroke="{colour}" stroke-dasharray="4 4" opacity="0.5"/>'
                   f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
                   f'<text x="{right + 8}" y="{y(last["rows_per_second"]) + 4:.1f}" fill="{colour}">'
                   f'{one["cores_per_rank"]} cores a rank, rank 0 {_place(one)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _place(one: dict[str, Any]) -> str:
    return f"on {one['root_cores']} of its own" if one["root_cores"] else "beside 3 others"


def markdown(job: str, lines: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """The report."""
    checked = table(
        ["ranks", "provers", "proofs", "of a core", "rounds s", "forecast", "off %", "run s", "forecast", "off %", "load"],
        [[one["ranks"], one["forecast"]["provers"], one["real"]["proofs"], one["core_speed"], one["real"]["rounds_s"],
          one["forecast"]["stages"]["rounds"], 100 * one["rounds_error"], one["real"]["wall_s"],
          one["forecast"]["wall_s"], 100 * one["wall_error"],
          f"{one['real']['load_before']:.1f} to {one['real']['load_after']:.1f}"] for one in lines])
    worst, rounds = (max(abs(one[name]) for one in lines) for name in ("wall_error", "rounds_error"))
    text = [
        "# Forecast against real runs, and to 4,096 ranks", "",
        f"Made by `python -m benchmarks.forecast --job {job}` on {os.cpu_count()} cores, keys in the "
        "cache. Rounds are from the first record of the journal to its end (whole seconds); the run is the whole of "
        "mpirun. `of a core` is what all other processes left of the cores during the run, by the machine's own account, and "
        "the forecast's core speed.", "", "```", checked, "```", "",
        f"The largest error is {100 * rounds:.0f} % for the rounds and {100 * worst:.0f} % for the whole run (aimed at: "
        f"{100 * ALLOWED:.0f} %): {'within it' if max(worst, rounds) <= ALLOWED else 'NOT within it'}.", "",
        "## To 4,096 ranks", "",
        f"Forecast for {CURVE_ROWS:,} rows of jobs/digits, 4 ranks a node; nothing of this was run. Dashed: as if every "
        "rank brought what the first one does.", "", "![rows a second over ranks](forecast.svg)", "",
    ]
    for one in found:
        stop = f"from {one['stops_at']} ranks on a rank brings less than half" if one["stops_at"] else "it scales to 4,096"
        text += [f"### {one['cores_per_rank']} cores a rank, rank 0 {_place(one)}: {stop}", "", "```",
                 table(["ranks", "rows/s", "provers busy %", "rank 0's thread %", "verifiers %", "binds first"],
                       [[p["ranks"], p["rows_per_second"], 100 * p["prove_busy"], 100 * p["root_busy"],
                         100 * p["verify_busy"], p["binds_first"]] for p in one["points"]]), "```", "",
                 *(f"- {name}: {significant(ranks)} ranks ({words})" for name, ranks, words in one["limits_at_1024"]), ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, default=JOB, help="job that is run and forecast (default: jobs/digits)")
    parser.add_argument("--curve-only", action="store_true", help="keep the report's comparison, make the curve anew")
    args = parser.parse_args()
    path, job = REPORTS / "forecast.json", os.path.relpath(args.job)
    if args.curve_only:
        kept = json.loads(path.read_text(encoding="utf-8"))
        job, lines = kept["job"], kept["runs"]
    else:
        lines = compare(args.job)
    found = curves()
    path.write_text(json.dumps({"job": job, "runs": lines, "curves": found}, indent=1) + "\n", encoding="utf-8")
    (REPORTS / "forecast.svg").write_text(svg(found), encoding="utf-8")
    (REPORTS / "forecast.md").write_text(markdown(job, lines, found), encoding="utf-8")
    print(markdown(job, lines, found))


if __name__ == "__main__":
    main()
