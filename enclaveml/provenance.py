"""What made a result: versions, host and command, read without importing any of the libraries."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from enclaveml import __version__

#: Distributions whose versions can change a result.
LIBRARIES = ("numpy", "jax", "jaxlib", "flax", "mpi4py", "ezkl", "jax2onnx", "onnx", "h5py")


def versions(mpi: str = "") -> dict[str, str]:
    """Name to version; a library that is not installed is left out.

    ``mpi`` is the MPI library's own version string.
    Host and command line are included, the user's name is not.
    """
    found = {"enclaveml": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if mpi:
        found["mpi"] = " ".join(mpi.replace("\0", " ").split())
    found["host"] = socket.gethostname()
    found["command"] = command_line()
    return found


def command_line(argv: list[str] | None = None) -> str:
    """The command as typed, with the program's name instead of its path (which may hold a user's name)."""
    program, *rest = (argv if argv is not None else sys.argv) or ["python"]
    return shlex.join([os.path.basename(program) or "python", *rest])


def utc_now() -> str:
    """Now, ISO 8601 in UTC to the second: ``2026-03-01T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def preprocessing(model: Mapping[str, Any]) -> tuple[str, bool] | None:
    """The function that a resolved job's ``model`` section names, and whether it is part of what is proved; None without one."""
    name = model.get("preprocess")
    return (str(name), model.get("preprocess_proved") is not False) if name else None


def preprocessing_words(found: tuple[str, bool]) -> str:
    """The same for a log, a report or a verdict."""
    name, proved = found
    return f"{name}, part of the proved model" if proved else f"{name}, outside of the proof: what is verified speaks of preprocessed rows"
