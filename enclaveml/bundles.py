"""The bundles that ranks were ordered to prove: made of what is ready, and waited for until they answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.draws import draw
from enclaveml.exchange import Order, Outbox, Report
from enclaveml.job import JobSpec
from enclaveml.ledger import PROVING, READY, SENT, Bundle, Round, Unassigned
from enclaveml.roster import Member
from enclaveml.zk.interface import Circuit


class Bundles:
    """Orders proofs. ``waiting``: the bundles that were ordered and not answered, by number."""

    def __init__(self, job: JobSpec, accounts: Accounts, circuit: Circuit | None, members: Mapping[int, Member],
                 boxes: Mapping[int, Outbox]) -> None:
        self._job, self._accounts, self._circuit = job, accounts, circuit
        self._members, self._boxes = members, boxes
        self.waiting: dict[int, Bundle] = {}
        self.next_bundle = 1

    def order(self, round_: Round) -> None:
        """Make bundles of what is ready: full ones at once, a rank's last when it owes no more outputs."""
        coverage = self._job.proof.coverage
        if coverage < 1 and (round_.stage == SENT).any():
            return  # Rows are drawn when all outputs are in, never before.
        local, slots = np.nonzero(round_.stage == READY)
        ranks = round_.rank[local, slots]
        owing = np.unique(round_.rank[round_.stage == SENT])
        b = self._circuit.rows if self._circuit else 0
        for rank in np.unique(ranks).tolist():
            mine = ranks == rank
            chosen = local[mine], slots[mine]
            if coverage < 1:
                chosen = draw(self._accounts, coverage, round_, self._members[rank], *chosen)
            end = len(chosen[0]) // b * b if rank in owing else len(chosen[0])
            for at in range(0, end, b):
                part = slice(at, min(at + b, end))
                self._order_bundle(round_, rank, chosen[0][part], chosen[1][part])

    def _order_bundle(self, round_: Round, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        rows, attempt = local.astype(np.int64) + round_.start, int(round_.attempt[local, slots].max())
        bundle = Bundle(self.next_bundle, rank, round_.number, rows, slots, attempt)
        self.next_bundle += 1
        round_.stage[local, slots] = PROVING
        self.waiting[bundle.id] = bundle
        what = {"bundle": bundle.id, "round": bundle.round, "attempt": attempt, "timeout_s": self.timeout(attempt)}
        self._boxes[rank].put(Order("prove", what, rows))

    def timeout(self, attempt: int) -> float:
        """Seconds that a bundle may take: one that ran out of time gets more on its next rank."""
        return self._job.proof.timeout_s * (2 if attempt > 1 else 1)

    def answered(self, rank: int, report: Report, what: str) -> Bundle:
        """The bundle that a report answers, which is thereby no longer waited for."""
        number = report.meta.get("bundle")
        bundle = self.waiting.get(number) if type(number) is int else None
        if bundle is None or bundle.rank != rank:
            strange = f"a bundle that is no number ({type(number).__name__})"
            named = f"bundle {number}" if type(number) is int else strange
            raise Unassigned(f"{what} of {named}, which rank {rank} was not given or has answered")
        return self.waiting.pop(bundle.id)

    def of(self, rank: int) -> list[Bundle]:
        """The bundles that a rank owes."""
        return [b for b in self.waiting.values() if b.rank == rank]

    def drop(self, rank: int) -> None:
        """Wait no longer for what a rank owes."""
        for bundle in self.of(rank):
            del self.waiting[bundle.id]
