"""Which rank is sent which rows to infer: each round's split, and the rows that were taken back.

Letters: P ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from enclaveml import shards
from enclaveml.accounts import Accounts
from enclaveml.exchange import Order, Outbox
from enclaveml.job import JobSpec
from enclaveml.ledger import IDLE, Round
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Member
from enclaveml.speeds import Speeds

# A row that failed without a lie (time-out, crashed child) is tried this often in all.
MAX_ATTEMPTS = 3


class Dispatch:
    """Gives rows away. ``members`` and ``boxes``: by rank id; ``speeds`` where measured throughput decides."""

    def __init__(self, job: JobSpec, accounts: Accounts, members: Mapping[int, Member],
                 boxes: Mapping[int, Outbox], speeds: Speeds | None) -> None:
        self._job, self._accounts, self._members, self._boxes = job, accounts, members, boxes
        self._speeds = speeds

    def split(self, round_: Round) -> None:
        """Give a new round's rows away by the job's strategy."""
        fresh = round_.rows[(round_.stage == IDLE).all(axis=1)]
        ids, weights, able = self._takers()
        if not len(fresh) or able.sum() < round_.replicas:
            return  # hand_out_idle deals with the rest, or with everything
        if self._speeds and round_.replicas == 1:
            plan = self._speeds.split(fresh, ids, able)
        else:
            plan = shards.split(self._job.split.strategy, fresh, weights, able, round_.replicas)
        for p, rank in enumerate(ids):
            rows = plan.rows[plan.displs[p]: plan.displs[p] + plan.counts[p]]
            self._send(round_, rank, rows)

    def _takers(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Rank ids, their weights in the split, and which of them can be given rows, all (P,)."""
        ids = sorted(self._members)
        equal = self._job.split.strategy == "equal"
        weigh = self._speeds.of if self._speeds else lambda rank: self._members[rank].capacity
        weights = np.array([1.0 if equal else weigh(i) for i in ids])
        return ids, weights, np.array([self._members[i].working for i in ids]) & (weights > 0)

    def _send(self, round_: Round, rank: int, rows: np.ndarray) -> None:
        if len(rows):
            round_.assign(rank, rows)
            self._members[rank].rows += len(rows)
            self._boxes[rank].put(Order("infer", {"round": round_.number}, rows, round_.take(rows)))

    def hand_out_idle(self, round_: Round) -> None:
        """Slots that were taken back go to a rank that has not failed them; where none is left they end."""
        rows = np.unique(round_.idle_rows())
        while len(rows):
            orphans = self._reassign(round_, rows, avoid=True)
            if len(orphans):
                orphans = self._reassign(round_, orphans, avoid=False)
            if len(orphans):
                self._give_up(round_, orphans)
            rows = np.unique(round_.idle_rows())

    def _reassign(self, round_: Round, rows: np.ndarray, avoid: bool) -> np.ndarray:
        """Send one idle slot of each row somewhere. Returns the rows that nobody may take."""
        ids, weights, able = self._takers()
        local, slots = round_.first_idle(rows)
        tried = round_.attempt[local, slots]
        forbidden = round_.forbidden(rows, ids, avoid)
        if not self._job.split.reassign:  # a row that was sent is seen by no further rank
            had = (round_.rank[local][:, :, None] == np.array(ids)).any(axis=1)
            forbidden |= (tried > 0)[:, None] & ~had
        if not avoid:  # every rank gets its own try; the same one again only so often
            forbidden |= (tried >= MAX_ATTEMPTS)[:, None]
        plan, orphans = shards.split_excluding(rows, weights, able, forbidden)
        for p, rank in enumerate(ids):
            self._send(round_, rank, plan.rows[plan.displs[p]: plan.displs[p] + plan.counts[p]])
        return orphans

    def _give_up(self, round_: Round, rows: np.ndarray) -> None:
        """End all idle slots of these rows as they were taken back, or as lost if nobody ever had them."""
        which, slots = np.nonzero(round_.stage[rows - round_.start] == IDLE)
        local = rows[which] - round_.start
        status = round_.status[local, slots]
        status[status == RowStatus.PENDING] = RowStatus.LOST
        self._accounts.finish(round_, local, slots, status)
        ranks, attempts = round_.rank[local, slots], round_.attempt[local, slots]
        for rank, code in sorted(set(zip(ranks.tolist(), status.tolist(), strict=True))):
            # Row by row once each: a row may have several such slots.
            mine = np.flatnonzero((ranks == rank) & (status == code))
            mine = mine[np.unique(local[mine], return_index=True)[1]]
            self._accounts.note(local[mine] + round_.start, RowStatus(code), "no rank is left that may take it",
                                rank, int(attempts[mine].max()))

    def forget(self, round_: Round) -> None:
        """Have the workers let go of a round's rows that they hold and will not prove."""
        rows = round_.rows
        for member in self._members.values():
            if member.working:
                forget = {"start": int(rows[0]), "stop": int(rows[-1]) + 1}
                self._boxes[member.rank].put(Order("forget", forget))
