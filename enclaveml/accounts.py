"""What rank 0 knows of every row of the job: its open rounds, how each answer ended, and the journal of it.

The only place where a slot's end is written down, in the job's tables as in the journal.

Letters: N rows in the dataset, D outputs per row, r replicas, n rows at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from enclaveml.journal import Journal
from enclaveml.ledger import DONE, Bundle, Round, Unassigned, final_status
from enclaveml.read_ahead import ReadAhead
from enclaveml.results_schema import RowStatus
from enclaveml.resume import ResumeState
from enclaveml.zk.interface import Verdict


class Accounts:
    """The tables of a job, row by row and replica by replica.

    Args:
        read: dataset rows [start, stop) as (stop - start, *row_shape).
        round_rows: most rows of one round.

    Attributes:
        status, rank_of: (N, r) uint8 and int32, each answer's status and whose it is (-1: nobody's).
        proved: (N, r, D) float64, the proved outputs, NaN where nothing is verified.
        settled: (N,) uint8, 1 where every answer of the row has ended.
        drawn_before: (N,) bool, rows that an earlier session drew: who draws again does not lose them.
        rounds: the open rounds by number.
    """

    def __init__(self, journal: Journal, read: Callable[[int, int], np.ndarray], n_rows: int, round_rows: int,
                 replicas: int, outputs: int) -> None:
        self.journal, self._read = journal, ReadAhead(read)
        self.n_rows, self.round_rows, self.replicas, self.outputs = n_rows, round_rows, replicas, outputs
        self.rounds: dict[int, Round] = {}
        self._stops: list[int] = []  # where each round ends that was opened: they follow each other
        self.settled = np.zeros(n_rows, np.uint8)
        self.drawn_before = np.zeros(n_rows, bool)
        self.rank_of = np.full((n_rows, replicas), -1, np.int32)
        self.status = np.zeros((n_rows, replicas), np.uint8)
        self.proved = np.full((n_rows, replicas, outputs), np.nan, np.float64)
        self._counted: set[int] = set()

    def go_on(self, before: ResumeState) -> None:
        """Take over what earlier sessions verified, before the first step.

        The k-th answer to a row takes its k-th slot.
        """
        order = np.argsort(before.rows, kind="stable")
        rows = before.rows[order]
        slots = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = slots < self.replicas
        order, rows, slots = order[kept], rows[kept], slots[kept]
        self.status[rows, slots], self.rank_of[rows, slots] = RowStatus.VERIFIED, before.ranks[order]
        self.proved[rows, slots] = before.proved[order]
        self.settled[:] = (self.status == RowStatus.VERIFIED).all(axis=1)
        self.drawn_before[:] = before.drawn
        self._counted = set(before.rounds)

    # -- rounds ------------------------------------------------------------------

    @property
    def all_ended(self) -> bool:
        """Whether every round was opened and is closed."""
        return self.all_opened and not self.rounds

    @property
    def begun(self) -> int:
        """How many of the job's rows are in rounds that were opened; rounds follow each other."""
        return self._stops[-1] if self._stops else 0

    @property
    def all_opened(self) -> bool:
        """Whether every row is in a round that was opened."""
        return self.begun >= self.n_rows

    def next(self, rows: int) -> Round | None:
        """Open the next round, of ``rows`` rows at most.

        None where an earlier session did it all: its rows are not even read.
        """
        number, start = len(self._stops), self.begun
        stop = self._end_of(rows)
        self._stops.append(stop)
        if (self.status[start:stop] == RowStatus.VERIFIED).all():
            self._count(number)
            return None
        return self.make_round(number)

    def read_ahead(self, rows: int) -> None:
        """Begin to read what ``next`` opens with as many rows, unless an earlier session did it all."""
        start, stop = self.begun, self._end_of(rows)
        if not (self.status[start:stop] == RowStatus.VERIFIED).all():
            self._read.expect(start, stop)

    @property
    def is_ahead(self) -> bool:
        """Whether the next round's rows were read, as far as they were to be."""
        return self._read.ready

    def _end_of(self, rows: int) -> int:
        """Where the next round ends that is to have ``rows`` rows at most."""
        return min(self.n_rows, self.begun + max(1, min(rows, self.round_rows)))

    def bounds(self, number: int) -> tuple[int, int]:
        """The rows of a round: from, and up to but not including."""
        return self._stops[number - 1] if number else 0, self._stops[number]

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of these rows' rounds, which were opened, (len(rows),) int64."""
        return np.searchsorted(self._stops, rows, side="right")

    def make_round(self, number: int) -> Round:
        """Open a round, with what is known of its rows ended as it was."""
        start, stop = self.bounds(number)
        round_ = Round(number, start, self._read(start, stop), self.replicas, self.outputs)
        round_.rank[:], round_.status[:] = self.rank_of[start:stop], self.status[start:stop]
        round_.drawn[:] = self.drawn_before[start:stop, None]
        known = round_.status != RowStatus.PENDING
        round_.stage[known], round_.attempt[known], round_.rechecked[known] = DONE, 1, True
        self.rounds[number] = round_
        return round_

    def round_of(self, rows: np.ndarray) -> Round:
        """The open round of these rows, by the first of them. Raises Unassigned where it is not open."""
        number = int(self.numbers(rows[:1])[0])
        if number not in self.rounds or rows[0] < 0:
            raise Unassigned(f"row {rows[0]} is not in an open round")
        return self.rounds[number]

    @property
    def opened(self) -> int:
        """How many rounds were opened so far."""
        return len(self._stops)

    def count(self, ranks: int, *stages: int) -> np.ndarray:
        """How many rows of open rounds the ranks 0 to ``ranks`` - 1 have at these stages, (ranks,) int64."""
        counts = np.zeros(ranks, np.int64)
        for round_ in self.rounds.values():
            counts += np.bincount(round_.rank[np.isin(round_.stage, stages) & (round_.rank >= 0)], minlength=ranks)
        return counts

    def data(self, bundle: Bundle) -> np.ndarray:
        """A bundle's rows (n, *row_shape), read again where its round is closed."""
        if bundle.round in self.rounds:
            return self.rounds[bundle.round].take(bundle.rows)
        start = int(bundle.rows.min())
        return self._read(start, int(bundle.rows.max()) + 1)[bundle.rows - start]

    def close(self, round_: Round) -> None:
        """Let a round go of which every slot has ended."""
        del self.rounds[round_.number]
        self._mark_unverified(round_)
        self._count(round_.number)

    def _count(self, number: int) -> None:
        """Journal that a round is complete."""
        if number + 1 not in self._counted:
            start, stop = self.bounds(number)
            self.journal.append("round", {"counter": number + 1, "start": start, "rows": stop - start})
            self._counted.add(number + 1)
        self.journal.flush()

    def _mark_unverified(self, round_: Round) -> None:
        """Journal which status a row has that several replicas, and none of them verified, speak about."""
        if self.replicas > 1:
            status = final_status(round_.status)
            rows = np.flatnonzero(status != RowStatus.VERIFIED)
            if len(rows):
                self.journal.append("rows", {"reason": "no replica is verified"}, rows=rows + round_.start,
                                    status=status[rows])

    # -- how slots end -----------------------------------------------------------

    def finish(self, round_: Round, local: np.ndarray, slots: np.ndarray, status: np.ndarray | int,
               proved: np.ndarray | None = None) -> None:
        """End slots with these statuses and proved outputs (m, D), in the round and in the job's tables."""
        round_.finish(local, slots, status)
        rows = local + round_.start
        self.status[rows, slots], self.rank_of[rows, slots] = status, round_.rank[local, slots]
        if proved is not None:
            self.proved[rows, slots] = proved
        self.settled[rows] = (round_.stage[local] == DONE).all(axis=1)

    def take_back(self, round_: Round, local: np.ndarray, slots: np.ndarray, status: RowStatus) -> None:
        """Free slots for another rank; ``status`` is how they end if nobody may take them.

        What a proof showed to be inconsistent is not lost where no other proof can be had.
        """
        status = ends_as(round_, local, slots, status)
        round_.release(local, slots, status)
        rows = local + round_.start
        self.status[rows, slots], self.rank_of[rows, slots] = status, round_.rank[local, slots]
        self.settled[rows] = 0

    def failed(self, bundle: Bundle, some: np.ndarray, text: str) -> None:
        """Note of some of a bundle's rows, (n,) bool, that its rank could not prove them, and why."""
        round_ = self.rounds[bundle.round]
        rows, slots = bundle.rows[some], bundle.slots[some]
        round_.avoid(rows, bundle.rank)
        status = ends_as(round_, rows - round_.start, slots, RowStatus.LOST)
        for code in np.unique(status).tolist():
            self.note(rows[status == code], RowStatus(code), text, bundle.rank, bundle.attempt)

    def end_unproved(self, round_: Round, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        """End what one rank said of these rows without a proof."""
        if len(local):
            self.finish(round_, local, slots, RowStatus.UNPROVED)
            self.note(local + round_.start, RowStatus.UNPROVED, "not drawn", rank,
                      int(round_.attempt[local, slots].max()))

    # -- records -----------------------------------------------------------------

    def note(self, rows: np.ndarray, status: RowStatus, reason: str, rank: int, attempt: int) -> None:
        """Journal what became of a rank's answer to these rows without a proof; of the rows where rank is -1."""
        whose = {"rank": rank, "attempt": attempt} if rank >= 0 else {}
        self.journal.append("rows", {"reason": reason, **whose}, rows=np.asarray(rows, np.int64),
                            status=np.full(len(rows), int(status), np.uint8))

    def record(self, bundle: Bundle, circuit_id: str, blob: bytes, text: str, seconds: float,
               status: np.ndarray, verdict: Verdict | None = None) -> None:
        """Journal an envelope (``blob``) and what became of it; ``verdict`` is None where none was reached."""
        n, d = len(bundle.rows), self.outputs
        told = {"witness_seconds": bundle.witness_s, "prove_seconds": bundle.prove_s}
        self.journal.append(
            "bundle",
            {"bundle": bundle.id, "rank": bundle.rank, "attempt": bundle.attempt, "round": bundle.round,
             "circuit_id": circuit_id, "verdict": text, "verify_seconds": seconds,
             **{name: value for name, value in told.items() if math.isfinite(value)}},
            rows=bundle.rows, status=np.asarray(status, np.uint8),
            proved=np.full((n, d), np.nan) if verdict is None else verdict.proved,
            deviation=np.full(n, np.nan) if verdict is None else verdict.deviation,
            argmax_differs=np.zeros(n, bool) if verdict is None else verdict.argmax_differs,
            envelope=blob,
        )


def ends_as(round_: Round, local: np.ndarray, slots: np.ndarray, status: RowStatus) -> np.ndarray:
    """How slots end that are taken back with ``status`` if nobody may take them, (m,) uint8."""
    coarse = round_.coarse[local, slots] & (status == RowStatus.LOST)
    return np.where(coarse, np.uint8(RowStatus.INCONSISTENT), np.uint8(status))
