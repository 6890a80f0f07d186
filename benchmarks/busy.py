"""How busy the machine is, and who makes it so: this process with its children, or others.

References: proc(5), /proc/stat (user, nice, system, irq, softirq of all processors) and /proc/PID/stat (utime, stime,
cutime, cstime), all in clock ticks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")

#: Seconds: below, clock ticks of 10 ms say too little.
_SHORTEST = 0.3


@dataclass(frozen=True)
class Moment:
    """Seconds by the clock, and CPU seconds so far: of the machine (None where it doesn't say) and of our own processes."""

    clock: float
    machine: float | None
    own: float

    @staticmethod
    def now() -> Moment:
        return Moment(time.monotonic(), _machine_cpu(), tree_cpu(os.getpid()))


def others(before: Moment, after: Moment) -> float | None:
    """Processors that others kept busy between two moments, on average; None where the machine doesn't say, or hardly any time lay between."""
    if before.machine is None or after.machine is None or after.clock - before.clock < _SHORTEST:
        return None
    used = (after.machine - before.machine) - (after.own - before.own)
    return max(0.0, used / (after.clock - before.clock))


def tree_cpu(root: int) -> float:
    """CPU seconds of a process, of the children that it waited for, and of all that descend from it and run."""
    parents, used = {}, {}
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[pid] = int(fields[1])
        used[pid] = sum(int(value) for value in fields[11:15])
    return sum(used[pid] for pid in used if _descends(pid, root, parents)) / _TICKS


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):
        if pid == root:
            return True
        pid = parents.get(pid, 0)
    return False


def _pids() -> Sequence[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _machine_cpu() -> float | None:
    """CPU seconds of all processors; None without /proc, or where it counts more of them than this process is given."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if sum(line.startswith("cpu") and line[3:4].isdigit() for line in lines) != os.cpu_count():
        return None
    user, nice, system, _, _, irq, softirq = (int(value) for value in lines[0].split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS
