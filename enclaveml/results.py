"""Makes the results file from the journal; see RESULTS.md for what is in it.

The file is written under another name in the same folder, synced and renamed, so whoever opens
``results.h5`` sees a whole file, at any moment. Memory is O(N) for rows' states plus one journal
record: outputs and envelopes are copied record by record.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.journal import read_records
from enclaveml.journal_index import JournalIndex, index_journal, rank_counts
from enclaveml.results_reader import Results, read_results
from enclaveml.results_schema import (
    COMBINED, DRAWS, FORMAT, FORMAT_VERSION, KEY_NAMES, KEYS, OUTPUTS, PROOFS, RANKS, REPLICAS, ROWS, Column,
    FileStatus, RowStatus, status_names,
)
from enclaveml.resume import Resume, ResumeState

__all__ = ["FileStatus", "Results", "Resume", "ResumeState", "RowStatus", "build_results", "read_results",
           "short_answer"]

#: What build_results takes for ``combined``: name to array, or a function that makes that from the rows.
Combined = Mapping[str, np.ndarray] | Callable[[Results], Mapping[str, np.ndarray]]

_BLOCK = 1 << 22


def build_results(journal: str | Path, out: str | Path, *, combined: Combined | None = None,
                  combined_attributes: Mapping[str, str | int | float] | None = None,
                  labels: np.ndarray | None = None, status: FileStatus | None = None) -> JournalIndex:
    """Write the results file of a journal, whole or not at all; an existing file is replaced.

    Args:
        combined: arrays of ``/combined``, or a function called with the rows already readable.
        labels: (N,) of ``/row/label``.
        status: the file's status; default: what the last ``end`` record says, else ``running``.

    Returns what was in the journal. Raises FormatError (journal), EnvironmentFault (disk); the
    existing file is untouched then.
    """
    out = Path(out)
    index = index_journal(journal)
    if labels is not None and np.shape(labels) != (index.n_rows,):
        raise ValueError(f"labels have shape {np.shape(labels)}, expected ({index.n_rows},)")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    _room(out, index)
    try:
        temporary.unlink(missing_ok=True)
        with hdf5.create(temporary, shown=out) as file:
            _attributes(file, index, status)
            _fixed(file, index, labels)
            _copy(file, index)
            if combined is not None:
                made = combined(Results(temporary, file)) if callable(combined) else combined
                _combined(file, made, combined_attributes or {})
        with hdf5.writing(out):
            _publish(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return index


def short_answer(results: Results) -> dict[str, Any]:
    """The answer of ``--json``: job-level vector, verified bundles, ranks, model time, and whether all rows hold.

    ``proofs_verified`` counts envelopes in which at least one row was verified; ``inference_time_ms``
    is the longest of the ranks' times in the model; ``result`` is null where nothing was combined.
    """
    status = results.row("status")
    combined = results.combined
    seconds = [line["seconds_inferring"] for line in results.ranks if np.isfinite(line["seconds_inferring"])]
    return {
        "result": [_json_number(x) for x in np.ravel(combined["result"])] if "result" in combined else None,
        "proofs_verified": results.proofs_verified,
        "total_nodes": len({line["rank"] for line in results.ranks}),
        "inference_time_ms": max(seconds, default=0.0) * 1000.0,
        "verified": bool((status == RowStatus.VERIFIED).all()),
    }


def _json_number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN


def _room(out: Path, index: JournalIndex) -> None:
    """Said at once and with numbers, before minutes of copying."""
    answers = len(index.answers.row) if index.start["strategy"] == "redundant" else 0
    need = (index.n_rows + answers) * (12 * index.n_outputs + 64) + sum(b.size + 17 * len(b.rows) for b in index.bundles)
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise EnvironmentFault(f"{out}: cannot be written: {error.strerror or error}") from error
    if free < need:
        raise EnvironmentFault(f"{out}: cannot be written: it needs about {need / 1e6:.1f} MB and {free / 1e6:.1f} MB "
                               "are free; make room, then --resume")


def _publish(temporary: Path, out: Path) -> None:
    os.replace(temporary, out)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:
        pass  # not every file system can
    finally:
        os.close(folder)


def _attributes(file: hdf5.File, index: JournalIndex, status: FileStatus | None) -> None:
    start, end = index.start, index.end or {}
    sessions = [{"started": s["started"], "versions": s["versions"]} for s in index.sessions]
    values: dict[str, str | int] = {
        "format": FORMAT, "format_version": FORMAT_VERSION,
        "status": (status or FileStatus(end.get("status", FileStatus.RUNNING))).value,
        "exit_code": end.get("exit_code", -1), "message": end.get("message", ""),
        "job": start["job"], "job_given": start["job_given"],
        "inputs": start["inputs"], "strategy": start["strategy"],
        "versions": json.dumps(index.sessions[-1]["versions"]), "model_hash": start["model_hash"],
        # A plain hash of few or low-entropy rows gives them away to a search.
        "dataset_fingerprint": start["dataset_fingerprint"] if start["inputs"] == "public" else "",
        "started": start["started"], "finished": end.get("finished", ""), "counter": len(index.rounds),
        "rows": index.n_rows, "outputs": index.n_outputs, "sessions": json.dumps(sessions),
    }
    for name, value in values.items():
        hdf5.attribute(file, name, value)


def _put(file: hdf5.File, column: Column, data: np.ndarray) -> None:
    dtype: Any = hdf5.enum_dtype(status_names()) if column.dtype == "status" else np.dtype(column.dtype)
    hdf5.write(file, column.path, np.asarray(data, "u1" if column.dtype == "status" else dtype).astype(dtype),
               long_name=column.long_name, units=column.units)


def _put_table(file: hdf5.File, columns: tuple[Column, ...], values: Mapping[str, Any]) -> None:
    for column in columns:
        name = column.path.rsplit("/", 1)[-1]
        if name not in values:
            continue
        if column.dtype == "text":
            hdf5.write(file, column.path, hdf5.texts([str(v) for v in values[name]]), long_name=column.long_name,
                       units=column.units)
        else:
            _put(file, column, values[name])


def _fixed(file: hdf5.File, index: JournalIndex, labels: np.ndarray | None) -> None:
    """Everything that fits in memory: rows' states and the tables. Allocates the rest."""
    n, d, answers, states = index.n_rows, index.n_outputs, index.answers, index.states
    for column in OUTPUTS:
        hdf5.write(file, column.path, shape=(n, d), dtype=column.dtype, fill=np.nan, long_name=column.long_name,
                   units=column.units)
    has = states.answer >= 0

    def of_answer(values: np.ndarray) -> np.ndarray:
        result = np.full(n, -1, np.int64)
        result[has] = values[states.answer[has]]
        return result

    _put_table(file, ROWS, {"status": states.status, "rank": of_answer(answers.rank),
                            "session": of_answer(answers.session), "bundle": of_answer(answers.bundle),
                            "attempts": states.attempts})
    for column in ROWS[-2:]:
        hdf5.write(file, column.path, shape=(n,), dtype=column.dtype, fill=np.nan if column.dtype == "float64" else 0,
                   long_name=column.long_name, units=column.units)
    if labels is not None:
        hdf5.write(file, "row/label", np.asarray(labels), long_name="label given with the data", units="1")
    if index.start["strategy"] == "redundant":
        _put_table(file, REPLICAS, {"row": answers.row, "rank": answers.rank, "session": answers.session,
                                    "status": answers.status, "bundle": answers.bundle})
        for column in REPLICAS[-2:]:
            hdf5.write(file, column.path, shape=(len(answers.row), d), dtype=column.dtype, fill=np.nan,
                       long_name=column.long_name, units=column.units)
    bundles = index.bundles
    offsets = np.cumsum([0, *(b.size for b in bundles)])
    hdf5.write(file, "proofs/bytes", shape=(int(offsets[-1]),), dtype="u1", long_name=PROOFS[0].long_name, units="1")
    _put_table(file, PROOFS, {
        "offset": offsets, "rows_offset": np.cumsum([0, *(len(b.rows) for b in bundles)]),
        "rows": np.concatenate([np.zeros(0, np.int64), *(b.rows for b in bundles)]),
        "row_status": np.concatenate([np.zeros(0, np.uint8), *(b.status for b in bundles)]),
        "session": [b.session for b in bundles], "id": [b.meta["bundle"] for b in bundles],
        **{key: [b.meta[key] for b in bundles]
           for key in ("rank", "attempt", "round", "circuit_id", "verify_seconds", "verdict")}})
    _ranks(file, index)
    if index.draws:
        _put_table(file, DRAWS, {key: [draw[key] for draw in index.draws]
                                 for key in ("rank", "session", "round", "seed", "of", "drawn")})


def _ranks(file: hdf5.File, index: JournalIndex) -> None:
    """The table of ranks: what is known of each, and what the journal's own records add up to."""
    counts = rank_counts(index)
    lines = [{**counts[key], **{k: v for k, v in known.items() if v is not None}, "session": key[0], "rank": key[1]}
             for key, known in sorted(index.ranks.items())]
    for column in RANKS:
        name = column.path.rsplit("/", 1)[-1]
        default: Any = {"text": "", "float64": np.nan}.get(column.dtype, 0)
        _put_table(file, (column,), {name: [line.get(name, default) for line in lines]})
    for name in sorted({key for line in lines for key in line} - {c.path.rsplit("/", 1)[-1] for c in RANKS}):
        _further_column(file, name, [line.get(name) for line in lines])


def _further_column(file: hdf5.File, name: str, values: list[Any]) -> None:
    """A column of /ranks that the schema does not know: numbers as float64, all else as text."""
    known = [v for v in values if v is not None]
    units = "s" if name.startswith("seconds_") else "1"
    numbers = all(isinstance(v, (int, float)) for v in known)
    data = (np.array([np.nan if v is None else v for v in values], np.float64) if numbers else
            hdf5.texts(["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]))
    hdf5.write(file, f"ranks/{name.replace('/', '_')}", data, long_name=name.replace("_", " "), units=units)


def _copy(file: hdf5.File, index: JournalIndex) -> None:
    """The second pass: outputs, proved outputs, envelopes and keys, from the records that count."""
    answers, states = index.answers, index.states
    redundant = index.start["strategy"] == "redundant"
    counts = np.zeros(len(answers.row), bool)
    counts[states.answer[states.answer >= 0]] = True
    by_output, by_bundle = _Lookup(answers.output_record), _Lookup(answers.bundle)
    offset, number, keys = 0, 0, set()
    for record in read_records(index.path, kinds={"outputs", "bundle", "circuit"}):
        if record.number >= index.records:
            break  # appended since the first pass
        arrays = record.arrays
        if record.kind == "circuit":
            if record.meta["circuit_id"] not in keys:
                keys.add(record.meta["circuit_id"])
                _keys(file, record.meta["circuit_id"], record)
        elif record.kind == "outputs":
            found = by_output.find(record.number)
            values = arrays["outputs"][answers.output_position[found]]
            chosen = counts[found]
            _write_rows(file["outputs"], answers.row[found][chosen], values[chosen])
            if redundant:
                _write_rows(file["replicas/output"], found, values)
        else:
            found = by_bundle.find(number)
            at = answers.bundle_position[found]
            valid = np.isin(answers.status[found], (RowStatus.VERIFIED, RowStatus.INCONSISTENT))
            values = np.where(valid[:, None], arrays["proved"][at], np.nan)
            chosen = counts[found]
            rows = answers.row[found][chosen]
            _write_rows(file["proved_outputs"], rows, values[chosen])
            _write_rows(file["row/deviation"], rows, np.where(valid, arrays["deviation"][at], np.nan)[chosen])
            _write_rows(file["row/argmax_differs"], rows, (valid & arrays["argmax_differs"][at])[chosen])
            if redundant:
                _write_rows(file["replicas/proved_output"], found, values)
            envelope = np.frombuffer(record.blobs["envelope"], np.uint8)
            if len(envelope):
                file["proofs/bytes"][offset : offset + len(envelope)] = envelope
            offset, number = offset + len(envelope), number + 1


class _Lookup:
    """Indices of the answers that a record (or bundle) number belongs to."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self._sorted = numbers[self._order]

    def find(self, number: int) -> np.ndarray:
        left, right = np.searchsorted(self._sorted, [number, number + 1])
        return np.sort(self._order[left:right])


def _write_rows(dataset: hdf5.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
    """Write ``values`` (n, ...) at ascending ``rows``. HDF5 is slow with scattered rows: whole spans are
    rewritten where they are mostly ours, and runs of consecutive rows otherwise."""
    if not len(rows):
        return
    low, high = int(rows[0]), int(rows[-1]) + 1
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    if high - low == len(rows):
        dataset[low:high] = values
    elif high - low <= 4 * len(rows) or (high - low) * row_bytes <= _BLOCK:
        span = dataset[low:high]
        span[rows - low] = values
        dataset[low:high] = span
    else:
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            dataset[int(rows[run[0]]) : int(rows[run[-1]]) + 1] = values[run[0] : run[-1] + 1]


def _keys(file: hdf5.File, circuit_id: str, record: Any) -> None:
    if not circuit_id or "/" in circuit_id or circuit_id in (".", ".."):
        raise FormatError(f"{record.meta['circuit_id']!r} is no circuit id")
    blobs = {**record.blobs, "manifest": json.dumps(record.meta["manifest"], indent=1).encode()}
    for name in KEYS:
        dataset = hdf5.write(file, f"keys/{circuit_id}/{name}", np.frombuffer(blobs[name], np.uint8),
                             long_name=KEY_NAMES[name], units="1")
        hdf5.attribute(dataset, "sha256", hashlib.sha256(blobs[name]).hexdigest())


def _combined(file: hdf5.File, made: Mapping[str, np.ndarray], attributes: Mapping[str, str | int | float]) -> None:
    known = {column.path: column for column in COMBINED}
    group = file.require_group("combined")
    for name, value in made.items():
        column = known.get(f"combined/{name}")
        hdf5.write(file, f"combined/{name}", np.asarray(value),
                   long_name=column.long_name if column else name.replace("_", " "),
                   units=column.units if column else "1")
    for name, value in attributes.items():
        hdf5.attribute(group, name, value)
