"""What a killed or stopped job needs to know to go on: rows already verified, and how far it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.journal import read_records
from enclaveml.journal_index import JournalIndex, index_journal, rank_counts
from enclaveml.results_schema import RowStatus


@dataclass(frozen=True)
class ResumeState:
    """State of a journal. V verified answers, N rows, D outputs.

    start: meta of the start record (``job``, ``model_hash``, ``dataset_fingerprint``, ``versions``...:
    compare them before going on). sessions: how many there were. status (N,) uint8, attempts (N,) and
    verified (N,) bool of every row; drawn (N,) bool: rows that an earlier session drew to be proved. rows, ranks, sessions_of (V,) and proved (V, D) float64: the
    verified answers, by row (several per row where it was redundant). rounds: counters of the completed
    rounds. next_bundle: a bundle number above those of all proofs that earlier sessions judged. counts: (session, rank) to
    answers, verified answers, envelopes and rejections. expelled: node ids of expelled ranks.
    sealed: the outputs that were sealed for a beacon, each with its ``root`` and ``before``. end: meta of the
    last end record, None if the job was killed.
    """

    start: Mapping[str, Any]
    sessions: int
    circuit_ids: tuple[str, ...]
    status: np.ndarray
    attempts: np.ndarray
    verified: np.ndarray
    drawn: np.ndarray
    rows: np.ndarray
    ranks: np.ndarray
    sessions_of: np.ndarray
    proved: np.ndarray
    rounds: frozenset[int]
    next_bundle: int
    counts: Mapping[tuple[int, int], Mapping[str, int]]
    expelled: tuple[str, ...]
    sealed: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any] | None


class Resume:
    """Namespace of :meth:`load`."""

    @staticmethod
    def load(journal: str | Path) -> ResumeState:
        """Read a journal, twice. Raises FormatError (damage before the tail), EnvironmentFault."""
        index = index_journal(journal)
        good = index.answers.status == RowStatus.VERIFIED
        lines = np.flatnonzero(good)
        return ResumeState(
            start=index.start,
            sessions=len(index.sessions),
            circuit_ids=index.circuits,
            status=index.states.status,
            attempts=index.states.attempts,
            verified=index.states.status == RowStatus.VERIFIED,
            drawn=_drawn(index),
            rows=index.answers.row[lines],
            ranks=index.answers.rank[lines],
            sessions_of=index.answers.session[lines],
            proved=_proved(index, lines),
            rounds=index.rounds,
            next_bundle=max((b.meta["bundle"] for b in index.bundles), default=0) + 1,
            counts=rank_counts(index),
            expelled=tuple(
                str(line.get("node_id", ""))
                for line in index.ranks.values()
                if line.get("fate") == "expelled"
            ),
            sealed=index.sealed,
            end=index.end,
        )


def _drawn(index: JournalIndex) -> np.ndarray:
    """Rows (N,) bool that were drawn, by whichever rank's answer."""
    drawn = np.zeros(index.n_rows, bool)
    for draw in index.draws:
        drawn[draw["rows"]] = True
    return drawn


def _proved(index: JournalIndex, lines: np.ndarray) -> np.ndarray:
    """Proved outputs (V, D) of these answers."""
    bundle, position = index.answers.bundle[lines], index.answers.bundle_position[lines]
    order = np.argsort(bundle, kind="stable")
    proved = np.full((len(lines), index.n_outputs), np.nan)
    number = 0
    for record in read_records(index.path, kinds={"bundle"}):
        if record.number >= index.records:
            break
        left, right = np.searchsorted(bundle[order], [number, number + 1])
        mine = order[left:right]
        proved[mine] = record.arrays["proved"][position[mine]]
        number += 1
    return proved
