"""A rank's own end of its guard (``guard``): start it, tell it that all is well, and for how long that holds.

Why a process beside the rank, and not a timer inside it: a stopped process runs no timer, and
``faulthandler``'s exit by ``_exit(1)`` was not noticed by ULFM's survivors, who then waited for ever (tried,
Open MPI 5.0.11). A death by SIGKILL is. A process in an uninterruptible wait for a dead file system can be
ended by nobody; the others then end by the bound of their own waits.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from enclaveml import guard
from enclaveml.errors import EnvironmentFault

# A rank that is stopped (SIGSTOP) this long is given up, in seconds, at any time of the run:
# no honest work looks like that, and until then it holds up the ticks of all.
STOPPED_S = 60.0

# Joining the other ranks (MPI_Init, the first collective) may take this long, in seconds. It comes
# before anything slow is imported. MPI has no bound of its own here: where a rank dies in MPI_Init
# under ULFM, the others wait in it for ever (found by the soak, Open MPI 5.0.11).
START_S = 300.0

# Messages are this far apart at least, in seconds.
BEAT_S = 1.0

_STDERR = 2


class Watchdog:
    """The guard of this process. One that could not be told anything (its process died) guards no longer."""

    def __init__(self, process: subprocess.Popen, stopped_s: float) -> None:
        self._process, self._stopped_s = process, stopped_s
        os.set_blocking(process.stdin.fileno(), False)
        self._told: tuple[float, float, float] | None = None
        self._told_at = 0.0

    @classmethod
    def start(cls, name: str) -> Watchdog:
        """Start the guard of this process, called ``name`` in what it says. Best before MPI is there.

        Until the first ``arm`` or ``disarm``, START_S is the limit.

        Raises:
            EnvironmentFault: no process can be started.
        """
        limits = (STOPPED_S, 0.0, START_S)
        # The guard asks for a traceback of all threads, which is written without the GIL.
        faulthandler.register(signal.SIGALRM, _STDERR)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(guard.__file__)), str(os.getpid()), name, *map(str, limits)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        except OSError as error:
            raise EnvironmentFault(f"{name}: its guard cannot be started: {error.strerror}") from error
        return cls(process, STOPPED_S)

    def alone(self) -> None:
        """Nobody waits for this rank: it may be stopped and continued as its user likes."""
        self._stopped_s = 0.0
        self._told = None
        self.disarm()

    def arm(self, silent_s: float, idle_s: float = 0.0) -> None:
        """All is well. This process must not live on if it says nothing more for ``silent_s`` seconds,

        or for ``idle_s`` (0: no such limit) in which it used no CPU time. Cheap: to be called in every step.
        """
        limits = (self._stopped_s, idle_s, silent_s)
        now = time.monotonic()
        if limits == self._told and now - self._told_at < BEAT_S:
            return
        try:
            os.write(self._process.stdin.fileno(), guard.MESSAGE.pack(*limits))
        except (BlockingIOError, BrokenPipeError):
            return  # the guard is stopped or dead; a message that is late is said again
        self._told, self._told_at = limits, now

    def disarm(self) -> None:
        """Only a stop counts from now on: what comes may take as long as it takes."""
        self.arm(0.0)

    def close(self) -> None:
        """End the guard."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # somebody has stopped it
            self._process.kill()
            self._process.wait()
