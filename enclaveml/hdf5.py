"""The one owner of h5py: opening, creating and describing HDF5 files, and what its errors mean.

Everything is written contiguous and uncompressed (proofs do not compress), so that a reader can
bound its memory by the file's size: a dataset whose bytes are not all in the file is refused by
:func:`stored`.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from enclaveml.errors import EnclaveError, EnvironmentFault, FormatError

File, Group, Dataset = h5py.File, h5py.Group, h5py.Dataset

#: Longest text kept in a table's cell, in bytes of UTF-8; longer texts end in "...".
TEXT_LIMIT = 500

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_read(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading, without HDF5's own file lock (which some cluster file systems refuse).

    Raises EnvironmentFault (missing, not permitted), FormatError (no HDF5 file, or a damaged one).
    """
    path = Path(path)
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror or error}") from error
    if not h5py.is_hdf5(path):
        raise FormatError(f"{path}: is no HDF5 file (its signature is missing)")
    with reading(path):
        return h5py.File(path, "r", locking=False)


class _Sink(io.RawIOBase):
    """A file that never fails HDF5: after the first failed write, all are dropped and the error is kept.

    An HDF5 file that cannot be flushed can neither be closed, and the process then dies of a
    segmentation fault at its end (seen with HDF5 2.0.0 on a full tmpfs and under ``ulimit -f``).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._fd).st_size if base is None else base)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._fd, len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += os.pwrite(self._fd, view[done : done + (1 << 30)], self._position + done)
        except OSError as error:
            self.error = error
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self._position if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._fd, size)
        except OSError as error:
            self.error = error
        return size

    def finish(self) -> None:
        """Sync; raises the first error there was."""
        try:
            if self.error is None:
                os.fsync(self._fd)
        except OSError as error:
            self.error = error
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


@contextmanager
def create(path: str | Path, shown: str | Path = "") -> Iterator[h5py.File]:
    """Create a new HDF5 file that HDF5 1.10 and later read; groups list their members as written.

    Whole and synced when the block ends. Raises EnvironmentFault (naming ``shown``, the file that is
    meant), also for a disk that filled up meanwhile; what is left is the caller's to remove.
    """
    with writing(shown or path):
        sink = _Sink(Path(path))
    try:
        try:
            with h5py.File(sink, "w", libver=("v108", "v110"), track_order=True) as file:
                yield file
        except Exception:
            if sink.error is None:
                raise  # else the disk is to blame for whatever HDF5 says
        with writing(shown or path):
            sink.finish()
    finally:
        sink.close()


@contextmanager
def reading(path: str | Path, what: str = "") -> Iterator[None]:
    """Turn whatever h5py raises on a damaged file into FormatError with the path and ``what`` was read."""
    try:
        yield
    except EnclaveError:
        raise
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        UnicodeError,
        OverflowError,
        MemoryError,
    ) as error:
        place = f"{path}: {what}" if what else f"{path}"
        raise FormatError(f"{place}: damaged, HDF5 says: {_first_line(error)}") from error


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an OSError while writing into EnvironmentFault with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise EnvironmentFault(f"{path}: exists already; remove it if no job is writing it") from error
        remedy = "; make room, then --resume" if error.errno in _FULL else ""
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror or error}{remedy}") from error


def enum_dtype(names: Mapping[str, int]) -> np.dtype:
    """uint8 with the names in the file, so that h5dump prints names."""
    return h5py.enum_dtype(dict(names), basetype="u1")


def enum_names(dataset: h5py.Dataset) -> dict[str, int] | None:
    """Names of an enum dataset, None for any other dataset."""
    return h5py.check_enum_dtype(dataset.dtype)


def texts(values: Sequence[str]) -> np.ndarray:
    """Texts as fixed-length UTF-8 (HDF5 cannot store NUL; it is written as ``\\0``)."""
    encoded = [_cut(value.replace("\0", "\\0").encode("utf-8", "backslashreplace")) for value in values]
    width = max((len(item) for item in encoded), default=1) or 1
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", width))


def write(
    group: h5py.Group,
    path: str,
    data: np.ndarray | None = None,
    *,
    long_name: str,
    units: str,
    shape: tuple[int, ...] | None = None,
    dtype: np.dtype | str | None = None,
    fill: float | int | None = None,
) -> h5py.Dataset:
    """Write one described dataset; without ``data`` it is allocated, filled with ``fill`` (or 0)."""
    if data is not None:
        dataset = group.create_dataset(path, data=data, dtype=dtype)
    else:
        # Early allocation: a disk that is too small is found here, before the long copying.
        dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        dataset = group.create_dataset(path, shape=shape, dtype=dtype, fillvalue=fill, dcpl=dcpl)
    attribute(dataset, "long_name", long_name)
    attribute(dataset, "units", units)
    return dataset


def attribute(node: h5py.Group | h5py.Dataset, name: str, value: str | int | float) -> None:
    """Write one attribute; texts may hold anything but NUL and lone surrogates, which are escaped."""
    if isinstance(value, str):
        value = value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    node.attrs[name] = value


def get_attribute(node: h5py.Group | h5py.Dataset, name: str, kind: type) -> Any:
    """One scalar attribute of type ``kind`` (str, int or float); FormatError if there is none."""
    where = f"{node.file.filename}: {node.name}: attribute {name}"
    with reading(node.file.filename, f"{node.name}: attribute {name}"):
        if name not in node.attrs:
            raise FormatError(f"{where}: missing")
        value = node.attrs[name]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FormatError(f"{where}: is {type(value).__name__}, expected {kind.__name__}")
    return value


def stored(group: h5py.Group, path: str) -> h5py.Dataset:
    """A dataset whose every byte is in this file: contiguous, no external file, virtual source or link away.

    Raises FormatError otherwise; so its size in memory is at most the file's.
    """
    name = group.file.filename
    with reading(name, f"/{path}"):
        node: Any = group
        for part in path.split("/"):
            if not isinstance(node, h5py.Group) or part not in node:
                raise FormatError(f"{name}: /{path}: missing")
            if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise FormatError(f"{name}: /{path}: is a link to somewhere else")
            node = node[part]
        if not isinstance(node, h5py.Dataset):
            raise FormatError(f"{name}: /{path}: is a group, expected a dataset")
        if node.is_virtual or node.external or node.chunks is not None or node.shape is None:
            raise FormatError(f"{name}: /{path}: is not stored contiguously in this file")
        if node.dtype.hasobject:
            raise FormatError(f"{name}: /{path}: has elements of variable length")
        size = int(np.prod([int(n) for n in node.shape], dtype=object)) * node.dtype.itemsize
        if size and (node.id.get_storage_size() != size or size > node.file.id.get_filesize()):
            raise FormatError(f"{name}: /{path}: claims {size} bytes that are not in the file")
    return node


def members(group: h5py.Group, path: str = "") -> list[str]:
    """Names in a group, in the order written; empty if there is no such group."""
    with reading(group.file.filename, f"/{path}"):
        node = group.get(path) if path else group
        return list(node) if isinstance(node, h5py.Group) else []


def subgroup(group: h5py.Group, path: str) -> h5py.Group:
    """A group, or FormatError."""
    with reading(group.file.filename, f"/{path}"):
        node = group.get(path)
        if not isinstance(node, h5py.Group):
            raise FormatError(f"{group.file.filename}: /{path}: missing")
        return node


def list_datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Every dataset below ``group`` by its path."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = node

    with reading(group.file.filename):
        group.visititems(visit)
    return found


def walk(file: h5py.File, most: int = 100_000) -> Iterator[tuple[str, str, Any]]:
    """Everything in a file, groups before their members, by name: (path, kind, node).

    kind is group, dataset, type or link; the root's path is empty; the node of a link that is not a
    hard link is the link. Raises FormatError for a group within itself and for more than ``most`` nodes.
    """
    count = 0

    def visit(group: h5py.Group, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str, Any]]:
        nonlocal count
        for name in sorted(group):
            count += 1
            where = f"{path}/{name}" if path else name
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                yield where, "link", link
                continue
            node = group[name]
            address = h5py.h5o.get_info(node.id).addr
            if address in above or count > most:
                raise FormatError(f"{file.filename}: /{where}: a group within itself, or too many nodes")
            if isinstance(node, h5py.Group):
                yield where, "group", node
                yield from visit(node, where, (*above, address))
            else:
                yield where, "dataset" if isinstance(node, h5py.Dataset) else "type", node

    with reading(file.filename):
        yield "", "group", file
        yield from visit(file, "", (h5py.h5o.get_info(file.id).addr,))


def describe(kind: str, node: Any) -> str:
    """What a node of :func:`walk` is, without data and attributes: kind, type and shape as JSON."""
    if kind == "link":
        return json.dumps([kind, type(node).__name__, getattr(node, "filename", ""), getattr(node, "path", "")])
    with reading(node.file.filename, node.name or ""):
        shape = list(node.shape) if kind == "dataset" and node.shape is not None else None
        return json.dumps([kind, "" if kind == "group" else _type(node.dtype), shape])


def describe_attributes(node: h5py.Group | h5py.Dataset) -> dict[str, str]:
    """Each attribute's name to its type, shape and value as JSON, bit for bit."""
    found = {}
    with reading(node.file.filename, node.name or ""):
        for name in node.attrs:
            array = np.asarray(node.attrs[name])
            texts = array.dtype.hasobject or array.dtype.kind in "US"
            plain = repr(array.tolist()) if texts else array.tobytes().hex()
            found[name] = json.dumps([_type(node.attrs.get_id(name).dtype), list(array.shape), plain])
    return found


def _type(dtype: np.dtype) -> str:
    text, names = h5py.check_string_dtype(dtype), h5py.check_enum_dtype(dtype)
    if text is not None:
        return f"text {text.encoding} {text.length}"
    return dtype.str if names is None else f"{dtype.str} {sorted(names.items())}"


def _cut(text: bytes) -> bytes:
    if len(text) <= TEXT_LIMIT:
        return text
    return text[: TEXT_LIMIT - 3].decode("utf-8", "ignore").encode() + b"..."


def _first_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.splitlines() or [type(error).__name__])[0]
