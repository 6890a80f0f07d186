"""Ends what belongs to one test cluster, as a program: when its standard input closes.

    python reaper.py /tmp/…/slurm.conf /tmp/…

A process belongs to the cluster if its environment has that SLURM_CONF: the daemons, the job
steps, the batch scripts and whatever they started. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

# Seconds from SIGTERM to SIGKILL, and from there to giving up.
PATIENCE_S = 3.0
BOUND_S = 10.0


def members(conf: str) -> list[int]:
    """The living processes of the cluster with this configuration file, without this one."""
    mark = b"SLURM_CONF=" + conf.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # it has just ended
    return found


def sweep(conf: str) -> None:
    """End them all: SIGTERM, then SIGKILL. Raises RuntimeError if some live on past the bound."""
    began = time.monotonic()
    asked: set[int] = set()
    while alive := members(conf):
        waited = time.monotonic() - began
        if waited > BOUND_S:
            raise RuntimeError(f"still there after SIGKILL: {alive}")
        for pid in alive:
            if waited > PATIENCE_S or pid not in asked:
                asked.add(pid)
                try:
                    os.kill(pid, signal.SIGKILL if waited > PATIENCE_S else signal.SIGTERM)
                except ProcessLookupError:
                    pass
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
