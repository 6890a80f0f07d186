"""How a job ended, read from what it wrote: mpirun's exit status alone cannot be trusted.

Measured with Open MPI 5.0.11: mpirun ends with 0 for a job that it killed after it lost a
node, and with the dead rank's status for a job that survived the loss and is complete.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from enclaveml.errors import EnvironmentFault, JobError, Resumable
from enclaveml.job import journal_path

# A run that refuses its job or its machine ends with these before it writes anything, and what
# is there is then an earlier run's. No signal gives a launcher these statuses.
_REFUSED = (JobError.exit_code, EnvironmentFault.exit_code)

# Slurm's early warning in the first seconds, when no rank handles it yet.
_STOPPED_EARLY = (128 + signal.SIGUSR1, 128 + signal.SIGUSR2)


@dataclass(frozen=True)
class Outcome:
    """``code`` is the exit status that the job has, ``words`` why."""

    code: int
    words: str


def outcome(output: Path, launcher: int) -> Outcome:
    """How the job that writes ``output`` ended, ``launcher`` being mpirun's exit status.

    Raises:
        FormatError: what is there is no results file.
    """
    from enclaveml.results_reader import read_results

    if launcher in _REFUSED:
        return Outcome(launcher, f"mpirun ended with {launcher}: the run was refused")
    if journal_path(output).exists() and not output.exists():
        return _resumable(
            launcher, f"killed before its end; {journal_path(output).name} is there to go on with"
        )
    if output.exists():
        with read_results(output) as results:
            status, code = results.status.value, int(results.attribute("exit_code"))
        if code in (-1, Resumable.exit_code):
            return _resumable(launcher, f"{output.name} is {status}")
        return Outcome(code, f"{output.name} is {status}")
    if launcher in _STOPPED_EARLY:
        return Outcome(Resumable.exit_code, "stopped before anything was written")
    if launcher == 0:
        return Outcome(EnvironmentFault.exit_code, f"mpirun ended with 0, but there is no {output.name}")
    return Outcome(launcher, f"mpirun ended with {launcher} and nothing was written")


def _resumable(launcher: int, words: str) -> Outcome:
    if launcher == 1:
        # An internal error after a resume, or mpirun could not start: going on would repeat it.
        return Outcome(1, f"mpirun ended with 1; {words}")
    return Outcome(Resumable.exit_code, words)
