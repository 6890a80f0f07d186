"""A job's state from its journal, record by record, without keeping outputs or envelopes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.job_state import ENDED, JobState, RankState
from enclaveml.journal import tail
from enclaveml.journal_format import FIRST, Record
from enclaveml.results_schema import RowStatus

#: The rate is that of this session's last minutes, in seconds.
RATE_OVER_S = 600.0

#: A running job writes at least every ``every_s`` of its last heartbeat; past this many times that and
#: GRACE_S it is called silent. GRACE_S: before the first heartbeat, and a network file system's delay.
MISSED, GRACE_S, FIRST_EVERY_S = 3, 60.0, 10.0

_ENDED_CODES = [int(RowStatus[name.upper()]) for name in ENDED]


class Tracker:
    """Reads a journal from where it left off. Never locks it, so no writer is kept from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()

    def _reset(self) -> None:
        self._offset, self._number = FIRST, 0
        self._salt = b""
        self._start: Mapping[str, Any] = {}
        self._session = -1
        self._ranks: dict[tuple[int, int], RankState] = {}
        self._status = np.zeros(0, np.uint8)
        self._verified = np.zeros(0, np.uint8)  # verified answers of each row
        self._circuits: list[str] = []
        self._rounds: set[int] = set()
        self._end: Mapping[str, Any] | None = None
        self._began = self._written = 0.0
        self._every = FIRST_EVERY_S
        self._proofs = self._rejected = 0
        self._verify_seconds = 0.0
        self._ended = 0  # rows that ended; with replicas, their verified answers
        self._past: deque[tuple[float, int]] = deque()

    def read(self) -> None:
        """Take in what was appended since, or everything where another journal has taken its place.

        Raises FormatError for damage before the tail, EnvironmentFault where it cannot be read.
        """
        for record, after, salt in tail(self.path, self._offset, self._number, self._salt):
            if salt != self._salt:
                self._reset()
                self._salt = salt
            self._take(record)
            self._offset, self._number = after, record.number + 1
        if not self._start:
            raise FormatError(f"{self.path}: holds no whole record")

    def _take(self, record: Record) -> None:
        if not self._start and record.kind != "start":
            raise FormatError(f"{self.path}: record {record.number} at byte {record.offset}: "
                              f"{record.kind} record before the start record")
        method = getattr(self, f"_take_{record.kind}", None)
        try:
            if method is not None:
                method(record)
        except (IndexError, KeyError, TypeError, ValueError, MemoryError) as error:
            raise FormatError(f"{self.path}: record {record.number} at byte {record.offset}: {record.kind} record: "
                              f"{error}") from error
        self._written = record.time
        if record.kind in ("bundle", "rows", "heartbeat"):
            self._past.append((record.time, self._ended))
            while len(self._past) > 2 and self._past[1][0] < record.time - RATE_OVER_S:
                self._past.popleft()

    # -- records -------------------------------------------------------------------

    def _take_start(self, record: Record) -> None:
        self._start = record.meta
        n = int(record.meta["rows"])
        if not 0 < n <= 1 << 40:
            raise ValueError(f"{n} rows")
        self._status, self._verified = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        self._take_resume(record)

    def _take_resume(self, record: Record) -> None:
        self._session += 1
        self._end, self._began, self._every = None, record.time, FIRST_EVERY_S
        self._past.clear()
        self._past.append((record.time, self._ended))
        for one in record.meta["ranks"]:
            self._update(one["rank"], node_id=str(one.get("node_id", "")), host=str(one.get("host", "")),
                         device=str(one.get("device", "")), capacity=float(one.get("share") or 0.0))

    def _take_circuit(self, record: Record) -> None:
        if record.meta["circuit_id"] not in self._circuits:
            self._circuits.append(str(record.meta["circuit_id"]))

    def _take_outputs(self, record: Record) -> None:
        rows = record.arrays["rows"]
        self._set(rows, np.full(len(rows), RowStatus.PENDING, np.uint8))
        self._add(record.meta["rank"], rows=len(rows))

    def _take_bundle(self, record: Record) -> None:
        rows, status = record.arrays["rows"], record.arrays["status"]
        self._set(rows, status)
        good = status == RowStatus.VERIFIED
        if self._replicas > 1:
            counted = rows[good][self._verified[rows[good]] < self._replicas]
            self._verified[counted] += 1
            self._ended += len(counted)
        rejected = bool((status == RowStatus.REJECTED).any())
        self._proofs += bool(good.any())
        self._rejected += rejected
        self._verify_seconds += float(record.meta["verify_seconds"])
        self._add(record.meta["rank"], verified=int(good.sum()), proofs=bool(len(record.blobs["envelope"])),
                  rejections=rejected)

    def _take_rows(self, record: Record) -> None:
        self._set(record.arrays["rows"], record.arrays["status"])

    def _take_round(self, record: Record) -> None:
        self._rounds.add(record.meta["counter"])

    def _take_heartbeat(self, record: Record) -> None:
        self._every = float(record.meta["every_s"])
        columns = record.meta["columns"]
        for rank, values in zip(record.arrays["ranks"].tolist(), record.arrays["values"].tolist(), strict=True):
            told = dict(zip(columns, values, strict=True))
            self._update(rank, seconds_inferring=told.get("infer_s"), seconds_waiting=told.get("wait_s"),
                         seconds_proving=told.get("witness_s", 0.0) + told.get("prove_s", 0.0))

    def _take_rank(self, record: Record) -> None:
        names = ("seconds_inferring", "seconds_proving", "seconds_waiting", "fate", "fate_reason", "rejections")
        self._update(record.meta["rank"], **{n: record.meta[n] for n in names if record.meta.get(n) is not None})

    def _take_end(self, record: Record) -> None:
        self._end = record.meta

    def _set(self, rows: np.ndarray, status: np.ndarray) -> None:
        """Give rows a status; ``verified`` is never taken away."""
        if len(rows) and rows.min() < 0:
            raise IndexError(f"row {rows.min()}")
        before = self._status[rows]
        after = np.where(before == RowStatus.VERIFIED, before, status)
        self._status[rows] = after
        if self._replicas == 1:
            self._ended += int(np.isin(after, _ENDED_CODES).sum()) - int(np.isin(before, _ENDED_CODES).sum())

    def _update(self, rank: int, **values: Any) -> None:
        key = self._session, int(rank)
        self._ranks[key] = replace(self._ranks.get(key) or RankState(*key), **values)

    def _add(self, rank: int, **values: int) -> None:
        before = self._ranks.get((self._session, int(rank))) or RankState(self._session, int(rank))
        self._update(rank, **{name: getattr(before, name) + value for name, value in values.items()})

    # -- the state -----------------------------------------------------------------

    @property
    def _replicas(self) -> int:
        return min(255, max(1, int(self._start.get("replicas", 1))))

    def state(self, now: float, writer_here: bool = False) -> JobState:
        """The job as the journal has it at Unix time ``now``."""
        end, start = self._end, self._start
        quiet = max(0.0, now - self._written)
        running = writer_here or quiet <= MISSED * self._every + GRACE_S
        ended, wanted = self._ended, len(self._status) * self._replicas
        rate = left = None
        until = now if end is None and running else self._written
        since, before = self._past[0]
        if ended > before and until > since:
            rate = (ended - before) / (until - since)
            left = (wanted - ended) / rate
        counts = np.bincount(self._status, minlength=len(RowStatus))
        return JobState(
            name=str(start.get("name") or self.path.name), source=str(self.path),
            state=str(end["status"]) if end else "running" if running else "silent",
            exit_code=end and int(end["exit_code"]), message=str(end["message"]) if end else "",
            started=str(start["started"]), finished=str(end["finished"]) if end else "", sessions=self._session + 1,
            rows=len(self._status), rows_by_status={s.name.lower(): int(counts[s]) for s in RowStatus},
            answers_ended=ended, answers_wanted=wanted, rate=rate, left=left, elapsed=max(0.0, until - self._began),
            proofs_verified=self._proofs, proofs_rejected=self._rejected, verify_seconds=self._verify_seconds,
            rounds=len(self._rounds), circuits=tuple(self._circuits),
            ranks=tuple(self._ranks[key] for key in sorted(self._ranks)), written=self._written, quiet=quiet,
            writer_here=writer_here,
        )
