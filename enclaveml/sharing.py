"""Work for ranks that ran out of it: rows that another rank has not begun, then bundles in flight at a straggler.

Everything is estimated from measured seconds per bundle (``pace``) in units of bundles:
moving rows costs their inference once more and a tick, so it is done where the rank that
takes them over has them proved before the other would.

Only where every row is proved. With coverage below 1 a rank's drawn rows stand for the rest
of what it said: proved elsewhere they would say nothing about it, and a rank could have
the rows that it lied about taken away by being slow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from enclaveml.bundles import AHEAD, ANSWER_S, Bundles
from enclaveml.copies import Copies
from enclaveml.job import JobSpec
from enclaveml.accounts import Accounts
from enclaveml.ledger import DUE, READY, SENT, Bundle
from enclaveml.pace import Pace
from enclaveml.roster import Member

# A bundle is proved by an idle rank as well where that takes this many times less than the bundle
# has taken, or is going to take, where it is; the time for ticks and inference not counted.
STRAGGLING = 1.5


class Sharing:
    """Decides who is idle, who is behind, and what goes from one to the other."""

    def __init__(self, job: JobSpec, accounts: Accounts, bundles: Bundles, copies: Copies, pace: Pace,
                 members: Mapping[int, Member]) -> None:
        self._allowed = job.split.reassign and job.proof.coverage == 1.0
        #: A copy is one proof more of the model's weights, and a budget of them is for the rows.
        self._copies_allowed = not job.proof.private_weights
        self._weighs = job.split.strategy != "equal"
        self._accounts, self._bundles, self._copies, self._pace = accounts, bundles, copies, pace
        self._members = members

    def step(self) -> None:
        """Give idle ranks what they can help with, after everybody was ordered what is its own."""
        if not self._allowed:
            return
        idle = [rank for rank, m in self._members.items()
                if m.working and (m.capacity > 0 or not self._weighs) and self._busy(rank) < m.children]
        if not idle:
            return
        due, owed = self._count(DUE), self._count(SENT, READY)
        idle = [rank for rank in idle if not due[rank] and not owed[rank]]
        if not idle:
            return
        idle = self._move(idle, due)
        if self._copies_allowed:
            self._copy(idle)

    def _busy(self, rank: int) -> int:
        """How many bundles a rank has, those among them that it infers first."""
        return self._bundles.in_hand(rank) + self._copies.inferring(rank)

    def _count(self, *stages: int) -> np.ndarray:
        """How many rows each rank has at these stages, (ranks,) by rank id."""
        return self._accounts.count(max(self._members) + 1, *stages)

    # -- rows that were not begun ------------------------------------------------

    def _move(self, idle: list[int], due: np.ndarray) -> list[int]:
        """Take bundles from whoever would be done last, as long as an idle rank is done with them earlier.

        Returns the idle ranks that got nothing.
        """
        taken = dict.fromkeys(idle, 0)
        left = {rank: self._left(rank, due) for rank, m in self._members.items() if m.working}
        one = {rank: self._pace.expected(rank) / self._children(rank) for rank in left}
        while idle:
            taker = min(idle, key=lambda rank: (left[rank] + one[rank], rank))
            # However many children it has, one bundle is in one of them.
            sooner = max(left[taker] + one[taker], self._pace.expected(taker)) + self._overhead
            late = sorted((rank for rank, seconds in left.items() if seconds > sooner and rank not in taken),
                          key=lambda rank: (-left[rank], rank))
            if not late:
                break  # nor would it be any use to those who are done later than this one
            holder = next((rank for rank in late if self._take(taker, rank, due)), None)
            if holder is not None:
                left[holder] -= one[holder]
                left[taker] += one[taker]
                taken[taker] += 1
            if holder is None or self._busy(taker) + taken[taker] >= self._children(taker) + AHEAD:
                idle = [rank for rank in idle if rank != taker]
        return [rank for rank, bundles in taken.items() if not bundles]

    def _take(self, taker: int, holder: int, due: np.ndarray) -> bool:
        """Move a bundle's rows, the last ones: due ones, else those of a bundle that waits for a child."""
        b = self._bundles.rows
        for round_ in reversed(self._accounts.rounds.values()):
            local, slots = np.nonzero((round_.stage == DUE) & (round_.rank == holder))
            some = len(local) % b or b  # what is left makes full bundles
            local, slots = local[-4 * b:], slots[-4 * b:]
            part = np.flatnonzero(round_.may_share(taker, local + round_.start))[-some:]
            if len(part):
                due[holder] -= len(part)
                self._copies.move(round_.number, taker, local[part], slots[part])
                return True
        for bundle in reversed(self._bundles.hand(holder)[self._children(holder):]):
            if self._free(bundle, taker):
                self._copies.recall(bundle, taker)
                return True
        return False

    def _left(self, rank: int, due: np.ndarray) -> float:
        """In how many seconds a rank is done with what it has."""
        each = self._pace.expected(rank)
        begun = sum(max(0.0, each - self._pace.age(bundle)) for bundle in self._bundles.hand(rank))
        waiting = self._copies.inferring(rank) + -(-int(due[rank]) // self._bundles.rows)
        return (begun + waiting * each) / self._children(rank)

    @property
    def _overhead(self) -> float:
        """What moving costs, in seconds; nothing where nobody knows yet what a second is worth."""
        return 0.0 if self._pace.unknown else ANSWER_S

    def _children(self, rank: int) -> int:
        return self._members[rank].children

    def _free(self, bundle: Bundle, rank: int) -> bool:
        """Whether a rank may have a bundle: it is not answered, only one rank proves it, and it may have all rows.

        Those at the fallback circuit are few and short, and stay where they are.
        """
        if bundle.fallback or bundle.id not in self._bundles.waiting or self._copies.has(bundle):
            return False
        return bool(self._accounts.rounds[bundle.round].may_share(rank, bundle.rows).all())

    # -- bundles in flight -------------------------------------------------------

    def _copy(self, idle: list[int]) -> None:
        """Have idle ranks, the fastest first, prove what has taken longest elsewhere."""
        slices = self._bundles.slices
        if not idle or (self._pace.unknown and slices == 1):
            return
        part = STRAGGLING if slices == 1 else 1 / slices  # done with one slice before the other is with all (``joints.py``)
        limits = {rank: part * self._pace.expected(rank) + self._overhead for rank in idle}
        slowness = {bundle.id: self._slowness(bundle) for bundle in self._bundles.waiting.values()}
        slow = sorted((b for b in self._bundles.waiting.values() if slowness[b.id] > min(limits.values())),
                      key=lambda bundle: (-(self._pace.age(bundle) if slices == 1 else slowness[bundle.id]), bundle.id))
        for rank in sorted(idle, key=lambda rank: (limits[rank], rank)):
            for bundle in slow:
                if self._busy(rank) >= self._children(rank):
                    break
                if bundle.rank != rank and slowness[bundle.id] > limits[rank] and self._free(bundle, rank):
                    self._copies.begin(bundle, rank)

    def _slowness(self, bundle: Bundle) -> float:
        """The seconds that a bundle has taken where it is, or that it still takes, whichever are more.

        Of a circuit in slices those that it still takes, as long as it takes no longer than others there.
        """
        age, expected = self._pace.age(bundle), self._pace.expected(bundle.rank)
        if self._bundles.slices > 1 and age < expected:
            return expected - age
        return max(age, expected - age)
