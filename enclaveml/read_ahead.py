"""The rows that come next, read by a thread of their own while this rank infers."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

import numpy as np

from enclaveml.capacity import allowed_cores


class ReadAhead:
    """Reads rows, those that were announced beforehand.

    Args:
        read: dataset rows [start, stop) as (stop - start, *row_shape); from several threads.
    """

    def __init__(self, read: Callable[[int, int], np.ndarray]) -> None:
        self._read = read
        self._coming: _Reading | None = None

    def expect(self, start: int, stop: int) -> None:
        """Begin to read rows [start, stop). What was expected before and not asked for is forgotten."""
        self._coming = _Reading(self._read, start, stop)

    @property
    def ready(self) -> bool:
        """Whether nothing is being read: what was expected is here."""
        return self._coming is None or not self._coming.thread.is_alive()

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop): those that were expected as soon as they are here, others are read now.

        Raises what reading them raised.
        """
        coming = self._coming
        if coming is None or (coming.start, coming.stop) != (start, stop):
            return self._read(start, stop)
        self._coming = None
        return coming.take()


class _Reading:
    """One piece that a thread reads."""

    def __init__(self, read: Callable[[int, int], np.ndarray], start: int, stop: int) -> None:
        self._read, self.start, self.stop = read, start, stop
        self._rows: np.ndarray | None = None
        self._error: BaseException | None = None
        # A daemon: a file system that is gone would keep the process from ending.
        self.thread = threading.Thread(target=self._run, name="enclaveml-read-ahead", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        # Not on the one core that mpirun bound this rank to, on which it infers: this thread may be on any of the job's.
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setaffinity(0, allowed_cores())
        try:
            self._rows = self._read(self.start, self.stop)
        except BaseException as error:  # raised again where the rows are wanted
            self._error = error

    def take(self) -> np.ndarray:
        """The rows, waited for. Rank 0's guard bounds that, as it bounds a read of its own."""
        self.thread.join()
        if self._error is not None:
            raise self._error
        return self._rows
