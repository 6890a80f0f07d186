"""Checks that need MPI: which one it is, whether ranks see each other, what nodes share, clocks."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from enclaveml.comm import World
from enclaveml.finding import FAULT, WARNING, Finding, ok
from enclaveml.node_scratch import scratch_root
from enclaveml.zk.keys import cache_root

#: Clocks of two ranks may differ by this, in seconds: times in the log and the journal are rank 0's.
SKEW_S = 1.0
_PINGS = 5


def library(world: World) -> list[Finding]:
    """The MPI and its version, whether mpirun on the path is its own, and whether a lost rank can be survived."""
    found = [ok("mpi", f"{world.vendor} ({world.library})")]
    beside = Path(sys.executable).with_name("mpirun")
    launcher = shutil.which("mpirun") or shutil.which("mpiexec") or (str(beside) if beside.exists() else None)
    if launcher is None:
        found.append(Finding("mpirun", WARNING, "there is none on PATH, nor beside this Python",
                             "load the MPI's module, or use srun --mpi=pmix"))
    else:
        said = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=60)
        kind = vendor_of(said.stdout + said.stderr)
        if kind and kind not in world.vendor:
            found.append(Finding("mpirun", FAULT, f"{launcher} is {kind}'s, mpi4py uses {world.vendor}: each process "
                                 "would be a world of its own", "put that MPI's bin folder first on PATH"))
        else:
            found.append(ok("mpirun", f"{launcher} ({kind or 'of a vendor that does not say its name'})"))
    if world.fault_tolerant:
        found.append(ok("ulfm", "a lost rank is survived"))
    elif world.ulfm and "Open MPI" in world.vendor:
        found.append(Finding("ulfm", WARNING, "not asked for: a lost rank ends the job, which --resume goes on with",
                             "mpirun --with-ft ulfm"))
    else:
        found.append(Finding("ulfm", WARNING, f"{world.vendor} ends the job when a rank is lost",
                             "go on with --resume, or use Open MPI 5 with mpirun --with-ft ulfm"))
    return found


def vendor_of(version: str) -> str:
    """"Open MPI", "MPICH" or "Intel MPI" from what ``mpirun --version`` says; "" for others."""
    for word, name in (("Open MPI", "Open MPI"), ("PRRTE", "Open MPI"), ("prterun", "Open MPI"),
                       ("Intel(R) MPI", "Intel MPI"), ("HYDRA", "MPICH"), ("MPICH", "MPICH")):
        if word in version:
            return name
    return ""


def ranks(world: World) -> list[Finding]:
    """Collective. Whether every rank hears every other, by the values of a collective, and where they are."""
    told = world.allgather_array(np.array([world.rank, os.getpid()], np.int64), "doctor: the exchange of ranks")
    if told[:, 0].tolist() != list(range(world.size)):
        return [Finding("ranks", FAULT, f"a collective of {world.size} ranks gave {told[:, 0].tolist()}",
                        "see your MPI's transports: mpirun --mca pml ob1 for Open MPI")]
    if world.size == 1:
        return [Finding("ranks", WARNING, "one rank: nothing is known of the others",
                        "run it as the job is run: mpirun -np 4 enclaveml doctor, on the nodes that it gets")]
    hosts = list(dict.fromkeys(world.hosts))
    each = {host: world.hosts.count(host) for host in hosts}
    same = len(set(each.values())) == 1
    text = f"{world.size} ranks on {len(hosts)} node{'' if len(hosts) == 1 else 's'} hear each other"
    text += f", {each[hosts[0]]} on each" if same and len(hosts) > 1 else ""
    text += "" if same else ": " + ", ".join(f"{n} on {host}" for host, n in list(each.items())[:8])
    return [ok("ranks", text)]


def clocks(world: World) -> list[Finding]:
    """Collective. How far the ranks' clocks are apart, within what the exchange itself takes."""
    best, skew = float("inf"), 0.0
    for _ in range(_PINGS):
        before = time.time()
        told = world.allgather_array(np.array([before, time.time()]), "doctor: the exchange of clocks")
        took = time.time() - before
        # All ranks entered within `took` of each other, or the exchange would have taken longer on the first.
        slack = float(world.allgather_array(np.array([took]), "doctor: how long that took").max())
        if slack < best:
            best, skew = slack, float(np.ptp(told[:, 0]))
    if world.size == 1:
        return []
    if skew > SKEW_S + best:
        return [Finding("skew", WARNING, f"clocks of the ranks are {skew:.1f} s apart", "synchronise the nodes (NTP, chrony)")]
    return [ok("skew", f"clocks of the ranks agree within {max(skew, best):.3f} s")]


def shared(world: World) -> list[Finding]:
    """Collective. What nodes share: the cache and its lock, and the scratch, which they should not."""
    found: list[Finding] = []
    leader = world.rank in world.node_leaders()
    for what, place in (("cache", cache_root()), ("scratch", scratch_root())):
        sent = world.bcast_bytes(str(place).encode() if world.is_root else None, f"doctor: {what}")
        token = Path(sent.decode()) / f".doctor-{what}-shared"
        handle = None
        if world.is_root:
            try:
                handle = open(token, "wb")  # noqa: SIM115 (held while the others look)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                handle.write(b"doctor")
                handle.flush()
                os.fsync(handle.fileno())
            except OSError:
                pass  # the check of this machine says so
        world.allgather_array(np.zeros(1), "doctor: the token is there")
        other_node = leader and world.host != world.hosts[0]
        seen = other_node and token.exists()
        locked = True
        if seen:
            try:
                with open(token, "rb+") as mine:
                    fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    locked = False
            except OSError:
                pass
        told = world.allgather_array(np.array([seen, seen and not locked], np.int64), "doctor: who sees the token")
        if handle is not None:
            handle.close()
            token.unlink(missing_ok=True)
        nodes = len(set(world.hosts))
        see, break_in = int(told[:, 0].sum()), int(told[:, 1].sum())
        if nodes == 1:
            continue
        if what == "scratch" and see:
            found.append(Finding("scratch", WARNING, f"{place} is the same folder on {see + 1} of {nodes} nodes",
                                 "set ENCLAVEML_SCRATCH to a folder on each node's own disk"))
        if what == "cache":
            found.append(Finding("locking", WARNING, f"flock in {place} does not keep nodes apart",
                                 "start one job at a time, or mount the file system with locks (Lustre: -o flock)")
                         if break_in else ok("cache", f"{see + 1} of {nodes} nodes see rank 0's; others get copies"))
    return found


def gathered(world: World, mine: Sequence[Finding]) -> list[list[Finding]]:
    """Collective. Everybody's findings by rank, on rank 0; [] elsewhere."""
    sent = world.gather_bytes(json.dumps([asdict(one) for one in mine]).encode(), "doctor: the findings")
    return [[Finding(**one) for one in json.loads(text)] for text in sent]
