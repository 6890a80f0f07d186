"""Makes the results file from the journal; see RESULTS.md for what is in it.

The file is written under another name in the same folder, synced and renamed, so whoever opens
``results.h5`` sees a whole file, at any moment. Memory is O(N) for rows' states plus one journal
record: outputs and envelopes are copied record by record.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from enclaveml import hdf5
from enclaveml.errors import EnvironmentFault
from enclaveml.journal_index import JournalIndex, index_journal
from enclaveml.results_copy import copy_records
from enclaveml.results_reader import Results, read_results
from enclaveml.results_schema import COMBINED, INPUTS, FileStatus, RowStatus
from enclaveml.results_tables import write_attributes, write_tables
from enclaveml.resume import Resume, ResumeState
from enclaveml.seal import write_seal

__all__ = [
    "FileStatus",
    "Results",
    "Resume",
    "ResumeState",
    "RowStatus",
    "build_results",
    "read_results",
    "short_answer",
]

#: Statuses of a file that is sealed: its job has ended, nothing will be added.
_ENDED = (FileStatus.COMPLETE.value, FileStatus.COMPLETE_UNVERIFIED.value)


class Inputs(Protocol):
    """A job's rows, as ``datasets.Dataset`` is: ``tiles`` gives (first row, (n, *row_shape)) in order."""

    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype
    parts: Sequence[Any]

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]: ...


#: What build_results takes for ``combined``: name to array, or a function that makes that from the rows.
Combined = Mapping[str, np.ndarray] | Callable[[Results], Mapping[str, np.ndarray]]


def build_results(
    journal: str | Path,
    out: str | Path,
    *,
    combined: Combined | None = None,
    combined_attributes: Mapping[str, str | int | float] | None = None,
    labels: np.ndarray | None = None,
    status: FileStatus | None = None,
    inputs: Inputs | None = None,
    sign: Callable[[bytes], tuple[bytes, bytes]] | None = None,
) -> JournalIndex:
    """Write the results file of a journal, whole or not at all; an existing file is replaced.

    Args:
        combined: arrays of ``/combined``, or a function called with the rows already readable.
        labels: (N,) of ``/row/label``.
        status: the file's status; default: what the last ``end`` record says, else ``running``.
        inputs: the rows, for ``/inputs``; kept only where the job shows its inputs and proves something.
        sign: maps the seal's root to (public key, signature). A file is sealed when its job has ended.

    Returns what was in the journal. Raises FormatError (journal), EnvironmentFault (disk); the
    existing file is untouched then.
    """
    out = Path(out)
    index = index_journal(journal)
    if labels is not None and np.shape(labels) != (index.n_rows,):
        raise ValueError(f"labels have shape {np.shape(labels)}, expected ({index.n_rows},)")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    _room(out, index, inputs)
    try:
        temporary.unlink(missing_ok=True)
        with hdf5.create(temporary, shown=out) as file:
            write_attributes(file, index, status)
            write_tables(file, index, labels)
            copy_records(file, index)
            if combined is not None:
                made = combined(Results(temporary, file)) if callable(combined) else combined
                _combined(file, made, combined_attributes or {})
            if inputs is not None and _shows_inputs(index):
                _inputs(file, inputs)
            if file.attrs["status"] in _ENDED:
                write_seal(file, sign)
        with hdf5.writing(out):
            _publish(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return index


def _shows_inputs(index: JournalIndex) -> bool:
    """Whether the rows are public anyway, and proofs need them."""
    return index.start["inputs"] == "public" and bool(index.circuits)


def _inputs(file: hdf5.File, rows: Inputs) -> None:
    """``/inputs``: what a proof's public instances are made from; whoever verifies it needs them."""
    dataset = hdf5.write(
        file,
        INPUTS.path,
        shape=(rows.rows, *rows.row_shape),
        dtype=rows.dtype,
        long_name=INPUTS.long_name,
        units=INPUTS.units,
    )
    hdf5.attribute(dataset, "parts", json.dumps([list(part.row_shape) for part in rows.parts]))
    for start, tile in rows.tiles():
        dataset[start : start + len(tile)] = tile


def short_answer(results: Results) -> dict[str, Any]:
    """The answer of ``--json``: job-level vector, verified bundles, ranks, model time, all rows verified.

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


def _room(out: Path, index: JournalIndex, inputs: Inputs | None) -> None:
    """Said at once and with numbers, before minutes of copying."""
    answers = len(index.answers.row) if index.start["strategy"] == "redundant" else 0
    need = (index.n_rows + answers) * (12 * index.n_outputs + 64) + sum(
        b.size + 17 * len(b.rows) for b in index.bundles
    )
    if inputs is not None and _shows_inputs(index):
        need += inputs.rows * int(np.prod(inputs.row_shape)) * np.dtype(inputs.dtype).itemsize
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError as error:
        raise EnvironmentFault(f"{out}: cannot be written: {error.strerror or error}") from error
    if free < need:
        raise EnvironmentFault(
            f"{out}: cannot be written: it needs about {need / 1e6:.1f} MB and {free / 1e6:.1f} MB "
            "are free; make room, then --resume"
        )


def _publish(temporary: Path, out: Path) -> None:
    os.replace(temporary, out)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:
        pass  # not every file system can
    finally:
        os.close(folder)


def _combined(
    file: hdf5.File, made: Mapping[str, np.ndarray], attributes: Mapping[str, str | int | float]
) -> None:
    known = {column.path: column for column in COMBINED}
    group = file.require_group("combined")
    for name, value in made.items():
        column = known.get(f"combined/{name}")
        hdf5.write(
            file,
            f"combined/{name}",
            np.asarray(value),
            long_name=column.long_name if column else name.replace("_", " "),
            units=column.units if column else "1",
        )
    for name, value in attributes.items():
        hdf5.attribute(group, name, value)
