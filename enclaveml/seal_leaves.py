"""The leaves of a results file's seal (``seal.py`` has the tree): made from content a block of lines at a time.

Whatever has a line per row of the job, per bundle or per answer is read and hashed in blocks of some MB, so
that sealing and checking take memory for a block, however many lines a file has.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from enclaveml import hdf5

#: The group of the seal itself, which it does not cover.
GROUP = "seal"
KINDS = ("object", "data", "row", "bundle", "answer")

#: Datasets with a line per row of the job, besides all of /row. Those in a file are told by their length.
ROW_DATASETS = ("inputs", "outputs", "proved_outputs", "combined/outputs", "combined/votes_by_row")
#: Datasets of /proofs that are cut by one of the offsets.
_CUT = {"proofs/bytes": "proofs/offset", "proofs/rows": "proofs/rows_offset",
        "proofs/row_status": "proofs/rows_offset"}
_BLOCK = 1 << 22  # bytes read at once


@dataclass(frozen=True, eq=False)
class Lines:
    """The leaves of ``count`` lines of one kind: ``blocks()`` gives them as (first line, (m, 32) uint8), in order."""

    count: int
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]


@dataclass(frozen=True, eq=False)
class Leaves:
    """A file's leaves: ``object`` and ``data`` map a path to a leaf; those of ``lines`` are made when they are asked for.

    lines: of each kind ``row``, ``bundle`` and ``answer``.
    """

    object: Mapping[str, bytes]
    data: Mapping[str, bytes]
    lines: Mapping[str, Lines]

    @property
    def count(self) -> int:
        """How many leaves there are in all."""
        return len(self.object) + len(self.data) + sum(lines.count for lines in self.lines.values())

    def blocks(self) -> Iterator[np.ndarray]:
        """All leaves in the tree's order, (m, 32) uint8 at a time."""
        named = [d for kind in (self.object, self.data) for _, d in sorted(kind.items())]
        yield np.frombuffer(b"".join(named), np.uint8).reshape(-1, 32)
        for kind in KINDS[2:]:
            for _, block in self.lines[kind].blocks():
                yield block


def leaf(kind: str, name: bytes, content: bytes) -> bytes:
    """One leaf's hash; ``name`` is a path (UTF-8) or an index (u64, little-endian)."""
    front = b"\0" + bytes([KINDS.index(kind)]) + struct.pack("<I", len(name)) + name
    return hashlib.sha256(front + content).digest()


def leaves(file: hdf5.File) -> Leaves:
    """The leaves of what is in an open file, its seal apart. Raises FormatError for what cannot be read."""
    objects, data, datasets = {}, {}, {}
    for path, kind, node in hdf5.walk(file):
        if path == GROUP or path.startswith(GROUP + "/"):
            continue
        described = {path: hdf5.describe(kind, node)}
        if kind in ("group", "dataset"):
            described |= {f"{path}@{name}": text for name, text in hdf5.describe_attributes(node).items()}
        for name, text in described.items():
            objects[name] = leaf("object", name.encode(), text.encode())
        if kind == "dataset":
            datasets[path] = hdf5.stored(file, path)
            data[path] = leaf("data", path.encode(), _digest(datasets[path]))
    return Leaves(objects, data, {"row": _rows(datasets), "bundle": _bundles(datasets), "answer": _answers(datasets)})


def line_blocks(dataset: hdf5.Dataset, row_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first line, lines) of a dataset, some MB at a time."""
    step = max(1, _BLOCK // max(1, row_bytes))
    with hdf5.reading(dataset.file.filename, dataset.name):
        for start in range(0, dataset.shape[0], step):
            yield start, np.ascontiguousarray(dataset[start : start + step])


def _row_bytes(dataset: hdf5.Dataset) -> int:
    return dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))


def _digest(dataset: hdf5.Dataset) -> bytes:
    """SHA-256 of a dataset's bytes in C order."""
    digest = hashlib.sha256()
    if not dataset.shape:
        with hdf5.reading(dataset.file.filename, dataset.name):
            digest.update(np.asarray(dataset[()]).tobytes())
        return digest.digest()
    for _, block in line_blocks(dataset, _row_bytes(dataset)):
        digest.update(block.tobytes())
    return digest.digest()


def _lines(kind: str, datasets: Mapping[str, hdf5.Dataset], n: int) -> Lines:
    """A leaf for each of n lines over datasets that all have n lines."""
    names = sorted(datasets)
    front = "\n".join(names).encode() + b"\0"
    step = max(1, _BLOCK // max(64, sum(_row_bytes(datasets[name]) for name in names)))

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, n, step):
            stop = min(n, start + step)
            columns = []
            for name in names:
                with hdf5.reading(datasets[name].file.filename, f"/{name}"):
                    values = np.ascontiguousarray(datasets[name][start:stop])
                columns.append(values.reshape(stop - start, -1).view(np.uint8).reshape(stop - start, -1))
            # What ``leaf`` hashes, of all lines at once: its front, the index, and the line.
            opening = np.frombuffer(b"\0" + bytes([KINDS.index(kind)]) + struct.pack("<I", 8), np.uint8)
            index = np.arange(start, stop, dtype="<u8").reshape(-1, 1).view(np.uint8)
            constant = [np.broadcast_to(part, (stop - start, len(part))) for part in (opening, np.frombuffer(front, np.uint8))]
            lines = np.concatenate([constant[0], index, constant[1], *columns], axis=1)
            raw, width = lines.tobytes(), lines.shape[1]
            digests = [hashlib.sha256(raw[at : at + width]).digest() for at in range(0, len(raw), width)]
            yield start, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)

    return Lines(n, blocks)


def _with_length(datasets: Mapping[str, hdf5.Dataset], n: int) -> dict[str, hdf5.Dataset]:
    return {p: d for p, d in datasets.items() if len(d.shape) and d.shape[0] == n}


def _counted(datasets: Mapping[str, hdf5.Dataset], path: str) -> int:
    """How many lines the dataset has that all others of its kind must be as long as; 0 without it."""
    found = datasets.get(path)
    return 0 if found is None or len(found.shape) != 1 else found.shape[0]


def _rows(datasets: Mapping[str, hdf5.Dataset]) -> Lines:
    n = _counted(datasets, "row/status")
    mine = {p: d for p, d in datasets.items() if p.startswith("row/") or p in ROW_DATASETS}
    return _lines("row", _with_length(mine, n), n)


def _answers(datasets: Mapping[str, hdf5.Dataset]) -> Lines:
    n = _counted(datasets, "replicas/row")
    mine = {p: d for p, d in datasets.items() if p.startswith("replicas/")}
    return _lines("answer", _with_length(mine, n), n)


def _bundles(datasets: Mapping[str, hdf5.Dataset]) -> Lines:
    n = _counted(datasets, "proofs/id")
    mine = {p: d for p, d in datasets.items() if p.startswith("proofs/")}
    columns = _lines("bundle", {p: d for p, d in _with_length(mine, n).items() if p not in _CUT and p not in _CUT.values()}, n)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in columns.blocks():
            found = np.empty_like(block)
            for place, line in enumerate(block):
                digest = hashlib.sha256(line.tobytes())
                for name, offset in sorted(_CUT.items()):
                    digest.update(_cut(mine, name, offset, start + place, n))
                found[place] = np.frombuffer(leaf("bundle", struct.pack("<Q", start + place), digest.digest()), np.uint8)
            yield start, found

    return Lines(n, blocks)


def _cut(datasets: Mapping[str, hdf5.Dataset], name: str, offset: str, i: int, n: int) -> bytes:
    """A bundle's part of a dataset, with its length before it; damaged offsets give some part or none."""
    data, at = datasets.get(name), datasets.get(offset)
    if data is None or at is None or at.shape != (n + 1,) or len(data.shape) != 1 or at.dtype.kind != "i":
        return b"missing"
    with hdf5.reading(data.file.filename, f"/{name}"):
        start, stop = (min(max(int(v), 0), data.shape[0]) for v in at[i : i + 2])
        content = np.ascontiguousarray(data[start:stop]).tobytes() if start < stop else b""
    return struct.pack("<Q", len(content)) + content
