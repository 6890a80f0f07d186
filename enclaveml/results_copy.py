"""The second pass over a journal: outputs, proved outputs, envelopes and keys, copied by record."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.errors import FormatError
from enclaveml.journal import read_records
from enclaveml.journal_index import JournalIndex
from enclaveml.results_schema import KEY_NAMES, KEYS, RowStatus

_BLOCK = 1 << 22


def copy_records(file: hdf5.File, index: JournalIndex) -> None:
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
            write_rows(file["outputs"], answers.row[found][chosen], values[chosen])
            if redundant:
                write_rows(file["replicas/output"], found, values)
        else:
            found = by_bundle.find(number)
            at = answers.bundle_position[found]
            valid = np.isin(answers.status[found], (RowStatus.VERIFIED, RowStatus.INCONSISTENT))
            values = np.where(valid[:, None], arrays["proved"][at], np.nan)
            chosen = counts[found]
            rows = answers.row[found][chosen]
            write_rows(file["proved_outputs"], rows, values[chosen])
            write_rows(file["row/deviation"], rows, np.where(valid, arrays["deviation"][at], np.nan)[chosen])
            write_rows(file["row/argmax_differs"], rows, (valid & arrays["argmax_differs"][at])[chosen])
            if redundant:
                write_rows(file["replicas/proved_output"], found, values)
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


def write_rows(dataset: hdf5.Dataset, rows: np.ndarray, values: np.ndarray) -> None:
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
    if sorted(blobs) not in [sorted(names) for names in KEYS.values()]:
        raise FormatError(f"circuit {circuit_id[:16]} has {', '.join(sorted(blobs))}")
    for name in (name for name in KEY_NAMES if name in blobs):
        dataset = hdf5.write(
            file,
            f"keys/{circuit_id}/{name}",
            np.frombuffer(blobs[name], np.uint8),
            long_name=KEY_NAMES[name],
            units="1",
        )
        hdf5.attribute(dataset, "sha256", hashlib.sha256(blobs[name]).hexdigest())
