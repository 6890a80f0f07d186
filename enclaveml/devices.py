"""The device of a rank, chosen by its node-local rank before JAX is imported.

JAX reads its environment once, so the choice is made in environment variables: first what the
machine has (:func:`probe`), then what to set (:func:`plan_environment`, pure), then JAX is imported
and asked whether it got what was chosen (:func:`bind_device`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from enclaveml.errors import EnvironmentFault

#: What a job file may name, and ``auto``: a CUDA GPU if JAX can use one, else the CPU.
DEVICES = ("cpu", "cuda", "metal", "auto")

#: XLA cuts large reductions into as many pieces as it has threads, so the last bits of a sum depend
#: on the cores that a rank is bound to (measured: JAX 0.10.2, sum of 3,000,000 float32, 1 and 2
#: cores). XLA's CPU client takes the number of its threads from NPROC (xla/pjrt/utils.cc,
#: DefaultThreadPoolSize): one, so that every rank counts alike. More throughput comes from more ranks.
CPU_THREADS = {"NPROC": "1"}

#: float32 stays float32: on GPUs JAX and cuBLAS would multiply in TF32 (10 bits of mantissa).
FULL_PRECISION = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}


@dataclass(frozen=True)
class Machine:
    """What this machine offers JAX.

    jax: version, or None where it is not installed. cuda_plugin: whether JAX's CUDA plugin is
    installed. gpus: NVIDIA GPUs of the node, whatever CUDA_VISIBLE_DEVICES says.
    """

    jax: str | None
    cuda_plugin: bool = False
    gpus: int = 0


@dataclass(frozen=True)
class DeviceInfo:
    """The device that a rank computes on. memory_gb: GB of 1e9 bytes, the rank's capacity when the
    job declares none; of the whole node for a CPU, however many ranks share it."""

    name: str
    kind: str
    memory_gb: float


def probe() -> Machine:
    """Ask the machine; imports nothing heavy and touches no GPU."""
    try:
        jax = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        jax = None
    plugins = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13", "jax_cuda12_plugin", "jax_cuda13_plugin")
    return Machine(jax, any(_installed(p) for p in plugins), _count_gpus())


def plan_environment(device: str, local_rank: int, env: Mapping[str, str],
                     machine: Machine) -> dict[str, str]:
    """The variables that make JAX use ``device`` on this rank. Pure.

    Ranks of one node take its GPUs in turn, those that CUDA_VISIBLE_DEVICES lists where it is set
    (so a GPU that Slurm bound to the task stays); more ranks than GPUs share them.

    Raises EnvironmentFault where the machine has no such device: never another one instead.
    """
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}; allowed: {', '.join(DEVICES)}")
    if machine.jax is None:
        raise EnvironmentFault("JAX is not installed, and this rank computes; pip install 'enclaveml[run]'")
    if device == "metal":
        raise EnvironmentFault(
            f"device metal: no Metal plugin serves JAX {machine.jax} (Apple's jax-metal ended at JAX 0.5, "
            "and EnclaveML needs 0.10); give this rank `device: cpu`, its memory_gb can stay")
    gpus = _visible_gpus(env, machine)
    if device == "auto":
        device = "cuda" if gpus and machine.cuda_plugin else "cpu"
    if device == "cpu":
        return {"JAX_PLATFORMS": "cpu", **FULL_PRECISION, **CPU_THREADS}
    if not machine.gpus:
        raise EnvironmentFault("device cuda: this node shows no NVIDIA GPU (`nvidia-smi -L` lists none); "
                               "ask the scheduler for one (--gres=gpu:1), or give this rank `device: cpu`")
    if not gpus:
        raise EnvironmentFault(f"device cuda: CUDA_VISIBLE_DEVICES={env['CUDA_VISIBLE_DEVICES']} hides every "
                               "GPU of this node; unset it, or ask the scheduler for a GPU (--gres=gpu:1)")
    if not machine.cuda_plugin:
        raise EnvironmentFault(f"device cuda: JAX {machine.jax} has no CUDA plugin here; "
                               "pip install 'enclaveml[gpu]'")
    return {
        # The CPU stays beside it, first wins: rows and weights are made on the host.
        "JAX_PLATFORMS": "cuda,cpu",
        "CUDA_VISIBLE_DEVICES": gpus[local_rank % len(gpus)],
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # ranks that share a GPU must leave each other room
        "NVIDIA_TF32_OVERRIDE": "0",
        **FULL_PRECISION,
    }


def bind_device(device: str, local_rank: int, env: MutableMapping[str, str] = os.environ) -> DeviceInfo:
    """Choose this rank's device, import JAX on it and say what it is.

    local_rank: the rank among those of its node. Sets variables in ``env``; binding the same device
    again changes nothing.

    Raises EnvironmentFault where the device is not there, where JAX was imported before with other
    settings, and where JAX does not come up on the device.
    """
    wanted = plan_environment(device, local_rank, env, probe())
    changed = {name: value for name, value in wanted.items() if env.get(name) != value}
    if changed and "jax" in sys.modules:
        raise EnvironmentFault(
            "JAX was imported before this rank's device was chosen, and reads its settings only then: "
            f"{', '.join(f'{name}={value}' for name, value in changed.items())}; set them before starting, "
            "or call bind_device before importing jax or flax")
    env.update(changed)
    kind = env["JAX_PLATFORMS"].split(",")[0]
    import jax

    try:
        found = jax.devices()[0]
    except RuntimeError as e:
        raise EnvironmentFault(f"device {kind}: JAX does not start on it: {str(e).splitlines()[0]}") from e
    if (found.platform == "cpu") != (kind == "cpu"):
        raise EnvironmentFault(f"device {kind}: JAX started on {found.platform} instead; "
                               "look for JAX's own warning above")
    if kind == "cpu":
        return DeviceInfo(_cpu_name(), "cpu", _host_memory() / 1e9)
    stats = found.memory_stats() or {}
    return DeviceInfo(found.device_kind, kind, stats.get("bytes_limit", 0) / 1e9)


def _visible_gpus(env: Mapping[str, str], machine: Machine) -> list[str]:
    """Identifiers of the GPUs that CUDA would show: it stops at the first that is invalid.

    References: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(i) for i in range(machine.gpus)]
    shown: list[str] = []
    for name in (part.strip() for part in listed.split(",")):
        if not name or name.startswith("-") or name == "NoDevFiles" or not machine.gpus:
            break
        shown.append(name)
    return shown


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _count_gpus() -> int:
    """NVIDIA GPUs of this node, by nvidia-smi, else by the driver's device files."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
        return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    except (OSError, subprocess.TimeoutExpired):
        return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _host_memory() -> int:
    """Bytes of memory of this node, or of the control group (a container, a Slurm step) if fewer."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
