"""Which of a row's answers counts: pure, over events in the order in which they happened.

An *answer* is what one rank of one session said about one row. It is verified when one of its
proofs is. A row is verified when one of its answers is; the first one verified counts, else the
latest answer.

Letters: E events, A answers, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.results_schema import RowStatus

#: ``Events.status`` of an event that is the float output itself, before any proof.
SAID = 255


@dataclass(frozen=True)
class Events:
    """What happened to rows, in order of ``record``. All (E,).

    row int64, rank and session int32; record: number of the journal record, position: index in it;
    status: SAID or a RowStatus; bundle: number of the bundle that gave the status, -1 for none.
    """

    row: np.ndarray
    rank: np.ndarray
    session: np.ndarray
    record: np.ndarray
    position: np.ndarray
    status: np.ndarray
    bundle: np.ndarray


@dataclass(frozen=True)
class Answers:
    """One line per answer, ordered by row, session and rank. All (A,).

    output_record, output_position: where in the journal its float outputs are (-1: nowhere);
    bundle, bundle_position: the proof that gave its status (-1: none); last: its latest record;
    said: how many times the rank was asked for it and answered.
    """

    row: np.ndarray
    rank: np.ndarray
    session: np.ndarray
    status: np.ndarray
    output_record: np.ndarray
    output_position: np.ndarray
    bundle: np.ndarray
    bundle_position: np.ndarray
    since: np.ndarray
    last: np.ndarray
    said: np.ndarray


@dataclass(frozen=True)
class RowStates:
    """status (N,) uint8; answer (N,) int64: the answer that counts, -1: none; attempts (N,) int32."""

    status: np.ndarray
    answer: np.ndarray
    attempts: np.ndarray


def resolve_answers(events: Events) -> Answers:
    """Group events into answers. Raises FormatError where a proof is verified of an output never gathered."""
    n = len(events.row)
    if not n:
        empty = np.zeros(0, np.int64)
        return Answers(*(empty for _ in range(3)), empty.astype(np.uint8), *(empty for _ in range(7)))
    order = np.lexsort((events.record, events.rank, events.session, events.row))
    row, rank, session = events.row[order], events.rank[order], events.session[order]
    new = np.ones(n, bool)
    new[1:] = (row[1:] != row[:-1]) | (rank[1:] != rank[:-1]) | (session[1:] != session[:-1])
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], n)
    at = np.arange(n)
    status, said = events.status[order], events.status[order] == SAID

    first_verified = np.minimum.reduceat(np.where(status == RowStatus.VERIFIED, at, n), starts)
    verified = first_verified < n
    # The float output is the last one said before the proof that was verified, else the last one.
    until = np.repeat(np.where(verified, first_verified, ends), ends - starts)
    output = np.maximum.reduceat(np.where(said & (at < until), at, -1), starts)
    if (verified & (output < 0)).any():
        bad = starts[np.flatnonzero(verified & (output < 0))[0]]
        raise FormatError(
            f"row {row[bad]} of rank {rank[bad]} is verified, but no output of it was gathered before"
        )
    judged = np.maximum.reduceat(np.where(~said, at, -1), starts)
    judged = np.where(verified, first_verified, np.where(judged > output, judged, -1))

    def pick(values: np.ndarray, where: np.ndarray, none: int) -> np.ndarray:
        return np.where(where >= 0, values[order[where]], none)

    bundle = pick(events.bundle, judged, -1)
    return Answers(
        row=row[starts],
        rank=rank[starts],
        session=session[starts],
        status=pick(events.status, judged, int(RowStatus.PENDING)).astype(np.uint8),
        output_record=pick(events.record, output, -1),
        output_position=pick(events.position, output, -1),
        bundle=bundle,
        bundle_position=np.where(bundle >= 0, pick(events.position, judged, -1), -1),
        since=np.where(verified, pick(events.record, judged, -1), events.record[order[ends - 1]]),
        last=events.record[order[ends - 1]],
        said=np.add.reduceat(said.astype(np.int32), starts),
    )


def resolve_rows(answers: Answers, n_rows: int, marks: np.ndarray, mark_records: np.ndarray) -> RowStates:
    """Choose each row's answer. ``marks`` (N,) uint8 are statuses given without a proof by record
    ``mark_records`` (N,) int64 (-1: none); one not earlier than the row's last event wins over all but
    ``verified``, which a mark cannot give either."""
    status = np.zeros(n_rows, np.uint8)
    answer = np.full(n_rows, -1, np.int64)
    attempts = np.zeros(n_rows, np.int32)
    if len(answers.row):
        # Ordered worst to best: unverified by time, then verified with the earliest last.
        verified = answers.status == RowStatus.VERIFIED
        order = np.lexsort((np.where(verified, -answers.since, answers.since), verified, answers.row))
        row = answers.row[order]
        best = np.flatnonzero(np.append(row[1:] != row[:-1], True))
        answer[row[best]] = order[best]
        status[row[best]] = answers.status[order[best]]
        np.add.at(attempts, answers.row, answers.said.astype(np.int32))
    last = np.full(n_rows, -1, np.int64)
    np.maximum.at(last, answers.row, answers.last)
    marked = (
        (mark_records >= last)
        & (mark_records >= 0)
        & (status != RowStatus.VERIFIED)
        & (marks != RowStatus.VERIFIED)
    )
    return RowStates(np.where(marked, marks, status).astype(np.uint8), answer, attempts)
