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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.errors import FormatError
from enclaveml.merkle import MerkleTree, root_of
from enclaveml.seal_leaves import GROUP, ROW_DATASETS, Leaves, Lines, leaves

FORMAT = "enclaveml-seal-1"

#: The seal's own datasets, and what they are called.
_NAMES = {"leaf": "leaves of the Merkle tree", "path": "paths that the first leaves are of"}
#: Leaves of ``/seal`` that are read at once.
_LEAVES = 1 << 14


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


def write_seal(file: hdf5.File, sign: Any = None) -> bytes:
    """Seal an open, finished file: write ``/seal``. Returns the root.

    ``sign`` maps the root to (public key, signature), both bytes; None leaves the file unsigned.
    """
    found = leaves(file)
    tree, at = MerkleTree(), 0
    stored = hdf5.write(file, f"{GROUP}/leaf", shape=(found.count, 32), dtype=np.uint8, long_name=_NAMES["leaf"], units="1")
    for block in found.blocks():
        stored[at : at + len(block)] = block
        tree.add(block)
        at += len(block)
    root = tree.root()
    paths = [*sorted(found.object), *sorted(found.data)]
    hdf5.write(file, f"{GROUP}/path", hdf5.texts(paths), long_name=_NAMES["path"], units="1")
    group = file[GROUP]
    counts = {"objects": len(found.object), "datasets": len(found.data),
              **{f"{kind}s": lines.count for kind, lines in found.lines.items()}}
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
        if root_of(sealed.blocks()).hex() != root or hdf5.get_attribute(group, "format", str) != FORMAT:
            raise FormatError(f"{file.filename}: /seal: its root is not that of its leaves")
        _nothing_else(group)
    except FormatError as error:
        return SealCheck(True, changes=(Change("/seal", f"the seal is damaged: {error}"),))
    check = {"root": root, **signed}
    try:
        found = leaves(file)
        lines = {kind: _differing(sealed.lines[kind], found.lines[kind]) for kind in found.lines}
    except FormatError as error:
        return SealCheck(True, **check, changes=(Change("", f"the file is damaged: {error}"),))
    changes = tuple(_changes(sealed, found, lines))
    same = sealed.object == found.object and sealed.data == found.data and not any(lines.values())
    if not changes and not (same and sealed.count == found.count):  # whatever was not located
        changes = (Change("", "the file's content is not what was sealed"),)
    return SealCheck(True, **check, changes=changes)


def _changes(sealed: Leaves, found: Leaves, lines: Mapping[str, tuple[int, ...]]) -> Iterator[Change]:
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
    for kind, where in (("row", "/row"), ("bundle", "/proofs")):
        before, now = sealed.lines[kind].count, found.lines[kind].count
        if before != now:
            yield Change(where, f"has {now} {kind}s, {before} were sealed")


def _place(path: str) -> str:
    node, _, attribute = path.partition("@")
    return f"/{node}: attribute {attribute}" if attribute else f"/{node}"


def _located(path: str, lines: Mapping[str, tuple[int, ...]]) -> Change:
    """A dataset with other content, with the rows, bundles or answers that differ."""
    kind = "answer" if path.startswith("replicas/") else "bundle" if path.startswith("proofs/") else "row"
    known = kind != "row" or path.startswith("row/") or path in ROW_DATASETS
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


def _differing(old: Lines, new: Lines) -> tuple[int, ...]:
    """The lines that both have and that differ."""
    found: list[int] = []
    before, kept = old.blocks(), np.zeros((0, 32), np.uint8)
    for start, block in new.blocks():
        while len(kept) < len(block) and (more := next(before, None)) is not None:
            kept = np.concatenate([kept, more[1]])
        n = min(len(kept), len(block))
        found += (np.flatnonzero((kept[:n] != block[:n]).any(axis=1)) + start).tolist()
        kept = kept[n:]
    return tuple(found)


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
    starts = np.cumsum([0, *counts]).tolist()
    with hdf5.reading(file.filename, "/seal"):
        values, texts = digests[: starts[2]], [bytes(p).decode("utf-8") for p in paths[()]]
    named = [dict(zip(t, (bytes(v) for v in part)))
             for t, part in ((texts[: counts[0]], values[: counts[0]]), (texts[counts[0] :], values[counts[0] :]))]
    if [len(n) for n in named] != counts[:2] or any(list(n) != sorted(n) for n in named):
        raise FormatError(f"{file.filename}: /seal/path: is not in order")
    kinds = ("row", "bundle", "answer")
    return Leaves(named[0], named[1], {kind: _stored(digests, starts[i], counts[i]) for i, kind in enumerate(kinds, 2)})


def _stored(digests: hdf5.Dataset, first: int, count: int) -> Lines:
    """``count`` leaves of ``/seal/leaf`` from ``first``, read a block at a time."""

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        with hdf5.reading(digests.file.filename, "/seal/leaf"):
            for start in range(0, count, _LEAVES):
                yield start, digests[first + start : first + min(count, start + _LEAVES)]

    return Lines(count, blocks)


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
