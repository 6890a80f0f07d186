"""A results file's seal: a Merkle tree over all of its content, by which any change is found and located.

The tree is that of RFC 6962, section 2.1 (SHA-256; a leaf is hashed with 0x00 before it, a node with
0x01). Its leaves are, in this order:

    object   each group, dataset and link, by path: kind, type and shape; each attribute, by path@name
    data     each dataset, by path: all of its bytes
    row      each row of the job: its bytes in every dataset that has a line per row
    bundle   each bundle: its envelope, its rows and what /proofs says of it
    answer   each answer: its line in every dataset of /replicas

Every value is in a data leaf *and*, where it belongs to a row, a bundle or an answer, in that leaf as
well: together they name dataset and line of what was changed. All leaves are kept in ``/seal``; the
root speaks for them. A seal says that nothing changed since it was made; who made it, only a
signature of the root says.

References: RFC 6962 (Certificate Transparency), https://www.rfc-editor.org/rfc/rfc6962#section-2.1
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.errors import FormatError

GROUP, FORMAT = "seal", "enclaveml-seal-1"
KINDS = ("object", "data", "row", "bundle", "answer")

#: Datasets with a line per row of the job, besides all of /row. Those in a file are told by their length.
_ROW_DATASETS = ("inputs", "outputs", "proved_outputs", "combined/outputs", "combined/votes_by_row")
#: Datasets of /proofs that are cut by one of the offsets.
_CUT = {"proofs/bytes": "proofs/offset", "proofs/rows": "proofs/rows_offset",
        "proofs/row_status": "proofs/rows_offset"}
#: The seal's own datasets, and what they are called.
_NAMES = {"leaf": "leaves of the Merkle tree", "path": "paths that the first leaves are of"}
_BLOCK = 1 << 22  # bytes read at once


@dataclass(frozen=True, eq=False)
class Leaves:
    """A file's leaves: ``object`` and ``data`` map a path to a leaf, ``row``, ``bundle`` and ``answer`` are (n, 32)."""

    object: Mapping[str, bytes]
    data: Mapping[str, bytes]
    row: np.ndarray
    bundle: np.ndarray
    answer: np.ndarray

    def digests(self) -> np.ndarray:
        """All leaves in the tree's order, (L, 32) uint8."""
        named = [d for kind in (self.object, self.data) for _, d in sorted(kind.items())]
        top = np.frombuffer(b"".join(named), np.uint8).reshape(-1, 32)
        return np.concatenate([top, self.row, self.bundle, self.answer])

    def root(self) -> bytes:
        """The Merkle root."""
        return merkle_root(self.digests())


@dataclass(frozen=True)
class Change:
    """One place where a file differs from its seal. ``rows`` and ``bundles`` are where that is known."""

    where: str
    text: str
    rows: tuple[int, ...] = ()
    bundles: tuple[int, ...] = ()


@dataclass(frozen=True)
class SealCheck:
    """What became of checking a seal: ``sealed`` is False where there is none."""

    sealed: bool
    root: str = ""
    signature: str = ""
    public_key: str = ""
    changes: tuple[Change, ...] = field(default=())


def merkle_root(leaves: np.ndarray) -> bytes:
    """RFC 6962's tree head of leaves (L, 32) uint8 that are hashed already; L = 0 gives SHA-256 of nothing."""
    level = np.ascontiguousarray(leaves).tobytes()
    if not level:
        return hashlib.sha256().digest()
    while len(level) > 32:
        # An odd one at the end goes up as it is: the same tree as the RFC's split at powers of two.
        whole = len(level) // 64 * 64
        pairs = [hashlib.sha256(b"\1" + level[at : at + 64]).digest() for at in range(0, whole, 64)]
        level = b"".join(pairs) + level[whole:]
    return level


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
    return Leaves(objects, data, _rows(datasets), _bundles(datasets), _answers(datasets))


def write_seal(file: hdf5.File, sign: Any = None) -> bytes:
    """Seal an open, finished file: write ``/seal``. Returns the root.

    ``sign`` maps the root to (public key, signature), both bytes; None leaves the file unsigned.
    """
    found = leaves(file)
    root = found.root()
    hdf5.write(file, f"{GROUP}/leaf", found.digests(), long_name=_NAMES["leaf"], units="1")
    paths = [*sorted(found.object), *sorted(found.data)]
    hdf5.write(file, f"{GROUP}/path", hdf5.texts(paths), long_name=_NAMES["path"], units="1")
    group = file[GROUP]
    counts = {"objects": len(found.object), "datasets": len(found.data), "rows": len(found.row),
              "bundles": len(found.bundle), "answers": len(found.answer)}
    for name, value in {"format": FORMAT, "root": root.hex(), **counts}.items():
        hdf5.attribute(group, name, value)
    if sign is not None:
        public_key, signature = sign(root)
        hdf5.attribute(group, "public_key", public_key.hex())
        hdf5.attribute(group, "signature", signature.hex())
    return root


def check_seal(file: hdf5.File) -> SealCheck:
    """Compare a file with its seal. Never raises for damage: that is a change like others."""
    if GROUP not in hdf5.members(file):
        return SealCheck(False)
    try:
        group = hdf5.subgroup(file, GROUP)
        root = hdf5.get_attribute(group, "root", str)
        names = [n for n in ("public_key", "signature") if n in group.attrs]
        signed = {n: hdf5.get_attribute(group, n, str) for n in names}
        sealed = _read(file, group)
        if sealed.root().hex() != root or hdf5.get_attribute(group, "format", str) != FORMAT:
            raise FormatError(f"{file.filename}: /seal: its root is not that of its leaves")
        _nothing_else(group)
    except FormatError as error:
        return SealCheck(True, changes=(Change("/seal", f"the seal is damaged: {error}"),))
    check = {"root": root, **signed}
    try:
        found = leaves(file)
    except FormatError as error:
        return SealCheck(True, **check, changes=(Change("", f"the file is damaged: {error}"),))
    changes = tuple(_changes(sealed, found))
    if not changes and not np.array_equal(found.digests(), sealed.digests()):  # whatever was not located: the root decides
        changes = (Change("", "the file's content is not what was sealed"),)
    return SealCheck(True, **check, changes=changes)


def _changes(sealed: Leaves, found: Leaves) -> Iterator[Change]:
    lines = {kind: _differing(getattr(sealed, kind), getattr(found, kind)) for kind in ("row", "bundle", "answer")}
    for name in ("object", "data"):
        old, new = getattr(sealed, name), getattr(found, name)
        for path in sorted(old.keys() | new.keys()):
            if old.get(path) == new.get(path):
                continue
            if path not in new or path not in old:
                # Of data that came or went with its object, the object's leaf speaks.
                if name == "object" or (path in sealed.object) == (path in found.object):
                    yield Change(_place(path), "was removed" if path in old else "was added")
            elif name == "object":
                what = "another value or type" if "@" in path else "another type or shape"
                yield Change(_place(path), f"has {what} than when it was sealed")
            else:
                yield _located(path, lines)
    if len(sealed.row) != len(found.row):
        yield Change("/row", f"has {len(found.row)} rows, {len(sealed.row)} were sealed")
    if len(sealed.bundle) != len(found.bundle):
        yield Change("/proofs", f"has {len(found.bundle)} bundles, {len(sealed.bundle)} were sealed")


def _place(path: str) -> str:
    node, _, attribute = path.partition("@")
    return f"/{node}: attribute {attribute}" if attribute else f"/{node}"


def _located(path: str, lines: Mapping[str, tuple[int, ...]]) -> Change:
    """A dataset with other content, with the rows, bundles or answers that differ."""
    kind = "answer" if path.startswith("replicas/") else "bundle" if path.startswith("proofs/") else "row"
    known = kind != "row" or path.startswith("row/") or path in _ROW_DATASETS
    where = lines[kind] if known else ()
    text = "has other content than when it was sealed"
    if where:
        text += f": {kind}{'s' if len(where) > 1 else ''} {brief(where)}"
    return Change(f"/{path}", text, where if kind == "row" else (), where if kind == "bundle" else ())


def brief(numbers: Sequence[int], most: int = 10) -> str:
    """``3, 5-9 and 12``-like text of numbers, ascending; the rest after ``most`` spans is counted."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in spans[:most]]
    left = sum(b - a + 1 for a, b in spans[most:])
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _differing(old: np.ndarray, new: np.ndarray) -> tuple[int, ...]:
    n = min(len(old), len(new))
    return tuple(np.flatnonzero((old[:n] != new[:n]).any(axis=1)).tolist())


def _read(file: hdf5.File, group: hdf5.Group) -> Leaves:
    """The leaves that ``/seal`` has."""
    digests = hdf5.stored(file, f"{GROUP}/leaf")
    paths = hdf5.stored(file, f"{GROUP}/path")
    names = ("objects", "datasets", "rows", "bundles", "answers")
    counts = [hdf5.get_attribute(group, name, int) for name in names]
    if digests.dtype != np.uint8 or digests.shape != (sum(counts), 32) or min(counts) < 0:
        raise FormatError(f"{file.filename}: /seal/leaf: is {digests.dtype} {digests.shape}")
    if paths.dtype.kind != "S" or paths.shape != (counts[0] + counts[1],):
        raise FormatError(f"{file.filename}: /seal/path: is {paths.dtype} {paths.shape}")
    with hdf5.reading(file.filename, "/seal"):
        values, texts = digests[()], [bytes(p).decode("utf-8") for p in paths[()]]
    parts = np.split(values, np.cumsum(counts)[:-1])
    named = [dict(zip(t, (bytes(v) for v in part)))
             for t, part in zip((texts[: counts[0]], texts[counts[0] :]), parts[:2])]
    if [len(n) for n in named] != counts[:2] or any(list(n) != sorted(n) for n in named):
        raise FormatError(f"{file.filename}: /seal/path: is not in order")
    return Leaves(named[0], named[1], *parts[2:])


def _nothing_else(group: hdf5.Group) -> None:
    """The seal covers everything but itself, so nothing may hide in it."""
    attributes = {"format", "root", "objects", "datasets", "rows", "bundles", "answers", "public_key", "signature"}
    extra = sorted(set(hdf5.members(group)) - set(_NAMES)) + sorted(set(group.attrs) - attributes)
    for member, long_name in _NAMES.items():
        node = group[member]
        same = set(node.attrs) == {"long_name", "units"} and hdf5.get_attribute(node, "long_name", str) == long_name
        extra += [] if same and hdf5.get_attribute(node, "units", str) == "1" else [f"an attribute of {member}"]
    if extra:
        raise FormatError(f"{group.file.filename}: /seal: {extra[0]} does not belong there")


def _blocks(dataset: hdf5.Dataset, row_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
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
    for _, block in _blocks(dataset, _row_bytes(dataset)):
        digest.update(block.tobytes())
    return digest.digest()


def _lines(kind: str, datasets: Mapping[str, hdf5.Dataset], n: int) -> np.ndarray:
    """A leaf for each of n lines over datasets that all have n lines, (n, 32)."""
    found = np.zeros((n, 32), np.uint8)
    names = sorted(datasets)
    front = "\n".join(names).encode() + b"\0"
    step = max(1, _BLOCK // max(1, sum(_row_bytes(datasets[name]) for name in names)))
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
        digests = [hashlib.sha256(raw[at: at + width]).digest() for at in range(0, len(raw), width)]
        found[start:stop] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return found


def _with_length(datasets: Mapping[str, hdf5.Dataset], n: int) -> dict[str, hdf5.Dataset]:
    return {p: d for p, d in datasets.items() if len(d.shape) and d.shape[0] == n}


def _rows(datasets: Mapping[str, hdf5.Dataset]) -> np.ndarray:
    status = datasets.get("row/status")
    if status is None or len(status.shape) != 1:
        return np.zeros((0, 32), np.uint8)
    mine = {p: d for p, d in datasets.items() if p.startswith("row/") or p in _ROW_DATASETS}
    return _lines("row", _with_length(mine, status.shape[0]), status.shape[0])


def _answers(datasets: Mapping[str, hdf5.Dataset]) -> np.ndarray:
    row = datasets.get("replicas/row")
    if row is None or len(row.shape) != 1:
        return np.zeros((0, 32), np.uint8)
    mine = {p: d for p, d in datasets.items() if p.startswith("replicas/")}
    return _lines("answer", _with_length(mine, row.shape[0]), row.shape[0])


def _bundles(datasets: Mapping[str, hdf5.Dataset]) -> np.ndarray:
    ids = datasets.get("proofs/id")
    if ids is None or len(ids.shape) != 1:
        return np.zeros((0, 32), np.uint8)
    n = ids.shape[0]
    mine = {p: d for p, d in datasets.items() if p.startswith("proofs/")}
    columns = {p: d for p, d in _with_length(mine, n).items() if p not in _CUT and p not in _CUT.values()}
    found = _lines("bundle", columns, n)
    for i in range(n):
        digest = hashlib.sha256(found[i].tobytes())
        for name, offset in sorted(_CUT.items()):
            digest.update(_cut(mine, name, offset, i, n))
        found[i] = np.frombuffer(leaf("bundle", struct.pack("<Q", i), digest.digest()), np.uint8)
    return found


def _cut(datasets: Mapping[str, hdf5.Dataset], name: str, offset: str, i: int, n: int) -> bytes:
    """A bundle's part of a dataset, with its length before it; damaged offsets give some part or none."""
    data, at = datasets.get(name), datasets.get(offset)
    if data is None or at is None or at.shape != (n + 1,) or len(data.shape) != 1 or at.dtype.kind != "i":
        return b"missing"
    with hdf5.reading(data.file.filename, f"/{name}"):
        start, stop = (min(max(int(v), 0), data.shape[0]) for v in at[i : i + 2])
        content = np.ascontiguousarray(data[start:stop]).tobytes() if start < stop else b""
    return struct.pack("<Q", len(content)) + content

