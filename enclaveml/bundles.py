"""The bundles that ranks were ordered to prove: made of what is due, and waited for until they answer.

A rank is ordered as many as it can work on; the rest stays here, where an idle rank can have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.circuits import Circuits
from enclaveml.draws import Draws
from enclaveml.exchange import Order, Outbox, Report
from enclaveml.job import JobSpec
from enclaveml.ledger import CHECKING, DUE, PROVING, READY, SENT, WIDE, Bundle, Round, Unassigned
from enclaveml.input_key import order_key
from enclaveml.nonce import nonce_of
from enclaveml.pace import Pace
from enclaveml.roster import Member

# Bundles that a rank has beside those in its children, so that a child that finishes finds the next
# one waiting: one at least, and as many as its children finish in this many seconds, the time from
# an answer to the next order (two ticks of 0.1 s and what they carry); MOST_AHEAD for each child at most.
AHEAD = 1
ANSWER_S = 0.5
MOST_AHEAD = 8.0


class Bundles:
    """Orders proofs. ``waiting``: the bundles that were ordered and not answered, by number.

    job_id: of this session; it goes into the nonce of every order. input_key: the job's, where circuits mask their inputs.
    """

    def __init__(self, job: JobSpec, accounts: Accounts, circuits: Circuits, members: Mapping[int, Member],
                 boxes: Mapping[int, Outbox], pace: Pace, draws: Draws,
                 spend: Callable[[], None] = lambda: None, job_id: str = "", input_key: bytes | None = None) -> None:
        self._job, self._accounts, self.circuits, self._draws = job, accounts, circuits, draws
        self._job_id, self._input_key = job_id, input_key
        self._members, self._boxes, self._pace, self._spend = members, boxes, pace, spend
        self.waiting: dict[int, Bundle] = {}
        self._hands: dict[int, dict[int, Bundle]] = {rank: {} for rank in members}
        self.next_bundle = 1

    @property
    def rows(self) -> int:
        """Rows of a full bundle at the primary circuit, B; 0 where nothing is proved."""
        return self.circuits.primary.rows if self.circuits.primary else 0

    @property
    def slices(self) -> int:
        """Of how many slices the primary circuit is; 1 for a whole one, and where nothing is proved."""
        return self.circuits.primary.slices if self.circuits.primary else 1

    def order(self, round_: Round) -> None:
        """Order what is due, as far as ranks have room: full bundles, and a rank's last when all is in."""
        self._choose(round_)
        local, slots = np.nonzero(round_.stage == DUE)
        ranks = round_.rank[local, slots]
        by_rank = np.argsort(ranks, kind="stable")
        owing = round_.ranks_at(SENT)
        b = self.rows
        for mine in np.split(by_rank, np.flatnonzero(np.diff(ranks[by_rank])) + 1) if len(local) else ():
            rank = int(ranks[mine[0]])
            end = len(mine) // b * b if rank in owing else len(mine)
            for at in range(0, min(end, b * self.room(rank)), b):
                part = mine[at: min(at + b, end)]
                self._order_bundle(round_, rank, local[part], slots[part])
        self._order_wide(round_)

    def _order_wide(self, round_: Round) -> None:
        """Order what is for the fallback: full bundles, and a rank's last when nothing of it can join them.

        What failed at another rank is proved row by row: one that no prover survives costs no other.
        """
        local, slots = np.nonzero(round_.stage == WIDE)
        ranks, tried = round_.rank[local, slots], round_.attempt[local, slots] > 1
        for rank in np.unique(ranks).tolist():
            coming = (round_.rank == rank) & np.isin(round_.stage, (SENT, READY, DUE, PROVING, CHECKING))
            most = self.circuits.begin_fallback().rows
            for alone in (False, True):
                mine = np.flatnonzero((ranks == rank) & (tried == alone))
                b = 1 if alone else most
                end = len(mine) // b * b if coming.any() else len(mine)
                for at in range(0, min(end, b * self.room(rank)), b):
                    part = mine[at: min(at + b, end)]
                    self._order_bundle(round_, rank, local[part], slots[part], fallback=True)

    def _choose(self, round_: Round) -> None:
        """Decide which of the outputs that are in are to be proved."""
        coverage = self._job.proof.coverage
        if coverage < 1 and not self._draws.due(round_):
            return
        local, slots = np.nonzero(round_.stage == READY)
        if coverage < 1:
            ranks = round_.rank[local, slots]
            chosen = [self._draws.draw(round_, self._members[rank], local[ranks == rank], slots[ranks == rank])
                      for rank in np.unique(ranks).tolist()]
            for drawn in chosen:
                round_.stage[drawn] = DUE
        else:
            round_.stage[local, slots] = DUE
        if self.circuits.fallback is not None:
            round_.stage[(round_.stage == DUE) & round_.coarse] = WIDE

    def _order_bundle(self, round_: Round, rank: int, local: np.ndarray, slots: np.ndarray,
                      fallback: bool = False) -> None:
        rows, attempt = local.astype(np.int64) + round_.start, int(round_.attempt[local, slots].max())
        bundle = Bundle(self.number(), rank, round_.number, rows, slots, attempt, round_.output[local, slots], fallback)
        round_.stage[local, slots] = PROVING
        self.send(bundle)

    def number(self) -> int:
        """A number for a new bundle."""
        self.next_bundle += 1
        return self.next_bundle - 1

    def send(self, bundle: Bundle, backward: bool = False) -> None:
        """Order a bundle's proof; ``backward``: the last slice first. Raises JobError where the model's budget of proofs is spent."""
        self._spend()
        self.waiting[bundle.id] = self._hands[bundle.rank][bundle.id] = bundle
        self._pace.begin(bundle.rank, self._hands[bundle.rank].values())
        what = {"bundle": bundle.id, "round": bundle.round, "attempt": bundle.attempt,
                "timeout_s": self.timeout(bundle.attempt), "circuit": self.circuits.of(bundle).circuit_id,
                "nonce": self.nonce(bundle).hex()}
        if key := self.input_key(bundle):
            what["input_key"] = key.hex()
        if backward:
            what["backward"] = True
        self._boxes[bundle.rank].put(Order("prove", what, bundle.rows))

    def nonce(self, bundle: Bundle) -> bytes:
        """What names the order of a bundle, by rank 0's own record of it."""
        return nonce_of(self._job_id, self._members[bundle.rank].node_id, bundle.rank, self.circuits.of(bundle).circuit_id,
                        bundle.round, bundle.id, bundle.attempt, bundle.rows)

    def input_key(self, bundle: Bundle) -> bytes:
        """The order's key to its inputs; none where the circuit does not mask them."""
        return order_key(self._input_key, self.nonce(bundle)) if self.circuits.of(bundle).masked else b""

    def cancel(self, bundle: Bundle) -> None:
        """A bundle is not needed any more: unless its rank has answered, it is told to stop, and answers that."""
        if self.waiting.pop(bundle.id, None) is not None:
            self._boxes[bundle.rank].put(Order("cancel", {"bundle": bundle.id}))

    def given(self, rank: int, number: object) -> Bundle | None:
        """The bundle of that number that a rank was ordered and has not answered."""
        return self._hands[rank].get(number) if type(number) is int else None

    def hand(self, rank: int) -> list[Bundle]:
        """What a rank was ordered and has not answered, oldest first."""
        return list(self._hands[rank].values())

    def in_hand(self, rank: int) -> int:
        """How many bundles a rank was ordered and has not answered."""
        return len(self._hands[rank])

    def tries_again(self, rank: int) -> bool:
        """Whether a rank has a bundle in hand that was tried before."""
        return any(bundle.attempt > 1 for bundle in self._hands[rank].values())

    def room(self, rank: int) -> int:
        """How many more bundles a rank can be ordered."""
        children, seconds = self._members[rank].children, self._pace.seconds(rank)
        each = 0.0 if seconds is None else min(MOST_AHEAD, ANSWER_S / max(seconds, 1e-9))
        return max(0, children + max(AHEAD, math.ceil(children * each)) - len(self._hands[rank]))

    def timeout(self, attempt: int) -> float:
        """Seconds that a bundle may take: one that ran out of time gets more on its next rank."""
        return self._job.proof.timeout_s * (2 if attempt > 1 else 1)

    def answered(self, rank: int, report: Report, what: str, proved: bool = False) -> Bundle:
        """The bundle that a report answers, which is thereby no longer waited for."""
        number = report.meta.get("bundle")
        bundle = self._hands[rank].pop(number, None) if type(number) is int else None
        if bundle is None:
            strange = f"a bundle that is no number ({type(number).__name__})"
            named = f"bundle {number}" if type(number) is int else strange
            raise Unassigned(f"{what} of {named}, which rank {rank} was not given or has answered")
        self.waiting.pop(bundle.id, None)
        self._pace.end(bundle, proved and not bundle.fallback)  # another circuit's time says nothing of the primary's
        self._pace.begin(rank, self._hands[rank].values())
        return bundle

    def drop(self, rank: int) -> None:
        """Wait no longer for what a rank owes."""
        for bundle in self._hands[rank].values():
            self.waiting.pop(bundle.id, None)
            self._pace.end(bundle, False)
        self._hands[rank].clear()
