"""What a rank can take: cores and memory, measured without JAX, and capacities for the split.

Memory is in GB of 2**30 bytes, as memory is sold. P ranks.

References: proc(5) for ``status`` and ``meminfo``; the kernel's cgroup-v2 (cpu.max, memory.max) and
cgroup-v1 (cpu.cfs_quota_us, memory.limit_in_bytes) documents; srun(1) for Slurm's variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .job import RankSpec

GB = 1 << 30
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# Names of the processes that start ranks, as /proc/<pid>/status cuts them (15 characters).
_LAUNCHERS = frozenset(
    ("mpirun", "mpiexec", "prterun", "prted", "orterun", "orted", "mpiexec.hydra", "hydra_pmi_proxy")
)


@dataclass(frozen=True)
class RankFacts:
    """One rank's machine. ``cores`` are the node's that this job may use, shared by its ranks there;
    ``memory_gb`` is this rank's part of the memory that the job may use on the node, divided evenly.

    ``node_id`` is Slurm's name of the node, else the host; ``device`` "cuda" where the node shows an
    NVIDIA GPU to this rank, else "cpu": a guess for the log, since only JAX can say which device serves.
    """

    host: str
    node_id: str
    local_rank: int
    cores: int
    memory_gb: float
    device: str


def measure(
    host: str,
    local_rank: int,
    ranks_on_node: int,
    env: Mapping[str, str] | None = None,
    proc: Path = _PROC,
    cgroup: Path = _CGROUP,
) -> RankFacts:
    """Measure the machine under this rank. ``env``, ``proc``, ``cgroup`` stand in for the real ones in tests.

    Reads files and variables only; what cannot be read limits nothing.
    """
    env = os.environ if env is None else env
    return RankFacts(
        host=host,
        node_id=env.get("SLURMD_NODENAME") or host,
        local_rank=local_rank,
        cores=node_cores(ranks_on_node, env, proc, cgroup),
        memory_gb=node_memory(env, proc, cgroup) / ranks_on_node / GB,
        device="cuda" if _sees_gpu(env, proc) else "cpu",
    )


def capacities(facts: Sequence[RankFacts], specs: Sequence[RankSpec | None]) -> np.ndarray:
    """The weight of each rank in the split, (P,) float64 in GB: declared memory where the job has it,
    else the measured part. ``specs[p]`` describes rank p, or is None.
    """
    return np.array(
        [
            fact.memory_gb if spec is None or spec.memory_gb is None else spec.memory_gb
            for fact, spec in zip(facts, specs, strict=True)
        ],
        dtype=np.float64,
    )


def device_capacity(device: str, device_gb: float, share: float) -> float:
    """The weight in the split of a rank that the job does not describe, in GB.

    A GPU's own memory, as JAX found it (``device_gb``, of 1e9 bytes; 0 where it does not say); on a CPU,
    whose memory the node's ranks share, the measured ``share``.
    """
    return share if device == "cpu" or device_gb <= 0 else device_gb * 1e9 / GB


def allowed_cores(proc: Path = _PROC) -> tuple[int, ...]:
    """The node's cores that this rank's processes may be put on, as numbers, ascending.

    mpirun binds a rank to one core, which its children inherit: the launcher's own cores count, which
    are what ``taskset``, a cpuset or Slurm left to the job. Without a launcher, the process's own.
    """
    return _allowed(proc)[0]


def node_cores(ranks_on_node: int, env: Mapping[str, str], proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """How many of the node's cores all ranks of the job there share; 1 at least."""
    allowed, launched = _allowed(proc)
    limits = [float(len(allowed))]
    on_node = _whole(env.get("SLURM_CPUS_ON_NODE"))
    if on_node and "SLURM_STEP_ID" in env and not launched:
        # Under srun each task may be bound to cores of its own: the node's number is Slurm's alone.
        limits = [float(on_node)]
        if per_task := _whole(env.get("SLURM_CPUS_PER_TASK")):
            limits.append(float(per_task * ranks_on_node))
    elif on_node:
        limits.append(float(on_node))
    for folder in _cgroup_folders("cpu", proc, cgroup):
        quota, period = (_text(folder / "cpu.max").split() + ["", ""])[:2]
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if _whole(quota) and _whole(period):
            limits.append(_whole(quota) / _whole(period))
    return max(1, int(min(limits)))


def node_memory(env: Mapping[str, str], proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Bytes of the node's memory that all ranks of the job there share: what is built in (not what is
    free, so that a job splits the same way tomorrow), or less where a cgroup or Slurm sets a limit.
    """
    limits = [_total_memory(proc)]
    for folder in _cgroup_folders("memory", proc, cgroup):
        limits.append(_whole(_text(folder / "memory.max")) or _whole(_text(folder / "memory.limit_in_bytes")))
    limits.append(_whole(env.get("SLURM_MEM_PER_NODE")) << 20)  # MiB; 0 means all
    limits.append((_whole(env.get("SLURM_MEM_PER_CPU")) << 20) * _whole(env.get("SLURM_CPUS_ON_NODE")))
    return min(limit for limit in limits if limit > 0)


def _allowed(proc: Path) -> tuple[tuple[int, ...], bool]:
    """The cores of ``allowed_cores``, and whether a launcher of ranks is among the parents."""
    status = _status(proc / "self")
    cores = _core_list(status.get("Cpus_allowed_list", "")) or set(range(os.cpu_count() or 1))
    parent, depth = _whole(status.get("PPid")), 0
    while parent > 0 and depth < 32:
        status = _status(proc / str(parent))
        if status.get("Name") in _LAUNCHERS:
            return tuple(sorted(_core_list(status.get("Cpus_allowed_list", "")) or cores)), True
        parent, depth = _whole(status.get("PPid")), depth + 1
    return tuple(sorted(cores)), False


def _cgroup_folders(controller: str, proc: Path, cgroup: Path) -> Iterator[Path]:
    """The process's cgroup of this controller and all above it, where limits may stand; v2 and v1.

    In a container the path may be the host's and not there: then only the mount's top is read.
    """
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if not controllers:
            tops = [cgroup, cgroup / "unified"]
        elif controller in controllers.split(","):
            tops = [cgroup / controller, cgroup / controllers]
        else:
            continue
        relative = Path(path.lstrip("/"))
        if ".." in relative.parts:
            relative = Path()
        for top in tops:
            yield from (top / part for part in (relative, *relative.parents))


def _total_memory(proc: Path) -> int:
    for line in _text(proc / "meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal" and _whole(value.split()[0] if value.split() else ""):
            return _whole(value.split()[0]) << 10  # "kB" in meminfo are KiB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _sees_gpu(env: Mapping[str, str], proc: Path) -> bool:
    visible = env.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in ("", "-1", "NoDevFiles")
    gpus = proc / "driver" / "nvidia" / "gpus"
    return not hidden and gpus.is_dir() and any(gpus.iterdir())


def _status(process: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(process / "status").splitlines())
    return {name: value.strip() for name, _, value in lines}


def _core_list(text: str) -> set[int]:
    """The numbers in a list such as "0-2,7"."""
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            cores.update(range(int(first), int(last or first) + 1))
    return cores


def _whole(text: str | None) -> int:
    """The number, or 0: "max", -1, nothing and nonsense all limit nothing."""
    text = (text or "").strip()
    return int(text) if text.isdecimal() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
