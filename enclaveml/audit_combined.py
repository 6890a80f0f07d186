"""The combined result, made again from the verified rows and compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.audit_report import Report
from enclaveml.combine import replicas_by_row
from enclaveml.combined import Accuracy, Combining
from enclaveml.results_reader import Results
from enclaveml.results_schema import FileStatus, RowStatus

_ROWS = 1 << 14  # rows combined at once

Chunk = tuple[int, np.ndarray, np.ndarray, np.ndarray]


def check_combined(results: Results, report: Report, job: Mapping[str, Any]) -> None:
    """Make ``/combined`` again; a failure for each array that differs, is missing or is too much."""
    stored = results.combined
    if not stored and results.status is not FileStatus.COMPLETE:
        return
    strategy, kind = job["combine"]["strategy"], job["combine"]["input"]
    redundant = results.has_replicas and job["split"].get("replicas", 2) > 1
    capacity = _capacities(results)
    if capacity is None and strategy == "weighted_average":
        report.limits.append("that the combined result follows from the rows: the file has no capacities of ranks to weigh by")
        return
    labels = results.labels
    try:
        combining = Combining(strategy, kind, results.n_outputs, redundant)
        scored, of_row, votes = Accuracy(strategy, kind, redundant), [], []
        chunks = _answers(results, capacity or {}) if redundant else _rows(results, capacity or {})
        for start, proved, weights, valid in chunks:
            each, votes_each = combining.add(proved, weights, valid)
            if labels is not None:
                scored.add(each, labels[start : start + len(each)])
            if redundant:
                of_row.append(each)
                votes += [] if votes_each is None else [votes_each]
        wanted = combining.result()
    except ValueError as error:
        report.fail("/combined", f"cannot be made again from the rows: {error}")
        return
    if redundant:
        wanted["outputs"] = np.concatenate(of_row)
        if votes:
            wanted["votes_by_row"] = np.concatenate(votes)
    if (accuracy := scored.result(labels)) is not None:
        wanted["accuracy"] = np.float64(accuracy[0])
    for name in sorted(wanted.keys() | stored.keys()):
        if name not in stored or name not in wanted:
            report.fail(f"/combined/{name}", "is missing" if name in wanted else "does not follow from the rows and the job")
        elif not _equal(np.asarray(stored[name]), np.asarray(wanted[name])):
            if strategy == "soft_vote" and _close(stored[name], wanted[name]):
                report.limits.append(f"the last bits of /combined/{name}: this machine's exponential rounds otherwise")
            else:
                report.fail(f"/combined/{name}", f"does not follow from the rows by {strategy}")


def _equal(found: np.ndarray, wanted: np.ndarray) -> bool:
    """The same type, shape and values, NaN as NaN."""
    return found.dtype == wanted.dtype and found.shape == wanted.shape and np.array_equal(
        found, wanted, equal_nan=found.dtype.kind == "f")


def _close(found: Any, wanted: Any) -> bool:
    found, wanted = np.asarray(found), np.asarray(wanted)
    return found.shape == wanted.shape and found.dtype == wanted.dtype and np.allclose(
        found, wanted, rtol=1e-12, atol=0, equal_nan=True)


def _capacities(results: Results) -> dict[int, float] | None:
    """Rank to capacity, of the last session: what weighted_average weighs by."""
    if "capacity" not in hdf5.members(results.file, "ranks"):
        return None
    lines = results.ranks
    with hdf5.reading(results.path, "/ranks/capacity"):
        values = hdf5.stored(results.file, "ranks/capacity")[()]
    if values.dtype != np.float64 or values.shape != (len(lines),):
        raise results.fault("/ranks/capacity", f"is {values.dtype} {values.shape}, expected float64 ({len(lines)},)")
    last = max((line["session"] for line in lines), default=0)
    return {line["rank"]: float(v) for line, v in zip(lines, values) if line["session"] == last}


def _weights(ranks: np.ndarray, capacity: Mapping[int, float]) -> np.ndarray:
    return np.array([capacity.get(rank, 0.0) for rank in ranks.tolist()], np.float64)


def _rows(results: Results, capacity: Mapping[int, float]) -> Iterator[Chunk]:
    status, ranks = results.row("status"), results.row("rank")
    for start in range(0, results.n_rows, _ROWS):
        part = slice(start, min(start + _ROWS, results.n_rows))
        proved = results.proved_outputs(part.start, part.stop)
        valid = status[part] == RowStatus.VERIFIED
        yield start, proved[:, None], _weights(ranks[part], capacity)[:, None], valid[:, None]


def _answers(results: Results, capacity: Mapping[int, float]) -> Iterator[Chunk]:
    row, status, rank = (results.replicas(name) for name in ("row", "status", "rank"))
    order = np.argsort(row, kind="stable")
    for start in range(0, results.n_rows, _ROWS):
        stop = min(start + _ROWS, results.n_rows)
        mine = order[slice(*np.searchsorted(row[order], [start, stop]))]
        if not len(mine):
            empty = stop - start, 1
            yield start, np.full((*empty, results.n_outputs), np.nan), np.zeros(empty), np.zeros(empty, bool)
            continue
        proved = results.take("replicas/proved_output", mine)
        valid = status[mine] == RowStatus.VERIFIED
        there, *packed = replicas_by_row(row[mine], proved, _weights(rank[mine], capacity), valid)
        full = []
        for values, fill in zip(packed, (np.nan, 0.0, False)):
            whole = np.full((stop - start, *values.shape[1:]), fill, values.dtype)
            whole[there - start] = values
            full.append(whole)
        yield start, *full
