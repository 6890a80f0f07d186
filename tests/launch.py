"""Start mpirun in a subprocess, with a limit, from a process that never initialised MPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def launcher() -> list[str]:
    """mpirun of this environment, else of the machine, with what its vendor needs on a small machine as root."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun") or shutil.which("mpiexec")
    if not found:
        raise RuntimeError("no mpirun: pip install -e '.[test]' brings one, or load your cluster's MPI module")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, env=environment({})).stdout
    return [found, "--oversubscribe"] if "Open MPI" in version or "PRRTE" in version else [found]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a child: the package importable, Open MPI allowed as root."""
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # Coverage of the address space by hugepages and the like is no concern of tests; a quiet log is.
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **more,
    }


def mpirun(ranks: int, command: Sequence[str], timeout: float, env: Mapping[str, str] = {},
           options: Sequence[str] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python COMMAND`` on that many ranks; one whose limit passes is killed with its children and fails."""
    return run([*launcher(), *options, "-np", str(ranks), sys.executable, *command], timeout, env, cwd)


def run(command: Sequence[str], timeout: float, env: Mapping[str, str] = {},
        cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a process group of its own, so that its limit ends all of it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
                               env=environment(env), start_new_session=True)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s: {command}\n{out[-3000:]}\n{err[-6000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)
