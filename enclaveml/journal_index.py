"""What a journal says, gathered in one pass without keeping the outputs or envelopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.answers import SAID, Answers, Events, RowStates, resolve_answers, resolve_rows
from enclaveml.errors import FormatError
from enclaveml.journal import Record, read_records
from enclaveml.results_schema import FileStatus, RowStatus

_CODES = len(RowStatus)


@dataclass(frozen=True)
class Bundle:
    """One ``bundle`` record: its number in the journal, envelope bytes (``size``), rows and status (n,).

    ``judged``: when it was written, seconds since its session's first record.
    """

    record: int
    session: int
    size: int
    meta: Mapping[str, Any]
    rows: np.ndarray
    status: np.ndarray
    judged: float


@dataclass(frozen=True)
class JournalIndex:
    """A journal's content but for the large arrays.

    start: meta of the start record; sessions: metas of start and resumes; ranks: (session, rank) to
    what is known of the rank; circuits: ids in order; rounds: counters of the completed ones;
    end: meta of the end record if the last session has one.
    """

    path: Path
    start: Mapping[str, Any]
    sessions: tuple[Mapping[str, Any], ...]
    ranks: Mapping[tuple[int, int], Mapping[str, Any]]
    circuits: tuple[str, ...]
    bundles: tuple[Bundle, ...]
    draws: tuple[Mapping[str, Any], ...]
    sealed: tuple[Mapping[str, Any], ...]
    beacons: tuple[Mapping[str, Any], ...]
    rechecks: tuple[Mapping[str, Any], ...]
    rounds: frozenset[int]
    end: Mapping[str, Any] | None
    answers: Answers
    states: RowStates
    records: int

    @property
    def n_rows(self) -> int:
        """N."""
        return int(self.start["rows"])

    @property
    def n_outputs(self) -> int:
        """D."""
        return int(self.start["outputs"])


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.start: Mapping[str, Any] = {}
        self.sessions: list[Mapping[str, Any]] = []
        self.ranks: dict[tuple[int, int], dict[str, Any]] = {}
        self.circuits: list[str] = []
        self.bundles: list[Bundle] = []
        self.draws: list[Mapping[str, Any]] = []
        self.sealed: list[Mapping[str, Any]] = []
        self.beacons: list[Mapping[str, Any]] = []
        self.rechecks: list[Mapping[str, Any]] = []
        self.rounds: set[int] = set()
        self.end: Mapping[str, Any] | None = None
        self.events: list[tuple[np.ndarray, ...]] = []
        self.began = 0.0

    @property
    def session(self) -> int:
        return len(self.sessions) - 1

    def fail(self, record: Record, text: str) -> FormatError:
        return FormatError(f"{self.path}: record {record.number} at byte {record.offset}: {text}")

    def take(self, record: Record) -> None:
        if not self.sessions and record.kind != "start":
            raise self.fail(record, f"{record.kind} record before the start record")
        method = getattr(self, f"_take_{record.kind}", None)
        if method is not None:
            method(record)

    def _take_start(self, record: Record) -> None:
        if self.sessions:
            raise self.fail(record, "a second start record")
        self.start = record.meta
        n, d = self.start["rows"], self.start["outputs"]
        if n < 1 or d < 1 or n > 1 << 40 or d > 1 << 31:
            raise self.fail(record, f"start record: {n} rows of {d} outputs")
        try:
            self.marks, self.mark_records = np.zeros(n, np.uint8), np.full(n, -1, np.int64)
        except MemoryError as error:
            raise self.fail(record, f"start record: {n} rows do not fit in memory") from error
        self._take_resume(record)

    def _take_resume(self, record: Record) -> None:
        self.sessions.append(record.meta)
        self.began = record.time
        self.end = None
        for line in record.meta["ranks"]:
            if not isinstance(line, dict) or not isinstance(line.get("rank"), int):
                raise self.fail(record, f"{record.kind} record: a line of ranks without a rank")
            self.ranks[self.session, line["rank"]] = dict(line)

    def _take_circuit(self, record: Record) -> None:
        if record.meta["circuit_id"] not in self.circuits:
            self.circuits.append(record.meta["circuit_id"])

    def _take_outputs(self, record: Record) -> None:
        if record.arrays["outputs"].shape[1] != self.start["outputs"]:
            raise self.fail(
                record,
                f"outputs record: {record.arrays['outputs'].shape[1]} outputs a row, "
                f"the start record says {self.start['outputs']}",
            )
        self._event(record, record.meta["rank"], np.full(len(record.arrays["rows"]), SAID, np.uint8), -1)

    def _take_bundle(self, record: Record) -> None:
        if record.arrays["proved"].shape[1] != self.start["outputs"]:
            raise self.fail(
                record,
                f"bundle record: {record.arrays['proved'].shape[1]} outputs a row, "
                f"the start record says {self.start['outputs']}",
            )
        if record.meta["circuit_id"] not in self.circuits:
            raise self.fail(
                record, f"bundle record: circuit {record.meta['circuit_id']!r} has no circuit record"
            )
        self._event(record, record.meta["rank"], record.arrays["status"], len(self.bundles))
        self.bundles.append(
            Bundle(
                record.number,
                self.session,
                len(record.blobs["envelope"]),
                record.meta,
                record.arrays["rows"].copy(),
                record.arrays["status"].copy(),
                record.time - self.began,
            )
        )

    def _take_rows(self, record: Record) -> None:
        rows, status = self._checked(record, record.arrays["rows"], record.arrays["status"])
        if (status == RowStatus.VERIFIED).any():
            raise self.fail(record, "rows record: calls rows verified without a proof")
        if record.meta.get("rank", -1) >= 0:
            self._event(record, record.meta["rank"], status, -1)
        else:
            self.marks[rows], self.mark_records[rows] = status, record.number

    def _take_round(self, record: Record) -> None:
        self.rounds.add(record.meta["counter"])

    def _take_rank(self, record: Record) -> None:
        self.ranks.setdefault((self.session, record.meta["rank"]), {}).update(record.meta)

    def _take_draw(self, record: Record) -> None:
        self.draws.append(self._sampled(record))

    def _take_sealed(self, record: Record) -> None:
        if record.arrays["leaf"].shape[1] != 32:
            raise self.fail(record, f"sealed record: a leaf of {record.arrays['leaf'].shape[1]} bytes, expected 32")
        self.sealed.append(self._sampled(record))

    def _take_beacon(self, record: Record) -> None:
        sealed = self.sealed[-1] if self.sealed else None
        if sealed is None or (sealed["session"], sealed["root"]) != (self.session, record.meta["root"]):
            raise self.fail(record, "beacon record: is of outputs that were not sealed before it")
        self.beacons.append({**sealed, "value": record.meta["value"]})

    def _take_recheck(self, record: Record) -> None:
        self.rechecks.append(self._sampled(record))

    def _sampled(self, record: Record) -> dict[str, Any]:
        """A record's meta, session and arrays, its rows checked."""
        self._checked(record, record.arrays["rows"], np.zeros(0, np.uint8))
        return {**record.meta, "session": self.session, **{name: array.copy() for name, array in record.arrays.items()}}

    def _take_end(self, record: Record) -> None:
        if record.meta["status"] not in [s.value for s in FileStatus]:
            raise self.fail(record, f"end record: unknown status {record.meta['status']!r}")
        self.end = record.meta

    def _checked(self, record: Record, rows: np.ndarray, status: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.start["rows"]
        if len(rows) and (rows.min() < 0 or rows.max() >= n):
            bad = rows[(rows < 0) | (rows >= n)][0]
            raise self.fail(record, f"{record.kind} record: row {bad} of {n}")
        if len(status) and status.max(initial=0) >= _CODES:
            raise self.fail(record, f"{record.kind} record: status {status.max()} is no row status")
        return rows, status

    def _event(self, record: Record, rank: int, status: np.ndarray, bundle: int) -> None:
        rows = record.arrays["rows"]
        self._checked(record, rows, status[:0] if record.kind == "outputs" else status)
        if len(np.unique(rows)) != len(rows):
            raise self.fail(record, f"{record.kind} record: a row is there twice")
        self.ranks.setdefault((self.session, rank), {"rank": rank})
        full = [
            np.full(len(rows), value, dtype)
            for value, dtype in ((rank, np.int32), (self.session, np.int32), (record.number, np.int64))
        ]
        self.events.append(
            (
                rows.astype(np.int64),
                *full,
                np.arange(len(rows)),
                status.copy(),
                np.full(len(rows), bundle, np.int64),
            )
        )


def index_journal(path: str | Path) -> JournalIndex:
    """Read a journal once. Raises FormatError (with record and offset), EnvironmentFault."""
    reader, record = _Reader(Path(path)), None
    for record in read_records(path):
        reader.take(record)
    if record is None:
        raise FormatError(f"{path}: holds no whole record")
    columns = (
        [np.concatenate(parts) for parts in zip(*reader.events)] if reader.events else [np.zeros(0, int)] * 7
    )
    try:
        answers = resolve_answers(Events(*columns))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    states = resolve_rows(answers, reader.start["rows"], reader.marks, reader.mark_records)
    return JournalIndex(
        reader.path,
        reader.start,
        tuple(reader.sessions),
        reader.ranks,
        tuple(reader.circuits),
        tuple(reader.bundles),
        tuple(reader.draws),
        tuple(reader.sealed),
        tuple(reader.beacons),
        tuple(reader.rechecks),
        frozenset(reader.rounds),
        reader.end,
        answers,
        states,
        record.number + 1,
    )


def rank_counts(index: JournalIndex) -> dict[tuple[int, int], dict[str, int]]:
    """What the journal's own records add up to for each (session, rank): answers, verified answers,
    envelopes, and envelopes with a rejected row."""
    counts = {key: {"rows": 0, "rows_verified": 0, "proofs": 0, "rejections": 0} for key in index.ranks}
    for name, chosen in (
        ("rows", slice(None)),
        ("rows_verified", index.answers.status == RowStatus.VERIFIED),
    ):
        pairs = np.stack([index.answers.session[chosen], index.answers.rank[chosen]], axis=1)
        for (session, rank), count in zip(*np.unique(pairs, axis=0, return_counts=True)):
            counts[int(session), int(rank)][name] = int(count)
    for bundle in index.bundles:
        mine = counts[bundle.session, bundle.meta["rank"]]
        mine["proofs"] += bundle.size > 0
        mine["rejections"] += bool((bundle.status == RowStatus.REJECTED).any())
    return counts
