"""Now and then, rank 0 journals what each rank has done: that the job lives can be seen from any machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from enclaveml.errors import EnvironmentFault
from enclaveml.journal import Journal

#: Seconds between two records in a job's first minutes; later a part of its age, so that the records of a
#: day's job stay small: some 5 a factor of e.
LEAST_S = 10.0
PART = 0.01
#: Never rarer than this, in seconds: whoever watches the job would take it for dead.
MOST_S = 300.0


class Heartbeat:
    """Writes a ``heartbeat`` record when one is due.

    Args:
        columns: names of what each rank's statistics are, S of them.
        stats: rank id to its running totals (S,); looked at when a record is due.
    """

    def __init__(self, journal: Journal, columns: tuple[str, ...], stats: Mapping[int, np.ndarray],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._journal, self._columns, self._stats, self._clock = journal, columns, stats, clock
        self._began = self._last = clock()

    def tick(self) -> None:
        """Write a record and force it to the disk, if one is due: another machine sees it soon after."""
        now = self._clock()
        every = min(max(LEAST_S, PART * (now - self._began)), MOST_S)
        if now - self._last < every:
            return
        self._last = now
        ranks = sorted(self._stats)
        try:
            self._journal.append(
                "heartbeat", {"columns": list(self._columns), "every_s": every},
                ranks=np.array(ranks, np.int32), values=np.array([self._stats[r] for r in ranks], np.float64),
            )
            self._journal.flush()
        except EnvironmentFault:
            pass  # the next record that matters meets the same fault where all ranks are told of it
