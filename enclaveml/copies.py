"""Bundles in flight that an idle rank proves as well: the first verified answer counts, the other is discarded.

A copy is a bundle like another, but its rows stay their holder's until the copy is verified,
or until the holder fails, lies or dies: then the copy holds them. What is discarded is
cancelled at its rank; an answer that comes all the same is no breach of the protocol, and
one that is rejected counts against its rank like any other.

Of a circuit in slices a copy is proved from the last slice on. Where the two meet, rank 0 joins what both have (``joints.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.bundles import Bundles
from enclaveml.exchange import Order, Outbox, Report
from enclaveml.ledger import CHECKING, PROVING, SENT, Bundle
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Member

log = logging.getLogger(__name__)


@dataclass
class _Inferring:
    """A copy whose rank has not said all of its outputs yet; ``needed`` until its rows are decided."""

    bundle: Bundle
    missing: set[int]
    needed: bool = True


class Copies:
    """Which bundle is a copy of which, and which are discarded. ``members`` and ``boxes``: by rank id."""

    def __init__(self, accounts: Accounts, bundles: Bundles, members: Mapping[int, Member],
                 boxes: Mapping[int, Outbox]) -> None:
        self._accounts, self._bundles, self._members, self._boxes = accounts, bundles, members, boxes
        self._copy_of: dict[int, Bundle] = {}
        self._original_of: dict[int, Bundle] = {}
        self._inferring: dict[int, dict[int, _Inferring]] = {rank: {} for rank in members}
        self._discarded: set[int] = set()

    # -- begun for speed ---------------------------------------------------------

    def begin(self, original: Bundle, rank: int) -> None:
        """Give a bundle in flight to another rank too: its rows first, to infer."""
        round_, rows = self._accounts.rounds[original.round], original.rows
        copy = Bundle(self._bundles.number(), rank, original.round, rows, original.slots, original.attempt + 1,
                      np.full_like(original.outputs, np.nan))
        round_.copy(rank, rows, original.slots)
        self._copy_of[original.id], self._original_of[copy.id] = copy, original
        self._inferring[rank][copy.id] = _Inferring(copy, set(rows.tolist()))
        member = self._members[rank]
        member.rows += len(rows)
        member.copies += 1
        self._boxes[rank].put(Order("infer", {"round": original.round}, rows, round_.take(rows)))
        self._accounts.journal.append("copy", {"from": original.rank, "to": rank, "round": original.round,
                                               "bundle": original.id, "copy": copy.id}, rows=rows)
        log.info("bundle %d (%d rows from row %d) of %s is proved by rank %d as well, which is idle", original.id,
                 len(rows), rows[0], self._members[original.rank], rank)

    def recall(self, bundle: Bundle, rank: int) -> None:
        """Give the rows of a bundle that waits for a child to another rank: its own need not prove it."""
        local = bundle.rows - self._accounts.rounds[bundle.round].start
        self.move(bundle.round, rank, local, bundle.slots)
        self._discarded.add(bundle.id)
        self._bundles.cancel(bundle)

    def move(self, number: int, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        """Give rows of a round (one rank's) that are not begun to another rank."""
        round_ = self._accounts.rounds[number]
        rows, holder = local.astype(np.int64) + round_.start, int(round_.rank[local[0], slots[0]])
        begun = (round_.stage[local, slots] == PROVING).any()
        round_.move(rank, local, slots)
        self._members[holder].rows_moved_out += len(rows)
        self._members[rank].rows_moved_in += len(rows)
        self._members[rank].rows += len(rows)
        if not begun:  # those that it was ordered to prove it lets go of when that is cancelled
            self._boxes[holder].put(Order("forget", {}, rows))
        self._boxes[rank].put(Order("infer", {"round": number}, rows, round_.take(rows)))
        self._accounts.journal.append("move", {"from": holder, "to": rank, "round": number}, rows=rows)
        log.debug("%d rows (first %d) that rank %d had not begun go to rank %d", len(rows), rows[0], holder, rank)

    def has(self, bundle: Bundle) -> bool:
        """Whether a bundle has a copy, or is one."""
        return bundle.id in self._copy_of or bundle.id in self._original_of

    def inferring(self, rank: int) -> int:
        """Of how many copies a rank still owes the outputs."""
        return len(self._inferring[rank])

    def pair(self, bundle: Bundle) -> tuple[Bundle, Bundle] | None:
        """A bundle and its copy, of which it is one; None where only one rank proves it."""
        if (copy := self._copy_of.get(bundle.id)) is not None:
            return bundle, copy
        original = self._original_of.get(bundle.id)
        return None if original is None else (original, bundle)

    # -- their outputs -----------------------------------------------------------

    def take_outputs(self, rank: int, report: Report) -> bool:
        """Take in outputs, if they are those of a copy of this rank. Returns whether they are."""
        rows = report.rows.tolist()
        for item in self._inferring[rank].values():
            if len(set(rows)) == len(rows) and item.missing.issuperset(rows):
                order = np.argsort(item.bundle.rows)
                at = order[np.searchsorted(item.bundle.rows, report.rows, sorter=order)]
                item.bundle.outputs[at] = report.outputs
                item.missing.difference_update(rows)
                if not item.missing:
                    del self._inferring[rank][item.bundle.id]
                    self._order(item)
                return True
        return False

    def _order(self, item: _Inferring) -> None:
        copy = item.bundle
        if not item.needed:
            rows = copy.rows
            if (round_ := self._accounts.rounds.get(copy.round)) is not None:
                local = rows - round_.start  # what it was given again meanwhile it keeps
                again = (round_.rank[local] == copy.rank) & (round_.stage[local] == SENT)
                rows = rows[~again.any(axis=1)]
            if len(rows):
                self._boxes[copy.rank].put(Order("forget", {}, rows))
            return
        meta = {"rank": copy.rank, "attempt": copy.attempt, "round": copy.round}
        self._accounts.journal.append("outputs", meta, rows=copy.rows, outputs=copy.outputs)
        self._bundles.send(copy, backward=self._bundles.slices > 1)

    # -- which of two counts -----------------------------------------------------

    def discarded(self, bundle: Bundle) -> bool:
        """Whether nothing depends on what becomes of a bundle any more."""
        return bundle.id in self._discarded

    def ended(self, bundle: Bundle) -> None:
        """Nothing more will be heard of a bundle."""
        self._discarded.discard(bundle.id)

    def holds(self, bundle: Bundle) -> bool:
        """Whether the bundle's rows are its rank's to decide."""
        return bundle.id not in self._discarded and bundle.id not in self._original_of

    def settle(self, bundle: Bundle) -> None:
        """A bundle's proof holds: it decides its rows, and the other one of them is discarded."""
        original = self._original_of.pop(bundle.id, None)
        if original is not None:
            del self._copy_of[original.id]
            self._hold(bundle, CHECKING)
            self._discard(original, bundle)
            return
        copy = self._copy_of.pop(bundle.id, None)
        if copy is not None:
            del self._original_of[copy.id]
            self._accounts.rounds[copy.round].uncopy(copy.rank, copy.rows)
            self._discard(copy, bundle)

    def settle_joined(self, original: Bundle, copy: Bundle, joint: Bundle) -> None:
        """A proof made of both ranks' slices holds: it decides the rows, which stay their holder's; neither need go on."""
        del self._copy_of[original.id], self._original_of[copy.id]
        self._accounts.rounds[copy.round].uncopy(copy.rank, copy.rows)
        self._accounts.note(copy.rows, RowStatus.UNPROVED, f"its slices are in the proof of bundle {joint.id}", copy.rank, copy.attempt)
        for bundle in (original, copy):
            self.let_go(bundle)

    def let_go(self, bundle: Bundle) -> None:
        """Nothing depends on a bundle any more: its rank is told to stop, and whatever it answers is no breach."""
        self._discarded.add(bundle.id)
        self._bundles.cancel(bundle)

    def fall(self, bundle: Bundle) -> bool:
        """A bundle came to nothing. Returns whether its rows are with another rank, or decided, all the same."""
        if bundle.id in self._discarded:
            return True
        original = self._original_of.pop(bundle.id, None)
        if original is not None:
            del self._copy_of[original.id]
            self._accounts.rounds[bundle.round].uncopy(bundle.rank, bundle.rows)
            return True
        copy = self._copy_of.pop(bundle.id, None)
        if copy is None:
            return False
        del self._original_of[copy.id]
        at_work = copy.id in self._inferring[copy.rank] or copy.id in self._bundles.waiting
        self._hold(copy, PROVING if at_work else CHECKING)
        return True

    def leave(self, rank: int) -> None:
        """A rank has ended: what it has in hand comes to nothing."""
        for bundle in [*self._bundles.hand(rank), *(i.bundle for i in self._inferring[rank].values() if i.needed)]:
            self.fall(bundle)
            self.ended(bundle)
        self._inferring[rank].clear()

    def _hold(self, copy: Bundle, stage: int) -> None:
        """The copy's rank holds the rows from here on."""
        round_ = self._accounts.rounds[copy.round]
        local = copy.rows - round_.start
        round_.rank[local, copy.slots], round_.attempt[local, copy.slots] = copy.rank, copy.attempt
        round_.stage[local, copy.slots], round_.status[local, copy.slots] = stage, RowStatus.PENDING
        round_.uncopy(copy.rank, copy.rows)

    def _discard(self, bundle: Bundle, better: Bundle) -> None:
        self._members[bundle.rank].discarded += 1
        self._accounts.journal.append("discard", {"rank": bundle.rank, "bundle": bundle.id, "for": better.id,
                                                  "round": bundle.round}, rows=bundle.rows)
        item = self._inferring[bundle.rank].get(bundle.id)
        if item is not None:
            item.needed = False
            return
        self.let_go(bundle)
        self._accounts.note(bundle.rows, RowStatus.UNPROVED, f"the proof of bundle {better.id} came first",
                            bundle.rank, bundle.attempt)
