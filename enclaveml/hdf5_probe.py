"""Whether HDF5 gets through the structure of a file, asked of a process that may hang or die of it.

A damaged or hostile file can hold the HDF5 library for ever, or kill it (seen with HDF5 2.0.0, h5py 3.16: one
flipped bit in the size of a heap's object, and reading an attribute never ends; ``h5dump`` neither). It then holds
Python's interpreter too, which hears no Ctrl-C. So the verbs that read somebody else's file ask here first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from enclaveml import hdf5
from enclaveml.errors import EnclaveError, EnvironmentFault, FormatError
from enclaveml.launcher import with_package

#: CPU seconds for a results file's structure, which takes 0.1 for any number of rows; and seconds, where a slow
#: file system is read.
CPU_S, WALL_S = 30, 300.0


def check_readable(path: str | Path, cpu_s: int = CPU_S, wall_s: float = WALL_S) -> None:
    """Return where HDF5 ends: well, or with an error, which reading the file then has too.

    Raises:
        FormatError: HDF5 hangs in the file's structure, or dies of it.
        EnvironmentFault: the process cannot start, or was killed by somebody else (memory).
    """
    # -P: else a module of the folder where a file is audited would be imported; this package is not always installed.
    command = [sys.executable, "-P", "-m", "enclaveml.hdf5_probe", str(cpu_s), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=with_package(os.environ))
    try:
        _, told = process.communicate(timeout=wall_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may be in a system call that nothing ends
            process.wait(timeout=10)
        raise FormatError(f"{path}: HDF5 did not get through its structure in {wall_s:g} s: it is damaged, or "
                          "its file system hangs") from None
    if process.returncode == -signal.SIGKILL:
        raise EnvironmentFault(f"{path}: the process that looks at it first was killed (memory?); see the system's log")
    if process.returncode < 0:
        raise FormatError(f"{path}: damaged: HDF5 hung in its structure, or died of it (signal {-process.returncode}, "
                          f"limit {cpu_s} CPU s)")
    if process.returncode:
        raise EnvironmentFault(f"{path}: the process that looks at it first failed: {told.decode(errors='replace').strip()[-300:]}")


def main(cpu_s: int, path: str) -> None:
    """Read all that is there but datasets' data, within so many CPU seconds."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))  # at the first SIGXCPU, which nobody else sends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with hdf5.open_read(path) as file:
            for _, kind, node in hdf5.walk(file):
                hdf5.describe(kind, node)
                if kind in ("group", "dataset"):
                    hdf5.describe_attributes(node)
    except EnclaveError:
        pass  # the caller's own reading says it, and where


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
