"""The exceptions that end a program, each with the exit status it ends with.

The statuses are part of the interface (README, "Exit status"):

    0    complete, by the job's own policy
    1    internal error: a bug of ours, with a traceback
    2    bad job: the job file, the command line, the model or the data
    3    rows unverified under ``proof.strict``
    4    environment: a file, a library, MPI or a device does not serve
    75   stopped early and resumable (EX_TEMPFAIL of BSD's sysexits.h)
    130  SIGINT, 143 SIGTERM
"""

from __future__ import annotations

from dataclasses import dataclass


class EnclaveError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


@dataclass(frozen=True)
class Fault:
    """One fault of a job file: where it is, what is wrong and what to do.

    ``where`` is ``file:line`` (or the option that set the key), ``key`` the
    dotted path to the key (``split.strategy``), ``message`` what was found,
    what is allowed and the nearest valid name.
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class JobError(EnclaveError):
    """A job that cannot be run as written. Holds all of its faults at once."""

    exit_code = 2

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(f) for f in faults))


class Unverified(EnclaveError):
    """Rows ended unverified under ``proof.strict``; the file has everything known."""

    exit_code = 3


class EnvironmentFault(EnclaveError):
    """The machine does not serve: a file, a library, MPI, a device, a full disk."""

    exit_code = 4


class Resumable(EnclaveError):
    """Stopped before the end with everything verified so far kept."""

    exit_code = 75


class RemoteFailure(EnclaveError):
    """Another rank failed; ``exit_code`` is that rank's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FormatError(EnclaveError):
    """Bytes that are not what their format says: an envelope, a journal, a results file.

    Raised by parsers, and the only class that they raise whatever bytes they get.
    """

    exit_code = 4


class ProofError(EnclaveError):
    """A proof system's child process failed, timed out, or refused its input."""
