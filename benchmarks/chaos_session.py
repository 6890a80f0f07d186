"""One start of a job under mpirun, with faults done to it from outside: signals to its processes, no more.

Every process of the session carries a tag in its environment, by which it is found in /proc, rank by rank.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from benchmarks.chaos_plan import Event, Session
from enclaveml.errors import EnclaveError
from enclaveml.journal import read_records

ROOT = Path(__file__).resolve().parent.parent
TAG = "ENCLAVEML_CHAOS"

# A start that is not over by then hangs. The longest that a bound of the package allows in these jobs is
# RECOVERY_S; the rest is for a machine that others use.
LIMIT_S = 420.0
# Frozen ranks are given up after this (see chaos_rank).
STOPPED_S = 5.0
# What is left of a session's processes this long after its launcher ended was left behind.
GONE_S = 45.0
PULSES, PULSE_STOP_S, PULSE_GO_S = 6, 0.8, 0.4


@dataclass
class Told:
    """What became of a session. ``left``: command lines of processes that outlived the launcher."""

    code: int | None
    seconds: float
    done: list[Event] = field(default_factory=list)
    hung: bool = False
    left: list[str] = field(default_factory=list)


class Processes:
    """The processes of one session, found by their tag."""

    def __init__(self, tag: str) -> None:
        self._mark = f"{TAG}={tag}".encode()

    def all(self) -> dict[int, dict[str, str]]:
        """pid to environment, without zombies."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                raw = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                if self._mark in raw:
                    found[int(entry)] = dict(p.decode(errors="replace").partition("=")[::2] for p in raw)
            except OSError:
                continue
        return found

    def line(self, pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    def ranks(self) -> dict[int, int]:
        """Rank to pid, of those that have a guard already: the moments before are the launcher's business."""
        lines = {pid: self.line(pid) for pid in self.all()}
        guarded = {int(line.split("guard.py ")[1].split()[0]) for line in lines.values() if "guard.py " in line}
        ranks = {}
        for pid, env in self.all().items():
            if pid in guarded and "chaos_rank.py" in lines.get(pid, ""):
                ranks[int(env["OMPI_COMM_WORLD_RANK"])] = pid
        return ranks

    def signal_all(self, number: int) -> None:
        for pid in self.all():
            send(pid, number)


def send(pid: int, number: int) -> bool:
    """Whether there was anybody to get it."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def judged(journal: Path) -> int:
    """Bundles in a journal, of all sessions; 0 where there is none."""
    try:
        return sum(1 for _ in read_records(journal, kinds={"bundle"}))
    except (EnclaveError, OSError):
        return 0


def command(session: Session, launcher: Sequence[str], job: Path, resume: bool) -> list[str]:
    """mpirun with one program per rank."""
    out = [*launcher, *(["--with-ft", "ulfm"] if session.ulfm else [])]
    for rank in range(session.workers + 1):
        out += [*([":"] if rank else []), "-np", "1", sys.executable, str(ROOT / "benchmarks/chaos_rank.py"),
                str(STOPPED_S), session.liars.get(rank, "honest"), "run", str(job), *(["--resume"] if resume else [])]
    return out


def play(session: Session, line: Sequence[str], journal: Path, tag: str, log: Path, env: dict[str, str]) -> Told:
    """Run it to its end or LIMIT_S, doing its events."""
    processes, began, before = Processes(tag), time.monotonic(), judged(journal)
    with open(log, "wb") as handle:
        handle.write((" ".join(line) + "\n").encode())
        handle.flush()
        launched = subprocess.Popen(line, stdout=handle, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env={**env, TAG: tag}, start_new_session=True)
        told = Told(None, 0.0)
        try:
            _watch(session, processes, launched, told, handle, journal, before)
        finally:  # also where the soak itself is ended
            told.seconds = time.monotonic() - began
            told.code = launched.poll()
            _clear(processes, told, launched)
    return told


def _watch(session: Session, processes: Processes, launched: subprocess.Popen, told: Told, handle: BinaryIO,
           journal: Path, before: int) -> None:
    """Do the session's events until the launcher ends or LIMIT_S is over."""
    began, up, looked = time.monotonic(), False, 0.0
    waiting, due, pulses = list(session.events), [], []
    while launched.poll() is None and not told.hung:
        time.sleep(0.05)
        now = time.monotonic()
        told.hung = now - began > LIMIT_S
        if now - looked > 0.25 and waiting:
            looked = now
            up = up or len(processes.ranks()) == session.workers + 1
            seen = judged(journal) - before
            ready = [e for e in waiting if up and (e.bundles < 0 or seen >= max(1, e.bundles))]
            waiting = [e for e in waiting if e not in ready]
            due += [(now + e.delay_s, e) for e in ready]
        for at, event in [d for d in due if d[0] <= now]:
            due.remove((at, event))
            if _do(event, processes, launched.pid, pulses, now):
                told.done.append(event)
                handle.write(f"--- chaos: {event} at {now - began:.1f} s\n".encode())
                handle.flush()
        for pulse in [p for p in pulses if p[0] <= now]:
            pulses.remove(pulse)
            _, pid, left = pulse
            if send(pid, signal.SIGSTOP if left % 2 else signal.SIGCONT) and left:
                pulses.append((now + (PULSE_STOP_S if left % 2 else PULSE_GO_S), pid, left - 1))


def _do(event: Event, processes: Processes, launcher: int, pulses: list, now: float) -> bool:
    if event.action == "kill-job":
        processes.signal_all(signal.SIGKILL)
        return True
    if event.action == "kill-launcher":
        return send(launcher, signal.SIGKILL)
    pid = processes.ranks().get(event.rank)
    if pid is None:
        return False  # it is dead already
    if event.action == "slow":
        pulses.append((now, pid, 2 * PULSES - 1))
        return True
    if event.action == "nice":
        try:
            os.setpriority(os.PRIO_PROCESS, pid, 19)
            return True
        except ProcessLookupError:
            return False
    return send(pid, signal.SIGKILL if event.action == "kill" else signal.SIGSTOP)


def _clear(processes: Processes, told: Told, launched: subprocess.Popen) -> None:
    """See that nothing is left; what is left after a while is noted and killed."""
    until = time.monotonic() + (0 if launched.poll() is None else GONE_S)
    while processes.all() and time.monotonic() < until:
        time.sleep(0.2)
    for pid in processes.all():
        told.left.append(f"{pid} {processes.line(pid)}")
    processes.signal_all(signal.SIGKILL)
    launched.wait(30)
