"""How fast the ranks are, by rank 0's own clock: what decides who is a straggler and who gets how much.

Of proofs a rank's word is not asked: the clock runs from when a bundle can be in one of the rank's
children until rank 0 has the answer. Inference is over within a tick, which lasts as long for a fast rank as for the
slowest, so that by the clock all would be alike: there the rank says how long it took. What it can gain by lying
is more or fewer rows of a job in which nothing is proved, and not without bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from enclaveml.ledger import Bundle
from enclaveml.roster import Member

#: What a rank says of its inference counts down to this part of the time by rank 0's clock.
LEAST_TOLD = 1 / 16


class Pace:
    """Seconds per bundle and child of each rank. ``clock`` gives seconds and never goes back."""

    def __init__(self, members: Mapping[int, Member], clock: Callable[[], float] = time.monotonic) -> None:
        self._members, self._clock = members, clock
        self.now = clock()
        self._began: dict[int, dict[int, float]] = {rank: {} for rank in members}
        self._seconds: dict[int, float] = {}
        self._bundles: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._inferring: dict[int, float] = {}
        self._inferred: dict[int, int] = {}
        self._told: dict[int, float] = {}

    def tick(self) -> float:
        """Read the clock, once a step: all of a step happens at the same time. Returns the seconds since the last."""
        before, self.now = self.now, self._clock()
        return self.now - before

    def begin(self, rank: int, hand: Iterable[Bundle]) -> None:
        """``hand`` are the bundles that a rank has, oldest first: as many as it has children are begun."""
        for _, bundle in zip(range(self._members[rank].children), hand):
            self._began[rank].setdefault(bundle.id, self.now)

    def end(self, bundle: Bundle, proved: bool) -> None:
        """A bundle was answered; only a proof tells how long one takes."""
        began = self._began[bundle.rank].pop(bundle.id, self.now)
        if proved:
            self._count(bundle, self.now - began)

    def took_part(self, bundle: Bundle, share: float) -> None:
        """A rank proved this share of a bundle, of which another proved the rest: so long would the whole have taken it."""
        if (began := self._began[bundle.rank].get(bundle.id)) is not None:
            self._count(bundle, (self.now - began) / share)

    def _count(self, bundle: Bundle, seconds: float) -> None:
        rank = bundle.rank
        self._seconds[rank] = self._seconds.get(rank, 0.0) + seconds
        self._bundles[rank] = self._bundles.get(rank, 0) + 1
        self._rows[rank] = self._rows.get(rank, 0) + len(bundle.rows)

    def age(self, bundle: Bundle) -> float:
        """For how long a child of its rank has had a bundle, in seconds; 0 where it waits for a child."""
        return self.now - self._began[bundle.rank].get(bundle.id, self.now)

    def inferred(self, rank: int, rows: int, seconds: float, told: float = 0.0) -> None:
        """A rank had rows to infer for this long, and answered so many of them; ``told``: in how many seconds, by its word."""
        self._told[rank] = self._told.get(rank, 0.0) + told
        self._inferring[rank] = self._inferring.get(rank, 0.0) + seconds
        self._inferred[rank] = self._inferred.get(rank, 0) + rows

    def expected(self, rank: int) -> float:
        """Seconds that a bundle takes in a child of the rank: as measured, and no less than one has taken by now.

        1.0 where nobody has proved anything yet.
        """
        known = self.seconds(rank)
        ages = (self.now - began for began in self._began[rank].values())
        return 1.0 if known is None else max(known, *ages, 1e-9)

    def inference(self, rank: int) -> float | None:
        """Rows that a rank infers per second: its own, else the mean of all; None where nothing was answered."""
        ranks = [rank] if self._inferred.get(rank) else list(self._inferred)
        rows = sum(self._inferred[r] for r in ranks)
        return rows / max(sum(map(self._seconds_of, ranks)), 1e-9) if rows else None

    def _seconds_of(self, rank: int) -> float:
        """How long a rank inferred: by its word, where that is within what the clock allows; 0.0 is no word."""
        clock, told = self._inferring[rank], self._told[rank]
        return min(clock, max(told, LEAST_TOLD * clock)) if told else clock

    @property
    def measured(self) -> bool:
        """Whether anything was proved, or inferred where nothing is proved."""
        return bool(self._bundles or self._inferred)

    @property
    def unknown(self) -> bool:
        """Whether nobody has proved anything yet."""
        return not self._bundles

    def seconds(self, rank: int) -> float | None:
        """What a bundle takes in a child of the rank, in s: its own mean, else that of all; None without any."""
        if rank in self._bundles:
            return self._seconds[rank] / self._bundles[rank]
        if self._bundles:
            return sum(self._seconds.values()) / sum(self._bundles.values())
        return None

    def rows_per_second(self, rank: int) -> float:
        """Rows that the rank proves per second with all its children, or infers where nothing is proved, by the clock; or NaN."""
        if rank not in self._bundles:
            rows = self._inferred.get(rank, 0)
            return rows / max(self._inferring[rank], 1e-9) if rows else float("nan")
        return self._members[rank].children * self._rows[rank] / max(self._seconds[rank], 1e-9)
