"""What a signal means to a run: stop early and keep everything, or end at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Terminated(BaseException):
    """SIGINT or SIGTERM arrived; ``exit_code`` is 128 + the signal's number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class StopRequests:
    """Handlers for the time of a run.

    SIGUSR1 or SIGUSR2 (what Slurm sends before a time limit, by ``--signal``): finish
    the bundles at hand, write, end resumable; a second one: end at once, resumable.
    SIGINT, SIGTERM: raise ``Terminated`` in the main thread.
    """

    def __init__(self) -> None:
        self.requested = False
        self.told = False
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._stop)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            # Everything that was verified is in the journal already: records are
            # written as they come, and a torn one at the end is cut off by --resume.
            os._exit(75)
        self.requested = True

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise Terminated(number)
