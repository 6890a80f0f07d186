"""The parts of a results file that fit in memory: attributes, rows' states, tables; the rest is allocated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.journal_index import JournalIndex, rank_counts
from enclaveml.results_samples import rank_claims, write_samples
from enclaveml.results_schema import (
    FORMAT,
    FORMAT_VERSION,
    OUTPUTS,
    PROOFS,
    RANKS,
    REPLICAS,
    ROWS,
    Column,
    FileStatus,
    status_names,
)


def write_attributes(file: hdf5.File, index: JournalIndex, status: FileStatus | None) -> None:
    start, end = index.start, index.end or {}
    sessions = [{"started": s["started"], "versions": s["versions"]} for s in index.sessions]
    values: dict[str, str | int] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "status": (status or FileStatus(end.get("status", FileStatus.RUNNING))).value,
        "exit_code": end.get("exit_code", -1),
        "message": end.get("message", ""),
        "job": start["job"],
        "job_given": start["job_given"],
        "inputs": start["inputs"],
        "strategy": start["strategy"],
        "versions": json.dumps(index.sessions[-1]["versions"]),
        "model_hash": start["model_hash"],
        # A plain hash of few or low-entropy rows gives them away to a search.
        "dataset_fingerprint": start["dataset_fingerprint"] if start["inputs"] == "public" else "",
        "started": start["started"],
        "finished": end.get("finished", ""),
        "counter": len(index.rounds),
        "rows": index.n_rows,
        "outputs": index.n_outputs,
        "sessions": json.dumps(sessions),
    }
    for name, value in values.items():
        hdf5.attribute(file, name, value)


def _put(file: hdf5.File, column: Column, data: np.ndarray) -> None:
    dtype: Any = hdf5.enum_dtype(status_names()) if column.dtype == "status" else np.dtype(column.dtype)
    hdf5.write(
        file,
        column.path,
        np.asarray(data, "u1" if column.dtype == "status" else dtype).astype(dtype),
        long_name=column.long_name,
        units=column.units,
    )


def _put_table(file: hdf5.File, columns: tuple[Column, ...], values: Mapping[str, Any]) -> None:
    for column in columns:
        name = column.path.rsplit("/", 1)[-1]
        if name not in values:
            continue
        if column.dtype == "text":
            hdf5.write(
                file,
                column.path,
                hdf5.texts([str(v) for v in values[name]]),
                long_name=column.long_name,
                units=column.units,
            )
        else:
            _put(file, column, values[name])


def write_tables(file: hdf5.File, index: JournalIndex, labels: np.ndarray | None) -> None:
    """Everything that fits in memory: rows' states and the tables. Allocates the rest."""
    n, d, answers, states = index.n_rows, index.n_outputs, index.answers, index.states
    for column in OUTPUTS:
        hdf5.write(
            file,
            column.path,
            shape=(n, d),
            dtype=column.dtype,
            fill=np.nan,
            long_name=column.long_name,
            units=column.units,
        )
    has = states.answer >= 0

    def of_answer(values: np.ndarray) -> np.ndarray:
        result = np.full(n, -1, np.int64)
        result[has] = values[states.answer[has]]
        return result

    _put_table(
        file,
        ROWS,
        {
            "status": states.status,
            "rank": of_answer(answers.rank),
            "session": of_answer(answers.session),
            "bundle": of_answer(answers.bundle),
            "attempts": states.attempts,
        },
    )
    for column in ROWS[-2:]:
        hdf5.write(
            file,
            column.path,
            shape=(n,),
            dtype=column.dtype,
            fill=np.nan if column.dtype == "float64" else 0,
            long_name=column.long_name,
            units=column.units,
        )
    if labels is not None:
        hdf5.write(file, "row/label", np.asarray(labels), long_name="label given with the data", units="1")
    if index.start["strategy"] == "redundant":
        _put_table(
            file,
            REPLICAS,
            {
                "row": answers.row,
                "rank": answers.rank,
                "session": answers.session,
                "status": answers.status,
                "bundle": answers.bundle,
            },
        )
        for column in REPLICAS[-2:]:
            hdf5.write(
                file,
                column.path,
                shape=(len(answers.row), d),
                dtype=column.dtype,
                fill=np.nan,
                long_name=column.long_name,
                units=column.units,
            )
    bundles = index.bundles
    offsets = np.cumsum([0, *(b.size for b in bundles)])
    hdf5.write(
        file, "proofs/bytes", shape=(int(offsets[-1]),), dtype="u1", long_name=PROOFS[0].long_name, units="1"
    )
    _put_table(
        file,
        PROOFS,
        {
            "offset": offsets,
            "rows_offset": np.cumsum([0, *(len(b.rows) for b in bundles)]),
            "rows": np.concatenate([np.zeros(0, np.int64), *(b.rows for b in bundles)]),
            "row_status": np.concatenate([np.zeros(0, np.uint8), *(b.status for b in bundles)]),
            "session": [b.session for b in bundles],
            "id": [b.meta["bundle"] for b in bundles],
            "judged": [b.judged for b in bundles],
            **{key: [b.meta.get(key, np.nan) for b in bundles] for key in ("witness_seconds", "prove_seconds")},
            **{
                key: [b.meta[key] for b in bundles]
                for key in ("rank", "attempt", "round", "circuit_id", "verify_seconds", "verdict")
            },
        },
    )
    _ranks(file, index)
    write_samples(file, index)


def _ranks(file: hdf5.File, index: JournalIndex) -> None:
    """The table of ranks: what is known of each, and what the journal's own records add up to."""
    counts, said = rank_counts(index), rank_claims(index)
    lines = [
        {
            **counts[key],
            "wrong_at_most": -1,
            **said.get(key, {}),
            **{k: v for k, v in known.items() if v is not None},
            "session": key[0],
            "rank": key[1],
        }
        for key, known in sorted(index.ranks.items())
    ]
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
    data = (
        np.array([np.nan if v is None else v for v in values], np.float64)
        if numbers
        else hdf5.texts(["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values])
    )
    hdf5.write(file, f"ranks/{name.replace('/', '_')}", data, long_name=name.replace("_", " "), units=units)
