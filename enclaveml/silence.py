"""How long a rank that owes an answer may be silent before its rows go to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

# Longer steps of rank 0 count as this many seconds: nobody is heard while one rank holds up a tick or
# the machine sleeps. A rank that holds up ticks is the watchdog's business (see ``loop``).
LONGEST_STEP_S = 1.0

# What an answer takes beside the proof itself, in seconds: starting a child, the ticks there and back.
GRACE_S = 10.0


def limit_s(timeout_s: float) -> float:
    """The longest silence of a rank whose bundles may take ``timeout_s`` each.

    As long as a rank has bundles, one is in a child, which is killed after ``timeout_s`` and, where inputs
    are hashed, has as long again for the hash: within this time an honest rank answers something.
    Of a circuit in slices a rank answers each slice too, once: one that stalls between them is lost after that many times this.
    """
    return 2 * timeout_s + GRACE_S


class Silence:
    """Seconds for which each rank has owed an answer and given none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._silent: dict[int, float] = {}

    def heard(self, rank: int) -> None:
        """The rank has answered something."""
        self._silent.pop(rank, None)

    def step(self, limits: Mapping[int, float]) -> dict[int, float]:
        """Count the time since the last step. ``limits``: each rank that owes an answer, with its limit in seconds.

        Returns the ranks past their limit, with the seconds for which they have been silent.
        """
        now = self._clock()
        passed, self._last = min(max(0.0, now - self._last), LONGEST_STEP_S), now
        # Who began to owe since the last step starts at nought.
        self._silent = {r: self._silent[r] + passed if r in self._silent else 0.0 for r in limits}
        return {rank: self._silent[rank] for rank, limit in limits.items() if self._silent[rank] > limit}
