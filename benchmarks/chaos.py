"""``python -m benchmarks.chaos --minutes N --seed S``: jobs under faults at random moments, and what is left of them.

Runs small jobs one after the other while killing, freezing and slowing random ranks, with ranks that lie, and
while killing whole jobs, which are then resumed until they are finished. Each finished file is read: every row
must be verified, every verified row's proved output must be the model's (recomputed here in numpy) within the
tolerance, and the audit must find nothing. With --add, the counts go to those of the report that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos_plan import BUNDLE, HARMLESS, JobPlan, plan
from benchmarks.chaos_rank import JOIN_S
from benchmarks.chaos_session import ROOT, STOPPED_S, Told, command, play
from benchmarks.common import REPORTS, machine
from enclaveml.errors import EnclaveError
from enclaveml.results import read_results
from enclaveml.results_schema import RowStatus
from enclaveml.resume import Resume

sys.path.insert(0, str(ROOT / "tests"))

from launch import environment, launcher
from small_job import TOLERANCE, SmallJob, floats, write_small_job

#: In this order in the report; the last three must be 0.
COUNTS = ("jobs", "kills", "freezes", "slowdowns", "lies", "whole jobs killed", "resumes", "ranks lost and survived",
          "rows asked for", "rows verified", "rows lost", "bad rows verified", "hangs")
_KIND = {"kill": "kills", "freeze": "freezes", "slow": "slowdowns", "nice": "slowdowns",
         "kill-job": "whole jobs killed", "kill-launcher": "whole jobs killed"}
FAULTS = ("kills", "freezes", "slowdowns", "lies", "whole jobs killed")


class Soak:
    """The counts of a soak, and its anomalies: anything that should not be, with where its log is."""

    def __init__(self, seed: int, folder: Path, logs: Path) -> None:
        self._seed, self._folder, self._logs = seed, folder, logs
        self.counts: Counter[str] = Counter()
        self.anomalies: list[str] = []
        self._env = environment({"ENCLAVEML_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"})

    @property
    def faults(self) -> int:
        return sum(self.counts[name] for name in FAULTS)

    def job(self, number: int) -> None:
        """Play one job to its end."""
        planned = plan(self._seed, number)
        folder = self._folder / f"job-{number}"
        job = write_small_job(folder, planned.rows, {
            "split": {"strategy": planned.strategy},
            "proof": {"inputs": planned.inputs, "coverage": planned.coverage,
                      "max_rejections": planned.max_rejections},
            # Stated, so that circuits do not depend on the machine's free memory.
            "cluster": {"ranks": [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(6)]},
        })
        self.counts["jobs"] += 1
        known = np.zeros(planned.rows, bool)
        for turn in range(len(planned.sessions)):
            finished, known = self._session(job, planned, number, turn, known)
            if finished:
                break
        self._judge(job, planned, number)
        if not any(a.startswith(f"job {number}:") for a in self.anomalies):
            shutil.rmtree(folder)

    def _session(self, job: SmallJob, planned: JobPlan, number: int, turn: int,
                 known: np.ndarray) -> tuple[bool, np.ndarray]:
        """Play one session. Returns whether the job is finished, and the rows verified so far (N,) bool."""
        session, name = planned.sessions[turn], f"job-{number}-{turn}"
        log = self._logs / f"seed-{self._seed}-{name}.log"
        line = command(session, launcher(), job.path, resume=turn > 0)
        told = play(session, line, job.journal, f"{os.getpid()}-{self._seed}-{name}", log, self._env)
        self.counts["resumes"] += turn > 0
        for event in told.done:
            self.counts[_KIND[event.action]] += 1
        said = log.read_text(errors="replace")
        self._look(number, turn, told, said, log)
        status, verified = self._reached(job, number, turn, planned)
        if (known & ~verified).any():
            self._odd(number, f"session {turn}: {int((known & ~verified).sum())} rows are no longer verified", log)
            self.counts["rows lost"] += int((known & ~verified).sum())
        print(f"seed {self._seed} job {number}.{turn}: {planned.rows} rows {planned.inputs} {planned.strategy}, "
              f"{session.workers} workers{' ulfm' if session.ulfm else ''}, liars {session.liars}, "
              f"{[f'{e.action} {e.rank}' for e in told.done]}: {told.code}, {status}, {int(verified.sum())} rows "
              f"verified, {told.seconds:.0f} s", flush=True)
        return status in ("complete", "complete-unverified"), verified

    def _look(self, number: int, turn: int, told: Told, said: str, log: Path) -> None:
        if told.hung:
            self.counts["hangs"] += 1
            self._odd(number, f"session {turn} hung", log)
        if told.left:
            self._odd(number, f"session {turn} left processes behind: {told.left}", log)
        if "Traceback (most recent call last)" in said or told.code == 1:
            self._odd(number, f"session {turn}: an internal error, exit status {told.code}", log)

    def _reached(self, job: SmallJob, number: int, turn: int, planned: JobPlan) -> tuple[str, np.ndarray]:
        """The status and the rows that are verified, by the journal, or by the file where that is all there is."""
        none = np.zeros(planned.rows, bool)
        try:
            if job.journal.exists():
                state = Resume.load(job.journal)
                return (state.end or {"status": "killed"})["status"], state.verified
            if job.results.exists():
                with read_results(job.results) as results:
                    return results.status.value, np.asarray(results.row("status")) == RowStatus.VERIFIED
        except EnclaveError as error:
            self._odd(number, f"session {turn}: {error}", job.journal)
            return "unreadable", none
        return "nothing", none

    def _judge(self, job: SmallJob, planned: JobPlan, number: int) -> None:
        """Count the rows of the finished file, hold them against the truth, and audit it."""
        try:
            with read_results(job.results) as results:
                status = np.asarray(results.row("status"))
                outputs, proved = np.asarray(results.outputs()), np.asarray(results.proved_outputs())
                ranks = list(results.ranks)
                code = int(results.attribute("exit_code"))
        except EnclaveError as error:
            self._odd(number, f"no file: {error}", job.folder)
            self.counts["rows asked for"] += planned.rows
            self.counts["rows lost"] += planned.rows
            return
        asked = planned.rows - int((status == RowStatus.UNPROVED).sum())
        good = status == RowStatus.VERIFIED
        truth = floats(job.rows)
        self.counts["rows asked for"] += asked
        self.counts["rows verified"] += int(good.sum())
        if (lost := asked - int(good.sum())) or code != 0:
            self.counts["rows lost"] += lost
            self._odd(number, f"{lost} rows lost, exit status {code}", job.results)
        away = np.maximum(np.abs(proved[good] - truth[good]).max(axis=1, initial=0),
                          np.abs(outputs[good] - truth[good]).max(axis=1, initial=0) / 2)
        if bad := int((~(away <= TOLERANCE)).sum()):
            self.counts["bad rows verified"] += bad
            self._odd(number, f"{bad} bad rows verified", job.results)
        self._blame(planned, number, ranks)
        audit = subprocess.run([sys.executable, "-m", "enclaveml", "audit", str(job.results)], env=self._env,
                               capture_output=True, text=True, timeout=300)
        if audit.returncode != 0:
            self._odd(number, f"audit: {audit.returncode} {audit.stdout[-800:]} {audit.stderr[-400:]}", job.results)

    def _blame(self, planned: JobPlan, number: int, ranks: list[dict[str, Any]]) -> None:
        """Count the lies that were told and found, and see that nobody else is blamed."""
        for line in ranks:
            session = planned.sessions[min(line["session"], len(planned.sessions) - 1)]
            attack = session.liars.get(line["rank"])
            self.counts["lies"] += line["rejections"]
            self.counts["ranks lost and survived"] += line["fate"] == "lost"
            blamed = line["rejections"] or line["fate"] == "expelled"
            if blamed and (attack is None or attack in HARMLESS):
                before = {s.liars.get(line["rank"]) for s in planned.sessions[: line["session"] + 1]} - {None}
                if line["rejections"] or not before - set(HARMLESS):
                    self._odd(number, f"rank {line['rank']} ({attack}) is blamed: {line['fate_reason']}", "")

    def _odd(self, number: int, what: str, where: object) -> None:
        self.anomalies.append(f"job {number}: {what} [{where}]")
        print(f"ANOMALY seed {self._seed} {self.anomalies[-1]}", flush=True)


def write_report(piece: dict[str, Any], add: bool) -> str:
    """Put a piece into the report, beside those of other commands or instead of them. Returns the Markdown."""
    path = REPORTS / "chaos.json"
    there = json.loads(path.read_text(encoding="utf-8"))["pieces"] if add and path.exists() else []
    pieces = [*[p for p in there if p["command"] != piece["command"]], piece]
    totals = {name: sum(p["counts"].get(name, 0) for p in pieces) for name in COUNTS}
    here = machine()
    document = {"benchmark": "chaos", "machine": here, "totals": totals,
                "faults": sum(totals[name] for name in FAULTS), "pieces": pieces}
    lines = [
        "# chaos", "",
        f"Jobs of 77 to 144 rows, 4 or 5 ranks, small circuits of {BUNDLE} rows, under {document['faults']} faults at "
        f"random moments that follow from the seeds (`benchmarks/chaos_plan.py`). A frozen rank is given up after "
        f"{STOPPED_S:g} s here instead of 60, and joining MPI after {JOIN_S:g} s instead of 300. A lie is a bundle of a lying rank that rank 0 rejected.", "",
        "; ".join(f"`{p['command']}`" for p in pieces) + f" on {here['cores']} cores of {here['cpu']}, "
        f"{here['memory_gb']} GB; " + ", ".join(f"{k} {here[k]}" for k in ("python", "ezkl", "jax", "flax")) + ".", "",
        "| | " + " | ".join(f"seed {p['seed']}" for p in pieces) + " | in all |",
        "|---|" + "---|" * (len(pieces) + 1),
    ]
    for name in COUNTS:
        lines.append(f"| {name} | " + " | ".join(str(p["counts"].get(name, 0)) for p in pieces)
                     + f" | {totals[name]} |")
    lines.append("| minutes | " + " | ".join(f"{p['minutes']:.1f}" for p in pieces)
                 + f" | {sum(p['minutes'] for p in pieces):.1f} |")
    lines.append("| load | " + " | ".join(f"{p['load'][0]:.1f}-{p['load'][1]:.1f}" for p in pieces) + " | |")
    odd = [f"- seed {p['seed']}, {a}" for p in pieces for a in p["anomalies"]]
    lines += ["", "Anomalies:" if odd else "No anomalies: no internal error, no process left behind, nobody blamed "
              "who did not lie, no audit that found anything.", *odd, ""]
    REPORTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines)
    (REPORTS / "chaos.md").write_text(text, encoding="utf-8")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="start no new job after this long")
    parser.add_argument("--seed", type=int, required=True, help="what is done to which job follows from it")
    parser.add_argument("--first", type=int, default=0, metavar="JOB", help="begin with this job of the schedule")
    parser.add_argument("--jobs", type=int, default=10**6, help="play so many at most")
    parser.add_argument("--add", action="store_true", help="add to the report that is there")
    parser.add_argument("--no-report", action="store_true", help="write none")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "enclaveml-chaos-logs",
                        help="where the logs of all sessions are kept")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args.logs.mkdir(parents=True, exist_ok=True)
    began, load = time.monotonic(), [os.getloadavg()[0]] * 2
    folder = Path(tempfile.mkdtemp(prefix="enclaveml-chaos-"))
    soak, text = Soak(args.seed, folder, args.logs), ""
    for number in range(args.first, args.first + args.jobs):
        if time.monotonic() - began > 60 * args.minutes:
            break
        soak.job(number)
        now = os.getloadavg()[0]
        load = [min(load[0], now), max(load[1], now)]
        minutes = (time.monotonic() - began) / 60
        print(f"{minutes:.1f} min: " + ", ".join(f"{n} {soak.counts[n]}" for n in COUNTS), flush=True)
        if not args.no_report:  # after each job: a soak that is ended leaves what it has seen
            text = write_report({
                "command": " ".join(["python", "-m", "benchmarks.chaos", *sys.argv[1:]]), "seed": args.seed,
                "minutes": minutes, "load": load, "counts": dict(soak.counts), "anomalies": soak.anomalies}, args.add)
    if not soak.anomalies:
        shutil.rmtree(folder)
    print(text)
    print(f"{soak.faults} faults; " + ", ".join(f"{soak.counts[name]} {name}" for name in COUNTS))
    return 0 if not soak.anomalies and not any(soak.counts[name] for name in COUNTS[-3:]) else 1


if __name__ == "__main__":
    sys.exit(main())
