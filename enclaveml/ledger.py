"""What became of each row of one round: who has it, what it said, how it ended.

A round is a tile of the dataset: rows start to start + n. Each row has r slots, one a
replica (r = 1 unless the split is redundant), and each slot goes its own way:

    IDLE -> SENT -> READY -> DUE -> PROVING -> CHECKING -> DONE
      ^       |        |      |        |  ^        |
      +-------+--------+------+--------+--|--------+   its rank lied, failed or died: another one gets it
                                       +-WIDE------+   the circuit is too narrow for it: its rank proves it at the fallback

READY are outputs that are in, DUE those of them that are to be proved, held back here until
their rank can work on them. An idle rank may take DUE rows over (``move``), and then they
are SENT again.

Letters: n rows in the round, r slots a row, D outputs a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclaveml.errors import EnclaveError
from enclaveml.results_schema import RowStatus

IDLE, SENT, READY, DUE, WIDE, PROVING, CHECKING, DONE = range(8)


class Unassigned(EnclaveError):
    """A rank spoke of a row that it was not given."""


@dataclass(frozen=True)
class Bundle:
    """At most B rows that one rank proves together.

    rows (n,) are dataset rows, slots (n,) their replicas, outputs (n, D) float32 what the rank
    said of them before it was ordered to prove them. fallback: whether it is for the fallback circuit.

    witness_s, prove_s: how long its rank says that witness and proof took, in seconds; NaN until it says so.
    """

    id: int
    rank: int
    round: int
    rows: np.ndarray
    slots: np.ndarray
    attempt: int
    outputs: np.ndarray
    fallback: bool = False
    witness_s: float = math.nan
    prove_s: float = math.nan

    def timed(self, meta: Mapping[str, object]) -> Bundle:
        """The same bundle with the seconds that its rank tells: what is no sensible number is left out."""
        return replace(self, witness_s=sensible_seconds(meta.get("witness_s")), prove_s=sensible_seconds(meta.get("prove_s")))


def sensible_seconds(told: object, other: float = math.nan) -> float:
    """Seconds that a rank tells; ``other`` for what is no sensible number."""
    return float(told) if type(told) in (int, float) and 0 <= told < 1e9 else other


class Round:
    """The slots of one tile. ``data`` (n, *row_shape) are its rows, kept until the round is closed."""

    def __init__(self, number: int, start: int, data: np.ndarray, replicas: int, outputs: int) -> None:
        n = len(data)
        self.number, self.start, self.data, self.replicas = number, start, data, replicas
        self.rank = np.full((n, replicas), -1, np.int32)
        self.stage = np.full((n, replicas), IDLE, np.uint8)
        self.status = np.full((n, replicas), RowStatus.PENDING, np.uint8)
        self.attempt = np.zeros((n, replicas), np.int32)
        self.output = np.full((n, replicas, outputs), np.nan, np.float32)
        # Slots that were drawn to be proved, whoever proves them in the end (coverage below 1).
        self.drawn = np.zeros((n, replicas), bool)
        # Unproved slots that rank 0 has drawn from to compute itself, or that are from before the round was opened.
        self.rechecked = np.zeros((n, replicas), bool)
        # Answers that are honest and out of the tolerance at the primary circuit, by rank 0's own float
        # model: whoever proves them does so at the fallback.
        self.coarse = np.zeros((n, replicas), bool)
        # Ranks that may not get a row again, for the few rows where something failed:
        # ``refused`` for good (they lied about it), ``avoided`` while another rank is left,
        # ``copied`` while they prove it beside the rank that holds it.
        self.refused: dict[int, set[int]] = {}
        self.avoided: dict[int, set[int]] = {}
        self.copied: dict[int, set[int]] = {}
        # Ranks between which a row was shared for speed: none of them gets it that way again.
        self.shared: dict[int, set[int]] = {}

    @property
    def rows(self) -> np.ndarray:
        """The dataset rows of the round, (n,) int64."""
        return np.arange(self.start, self.start + len(self.data), dtype=np.int64)

    @property
    def closed(self) -> bool:
        """Whether every slot has ended."""
        return bool((self.stage == DONE).all())

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The data of these dataset rows, (len(rows), *row_shape); no copy where they follow each other."""
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            first = int(rows[0]) - self.start
            return self.data[first: first + len(rows)]
        return self.data[rows - self.start]

    def find(self, rank: int, rows: np.ndarray, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """The slots (row index in the round, replica) that ``rank`` holds of these rows at this stage.

        Raises:
            Unassigned: for a row outside the round, given twice, or not held by the rank at this stage.
        """
        local = rows - self.start
        inside = (local >= 0) & (local < len(self.data))
        if not inside.all():
            raise Unassigned(f"row {rows[~inside][0]} was not given to rank {rank}")
        if len(np.unique(local)) != len(local):
            raise Unassigned(f"rank {rank} named a row twice")
        held = (self.rank[local] == rank) & (self.stage[local] == stage)
        if not held.any(axis=1).all():
            row = rows[~held.any(axis=1)][0]
            raise Unassigned(f"row {row} was not given to rank {rank}, or was already answered")
        return local, held.argmax(axis=1)

    def held_by(self, rank: int, *stages: int) -> tuple[np.ndarray, np.ndarray]:
        """The slots that a rank holds at one of these stages (all but DONE if none is given)."""
        chosen = np.isin(self.stage, stages) if stages else self.stage != DONE
        return np.nonzero((self.rank == rank) & chosen)

    def ranks_at(self, stage: int) -> np.ndarray:
        """The ranks that hold a slot at this stage, which is none that nobody holds; ascending."""
        return np.flatnonzero(np.bincount(self.rank[self.stage == stage]))  # many times faster than np.unique

    def first_idle(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The slots (row index in the round, replica) that ``assign`` would give away; each row has one."""
        local = rows - self.start
        return local, (self.stage[local] == IDLE).argmax(axis=1)

    def assign(self, rank: int, rows: np.ndarray) -> np.ndarray:
        """Give each of these rows' first idle slot to a rank. Returns the replicas (len(rows),)."""
        local, slots = self.first_idle(rows)
        self.rank[local, slots] = rank
        self.stage[local, slots] = SENT
        self.status[local, slots] = RowStatus.PENDING
        self.attempt[local, slots] += 1
        self.output[local, slots] = np.nan
        self.rechecked[local, slots] = False
        return slots

    def move(self, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        """Give slots that were not begun to another rank, which infers them anew; no further attempt."""
        self._share(rank, local, slots)
        self.rank[local, slots] = rank
        self.stage[local, slots] = SENT
        self.output[local, slots] = np.nan

    def copy(self, rank: int, rows: np.ndarray, slots: np.ndarray) -> None:
        """Have another rank prove these slots as well."""
        self._share(rank, rows - self.start, slots)
        for row in rows.tolist():
            self.copied.setdefault(row, set()).add(rank)

    def uncopy(self, rank: int, rows: np.ndarray) -> None:
        """The copy of these rows has ended, or holds them now."""
        for row in rows.tolist():
            self.copied.get(row, set()).discard(rank)

    def _share(self, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        for i, holder in zip(local.tolist(), self.rank[local, slots].tolist(), strict=True):
            self.shared.setdefault(i + self.start, set()).update((rank, holder))

    def may_share(self, rank: int, rows: np.ndarray) -> np.ndarray:
        """Which of these rows a rank may take over, or prove as well, (len(rows),) bool."""
        had = np.array([rank in self.shared.get(row, ()) for row in rows.tolist()], bool)
        return ~(self.forbidden(rows, [rank])[:, 0] | had)

    def release(self, local: np.ndarray, slots: np.ndarray, status: np.ndarray | int) -> None:
        """Take slots back from their rank; ``status`` is how they end if nobody else may take them."""
        self.stage[local, slots] = IDLE
        self.status[local, slots] = status

    def finish(self, local: np.ndarray, slots: np.ndarray, status: np.ndarray | int) -> None:
        """End slots with these statuses."""
        self.stage[local, slots] = DONE
        self.status[local, slots] = status

    def refuse(self, rows: np.ndarray, rank: int) -> None:
        """A rank lied about these rows: it gets them never again."""
        for row in rows.tolist():
            self.refused.setdefault(row, set()).add(rank)

    def avoid(self, rows: np.ndarray, rank: int) -> None:
        """A rank failed with these rows: it gets them again only if nobody else can take them."""
        for row in rows.tolist():
            self.avoided.setdefault(row, set()).add(rank)

    def idle_rows(self) -> np.ndarray:
        """The dataset rows with an idle slot, (m,) int64; a row with two idle slots is there twice."""
        local, _ = np.nonzero(self.stage == IDLE)
        return local.astype(np.int64) + self.start

    def forbidden(self, rows: np.ndarray, ranks: Sequence[int], avoid: bool = True) -> np.ndarray:
        """Which of these P ranks may not get which rows, (len(rows), P) bool.

        Those who lied about the row, those who hold or held another replica of it or prove
        it as well, and with ``avoid`` those who failed with it.
        """
        local = rows - self.start
        out = np.zeros((len(rows), len(ranks)), bool)
        for slot in range(self.replicas):
            taken = self.stage[local, slot] != IDLE
            out |= taken[:, None] & (self.rank[local, slot][:, None] == np.asarray(ranks))
        column = {rank: p for p, rank in enumerate(ranks)}
        for failed in (self.refused, self.copied, self.avoided) if avoid else (self.refused, self.copied):
            for i, row in enumerate(rows.tolist() if failed else ()):
                for rank in failed.get(row, ()):
                    if rank in column:
                        out[i, column[rank]] = True
        return out


# What a row is called that has several answers: the first of these that one of them has. Verified is
# enough; inconsistent is about the row itself; after that, what an honest rank's answer is worth comes
# before what became of a liar's.
_CALLED = (RowStatus.VERIFIED, RowStatus.INCONSISTENT, RowStatus.UNPROVED, RowStatus.PENDING, RowStatus.SUSPECT,
           RowStatus.REJECTED, RowStatus.LOST)


def final_status(status: np.ndarray) -> np.ndarray:
    """A row's status from those of its replicas (N, r): verified when at least one is. (N,) uint8."""
    order = np.zeros(len(RowStatus), np.uint8)
    order[list(_CALLED)] = np.arange(len(_CALLED))
    return np.array(_CALLED, np.uint8)[order[status].min(axis=1)]
