"""Running the small job, with keys made once in a session, and what its results say."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
from launch import launcher, run
from small_job import SmallJob

#: Generous: the machine may be shared. What hangs is found by it, not what is slow.
LIMIT_S = 240


@dataclass(frozen=True)
class Outcome:
    """What a results file says of a finished run."""

    status: str
    exit_code: int
    rows: np.ndarray
    outputs: np.ndarray
    proved: np.ndarray
    ranks: tuple[dict, ...]


def read(path: Path) -> Outcome:
    """The results file as plain arrays."""
    from enclaveml.results import read_results

    with read_results(path) as r:
        return Outcome(r.status.value, int(r.attribute("exit_code")), np.asarray(r.row("status")),
                       np.asarray(r.outputs()), np.asarray(r.proved_outputs()), tuple(r.ranks))


def enclaveml(job: SmallJob, *options: str, ranks: int | None = None, env: dict[str, str] = {},
              mpi: tuple[str, ...] = (), limit: float = LIMIT_S) -> CompletedProcess[str]:
    """``enclaveml run JOB OPTIONS``, under mpirun on that many ranks or, with None, without it."""
    program = [sys.executable, "-m", "enclaveml", "run", str(job.path), *options]
    before = [] if ranks is None else [*launcher(), *mpi, "-np", str(ranks)]
    return run([*before, *program], limit, env)


def log_of(done: CompletedProcess[str]) -> str:
    """Everything that was said, for a failing test's message."""
    return f"exit status {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-12000:]}"
