"""Rounds and shares by how fast the ranks were so far: ``split.capacity: throughput``.

The first round is the calibration, a bundle for each child of each rank (or a few rows each where
nothing is proved); every further one is twice as large, so that even a job of a few hundred
rows has more than one, and up to the size that rounds have anyway. A round is opened when a rank
is about to run out of work, and shared out so that all ranks are done at the same time,
what they still have of earlier rounds included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from enclaveml import shards
from enclaveml.accounts import Accounts
from enclaveml.job import JobSpec
from enclaveml.ledger import DUE, PROVING, READY, SENT
from enclaveml.pace import Pace
from enclaveml.roster import Member

# Where nothing is proved: rows a rank in the first round, and how many seconds of work a rank has
# left when the next round is opened (a tick is 0.1 s).
CALIBRATION_ROWS = 256
LEFT_S = 1.0

# Shares are cut in bundles, or where nothing is proved in this many parts of a round.
PARTS = 1024


class Speeds:
    """How large rounds are, when they are opened, and who gets what. ``bundle``: rows of a proof, B, or 0."""

    def __init__(self, job: JobSpec, accounts: Accounts, pace: Pace, members: Mapping[int, Member],
                 bundle: int) -> None:
        self._coverage, self._accounts, self._pace = job.proof.coverage, accounts, pace
        self._members, self._bundle = members, bundle

    def of(self, rank: int) -> float:
        """Rows that a rank gets done per second; before anything is measured, of the children's number."""
        if not self._coverage:
            return self._pace.inference(rank) or 1.0
        return self._members[rank].children * self._bundle / self._pace.expected(rank) / self._coverage

    def round_rows(self) -> int:
        """The rows of the next round."""
        working = [m for m in self._members.values() if m.working]
        if self._coverage:
            proved = self._bundle * sum(m.children for m in working)
            first = math.ceil(proved / self._coverage / self._accounts.replicas)
        else:
            first = CALIBRATION_ROWS * len(working)
        return first << min(32, self._accounts.opened)

    def due(self) -> bool:
        """Whether the next round is to be opened: some rank has begun the last of what it has."""
        if not self._accounts.rounds:
            return True
        if not self._pace.measured or len(self._accounts.rounds) >= 2:
            return False
        return any(self._is_last(m) for m in self._members.values() if m.working)

    def _is_last(self, member: Member) -> bool:
        if not self._coverage:
            return self._rows(SENT)[member.rank] < LEFT_S * self.of(member.rank)
        begun = self._rows(PROVING)[member.rank] <= member.children * self._bundle
        return bool(begun and not self._rows(SENT, READY, DUE)[member.rank])

    def split(self, rows: np.ndarray, ids: Sequence[int], able: np.ndarray) -> shards.Shards:
        """Share a round's rows out so that the ranks ``ids`` (P,) that are ``able`` are done together."""
        drawn = self._rows(DUE, PROVING) / (self._coverage or 1.0)
        left = (self._rows(SENT, READY) + drawn)[list(ids)]
        unit = math.ceil(self._bundle / self._coverage) if self._coverage else -(-len(rows) // PARTS)
        return shards.level(rows, np.array([self.of(rank) for rank in ids]), able, left, unit)

    def _rows(self, *stages: int) -> np.ndarray:
        """How many rows each rank has at these stages, (ranks,) by rank id."""
        return self._accounts.count(max(self._members) + 1, *stages)
