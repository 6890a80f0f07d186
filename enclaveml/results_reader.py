"""Reads a results file that somebody else may have made: all is checked, FormatError is all it raises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.errors import FormatError
from enclaveml.results_check import check_structure
from enclaveml.results_schema import (
    ATTRIBUTES,
    BEACON,
    DRAWS,
    INPUTS,
    KEYS,
    OUTPUTS,
    PROOFS,
    RANKS,
    RECHECKS,
    REPLICAS,
    ROWS,
    Column,
    FileStatus,
    RowStatus,
    status_names,
)

_COLUMNS = {column.path: column for column in (*OUTPUTS, *ROWS, *REPLICAS, *PROOFS, *RANKS, *DRAWS, *BEACON, *RECHECKS)}


@dataclass(frozen=True)
class StoredProof:
    """One line of /proofs. rows (n,) int64 are dataset rows, status (n,) uint8 what was made of each."""

    number: int
    envelope: bytes
    rows: np.ndarray
    status: np.ndarray
    id: int
    rank: int
    session: int
    attempt: int
    round: int
    circuit_id: str
    verify_seconds: float
    verdict: str


@dataclass(frozen=True)
class CircuitKeys:
    """What verification under one circuit needs; each part's SHA-256 was compared with the file's.

    srs: empty with system batch; weights_proof: empty with system ezkl.
    """

    circuit_id: str
    vk: bytes
    settings: bytes
    srs: bytes
    manifest: Mapping[str, Any]
    weights_proof: bytes = b""


@dataclass(frozen=True)
class Results:
    """An open results file; close it, or use it in a ``with``. Large datasets are read in pieces.

    Letters as in results_schema. Every method raises FormatError for what is damaged or missing.
    """

    path: Path
    file: hdf5.File

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was read stays valid."""
        self.file.close()

    def attribute(self, name: str) -> Any:
        """A root attribute of results_schema.ATTRIBUTES."""
        return hdf5.get_attribute(self.file, name, ATTRIBUTES[name])

    @property
    def status(self) -> FileStatus:
        """The file's status."""
        value = self.attribute("status")
        try:
            return FileStatus(value)
        except ValueError as error:
            raise self.fault("attribute status", f"is {value!r}, no file status") from error

    @property
    def versions(self) -> dict[str, str]:
        """Versions, host and command of the last session."""
        try:
            value = json.loads(self.attribute("versions"))
        except (ValueError, RecursionError) as error:
            raise self.fault("attribute versions", f"is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise self.fault("attribute versions", "is no JSON object")
        return value

    @cached_property
    def n_rows(self) -> int:
        """N."""
        return int(self.dataset("row/status").shape[0])

    @cached_property
    def n_outputs(self) -> int:
        """D."""
        return int(self.dataset("outputs").shape[1])

    def row(self, name: str) -> np.ndarray:
        """A column of /row (N,): status, rank, session, bundle, attempts, deviation, argmax_differs."""
        return self._read(f"row/{name}", self.n_rows)

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) labels that came with the data, or None."""
        if "label" not in hdf5.members(self.file, "row"):
            return None
        with hdf5.reading(self.path, "/row/label"):
            values = hdf5.stored(self.file, "row/label")[()]
            if values.shape != (self.n_rows,) or values.dtype.kind not in "if":
                raise self.fault(
                    "/row/label", f"is {values.dtype} {values.shape}, expected numbers ({self.n_rows},)"
                )
        return values

    def outputs(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Float outputs of rows [start, stop), float32 (n, D)."""
        return self._read("outputs", self.n_rows, start, stop)

    def proved_outputs(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Proved outputs of rows [start, stop), float64 (n, D); NaN without a valid proof."""
        return self._read("proved_outputs", self.n_rows, start, stop)

    @property
    def has_replicas(self) -> bool:
        """Whether every answer was kept (strategy ``redundant``)."""
        return bool(hdf5.members(self.file, "replicas"))

    @cached_property
    def n_answers(self) -> int:
        """A, 0 where replicas were not kept."""
        return int(self.dataset("replicas/row").shape[0]) if self.has_replicas else 0

    def replicas(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Lines [start, stop) of a column of /replicas, in the order of rows."""
        return self._read(f"replicas/{name}", self.n_answers, start, stop)

    @cached_property
    def n_proofs(self) -> int:
        """M."""
        return int(self.dataset("proofs/rank").shape[0])

    def proofs(self, name: str) -> np.ndarray | list[str]:
        """A column of /proofs with one value per bundle (M,), texts as a list."""
        return self._read(f"proofs/{name}", self.n_proofs)

    @property
    def proofs_verified(self) -> int:
        """Envelopes in which at least one row was verified."""
        starts = self.offsets[1]
        verified = np.append(
            0, np.cumsum(self._read("proofs/row_status", int(starts[-1])) == RowStatus.VERIFIED)
        )
        return int((np.diff(verified[starts]) > 0).sum())

    @cached_property
    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Where bundles begin in /proofs/bytes and in /proofs/rows, (M+1,) each; ascending, all covered."""
        both = []
        for name, target in (("proofs/offset", "proofs/bytes"), ("proofs/rows_offset", "proofs/rows")):
            offsets = self._read(name, self.n_proofs + 1)
            size = self.dataset(target).shape[0]
            if offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
                raise self.fault(f"/{name}", f"does not ascend from 0 to {size}, the length of /{target}")
            both.append(offsets)
        return both[0], both[1]

    def proof_rows(self, name: str) -> np.ndarray:
        """``rows`` or ``row_status`` of all bundles, one after the other (K,)."""
        return self._read(f"proofs/{name}", int(self.offsets[1][-1]))

    @cached_property
    def _proof_columns(self) -> dict[str, Any]:
        return {
            name: self.proofs(name)
            for name in (
                "id",
                "rank",
                "session",
                "attempt",
                "round",
                "circuit_id",
                "verify_seconds",
                "verdict",
            )
        }

    def proof(self, number: int) -> StoredProof:
        """One bundle with its envelope."""
        at, rows_at = self.offsets
        columns = {name: values[number] for name, values in self._proof_columns.items()}
        envelope = self._read("proofs/bytes", int(at[-1]), int(at[number]), int(at[number + 1]))
        span = int(rows_at[number]), int(rows_at[number + 1])
        rows = self._read("proofs/rows", int(rows_at[-1]), *span)
        status = self._read("proofs/row_status", int(rows_at[-1]), *span)
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in columns.items()}
        return StoredProof(number, envelope.tobytes(), rows, status, **plain)

    @property
    def ranks(self) -> list[dict[str, Any]]:
        """The lines of /ranks, each a dict of the known columns."""
        columns = {c.path.rsplit("/", 1)[1]: self._read(c.path, None) for c in RANKS}
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1:
            raise self.fault("/ranks", f"has columns of different lengths: {sorted(lengths)}")
        return [
            {name: v.item() if isinstance(v, np.generic) else v for name, v in zip(columns, line)}
            for line in zip(*columns.values())
        ]

    @property
    def draws(self) -> list[dict[str, Any]]:
        """The lines of /draws, each a dict of its columns with ``rows`` (l,) int64; empty at coverage 1."""
        return self._ragged(DRAWS, ("rows",))

    @property
    def beacons(self) -> list[dict[str, Any]]:
        """The lines of /beacon, each with ``rows``, ``ranks`` (z,) and ``leaf`` (z, 32); empty without a beacon."""
        return self._ragged(BEACON, ("rows", "ranks", "leaf"))

    @property
    def rechecks(self) -> list[dict[str, Any]]:
        """The lines of /rechecks, each with ``rows`` (h,); empty where nothing was recomputed."""
        return self._ragged(RECHECKS, ("rows",))

    def _ragged(self, columns: Sequence[Column], several: tuple[str, ...]) -> list[dict[str, Any]]:
        """The lines of a table of which the columns ``several`` are cut by ``rows_offset``."""
        table, names = columns[0].path.split("/")[0], [c.path.rsplit("/", 1)[1] for c in columns]
        if table not in hdf5.members(self.file):
            return []
        values = {name: self._read(f"{table}/{name}", None) for name in names}
        offset, rows = values.pop("rows_offset"), values["rows"]
        parts = {name: values.pop(name) for name in several}
        n = len(offset) - 1
        if any(len(v) != n for v in values.values()) or any(len(v) != len(rows) for v in parts.values()):
            raise self.fault(f"/{table}", "has columns of different lengths")
        if offset[0] != 0 or offset[-1] != len(rows) or (np.diff(offset) < 0).any():
            raise self.fault(f"/{table}/rows_offset", f"does not ascend from 0 to {len(rows)}")
        if len(rows) and not (0 <= rows.min() and rows.max() < self.n_rows):
            raise self.fault(f"/{table}/rows", f"names a row that is not in 0 to {self.n_rows - 1}")
        return [
            {name: v.item() if isinstance(v, np.generic) else v for name, v in zip(values, line)}
            | {name: part[offset[i] : offset[i + 1]] for name, part in parts.items()}
            for i, line in enumerate(zip(*values.values()))
        ]

    @cached_property
    def inputs(self) -> hdf5.Dataset | None:
        """``/inputs`` (N, ...) float32 or int32, where the file has the rows; else None."""
        if INPUTS.path not in hdf5.members(self.file):
            return None
        with hdf5.reading(self.path, "/inputs"):
            dataset = hdf5.stored(self.file, INPUTS.path)
            if str(dataset.dtype) not in ("float32", "int32") or dataset.shape[:1] != (self.n_rows,):
                raise self.fault("/inputs", f"is {dataset.dtype} {dataset.shape}, expected ({self.n_rows}, ...)")
        return dataset

    def input_rows(self, rows: np.ndarray) -> np.ndarray:
        """These rows of ``/inputs`` in this order, (n, *row_shape)."""
        return self._take(self.inputs, rows)

    def take(self, path: str, lines: np.ndarray) -> np.ndarray:
        """These lines of a dataset of the schema, in this order, repeats allowed."""
        return self._take(self.dataset(path), lines)

    def _take(self, dataset: hdf5.Dataset, lines: np.ndarray) -> np.ndarray:
        # By runs of consecutive lines: HDF5 is slow with scattered ones.
        unique, back = np.unique(lines, return_inverse=True)
        with hdf5.reading(self.path, dataset.name):
            runs = np.split(unique, np.flatnonzero(np.diff(unique) != 1) + 1)
            return np.concatenate([dataset[int(run[0]) : int(run[-1]) + 1] for run in runs if len(run)])[back]

    @property
    def combined(self) -> dict[str, np.ndarray]:
        """The arrays of /combined by name; empty where nothing was combined."""
        found = {}
        for name in hdf5.members(self.file, "combined"):
            with hdf5.reading(self.path, f"/combined/{name}"):
                found[name] = hdf5.stored(self.file, f"combined/{name}")[()]
        return found

    @property
    def circuit_ids(self) -> list[str]:
        """Circuits whose keys the file holds."""
        return hdf5.members(self.file, "keys")

    def circuit(self, circuit_id: str) -> CircuitKeys:
        """The keys of a circuit, compared with their SHA-256 attributes."""
        parts: dict[str, bytes] = {}
        with hdf5.reading(self.path, f"/keys/{circuit_id}"):
            there = hdf5.members(self.file, f"keys/{circuit_id}")
        if sorted(there) not in [sorted(names) for names in KEYS.values()]:
            raise self.fault(f"/keys/{circuit_id}", f"has {', '.join(map(str, there))[:200]}, expected "
                             + ", or ".join(", ".join(names) for names in KEYS.values()))
        for name in there:
            place = f"keys/{circuit_id}/{name}"
            with hdf5.reading(self.path, f"/{place}"):
                dataset = hdf5.stored(self.file, place)
                if dataset.dtype != np.uint8 or dataset.ndim != 1:
                    raise self.fault(f"/{place}", f"is {dataset.dtype} {dataset.shape}, expected bytes")
                parts[name] = dataset[()].tobytes()
            wanted = hdf5.get_attribute(dataset, "sha256", str)
            if hashlib.sha256(parts[name]).hexdigest() != wanted:
                raise self.fault(f"/{place}", f"does not have its SHA-256 {wanted}")
        try:
            manifest = json.loads(parts["manifest"])
        except (ValueError, RecursionError) as error:
            raise self.fault(f"/keys/{circuit_id}/manifest", f"is no JSON: {error}") from error
        if not isinstance(manifest, dict):
            raise self.fault(f"/keys/{circuit_id}/manifest", "is no JSON object")
        return CircuitKeys(circuit_id, parts["vk"], parts["settings"], parts.get("srs", b""), manifest, parts.get("weights_proof", b""))

    @cached_property
    def _opened(self) -> dict[str, hdf5.Dataset]:
        return {}

    def dataset(self, path: str) -> hdf5.Dataset:
        """A dataset of the schema, its type and storage checked once."""
        if path in self._opened:
            return self._opened[path]
        column = _COLUMNS[path]
        with hdf5.reading(self.path, f"/{path}"):
            dataset = hdf5.stored(self.file, path)
            if not _has_type(dataset, column) or dataset.ndim != len(column.shape):
                raise self.fault(
                    f"/{path}",
                    f"is {dataset.dtype} with {dataset.ndim} dimensions, "
                    f"expected {column.dtype} ({', '.join(map(str, column.shape))})",
                )
        self._opened[path] = dataset
        return dataset

    def _read(self, path: str, length: int | None, start: int = 0, stop: int | None = None) -> Any:
        dataset = self.dataset(path)
        if length is not None and dataset.shape[0] != length:
            raise self.fault(f"/{path}", f"has {dataset.shape[0]} lines, expected {length}")
        stop = dataset.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= dataset.shape[0]:
            raise IndexError(f"[{start}, {stop}) of {dataset.shape[0]}")
        with hdf5.reading(self.path, f"/{path}"):
            values = dataset[start:stop]
            if _COLUMNS[path].dtype == "text":
                return [bytes(v).decode("utf-8") for v in values]
            return values.astype(np.uint8) if _COLUMNS[path].dtype == "status" else values

    def fault(self, where: str, text: str) -> FormatError:
        """An error about a place in this file."""
        return FormatError(f"{self.path}: {where}: {text}")


def read_results(path: str | Path) -> Results:
    """Open a results file and check its structure (not its proofs). Raises FormatError, EnvironmentFault."""
    path = Path(path)
    results = Results(path, hdf5.open_read(path))
    try:
        check_structure(results)
    except BaseException:
        results.close()
        raise
    return results


def _has_type(dataset: hdf5.Dataset, column: Column) -> bool:
    if column.dtype == "status":
        return dataset.dtype == np.uint8 and hdf5.enum_names(dataset) == status_names()
    if column.dtype == "text":
        return dataset.dtype.kind == "S"
    return dataset.dtype == np.dtype(column.dtype)
