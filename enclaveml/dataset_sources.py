"""The files behind a dataset: each format opened as named arrays that can be read by rows."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from enclaveml.csv_table import CsvTable, read_csv
from enclaveml.errors import Fault, FormatError, JobError

#: How many arrays an error lists before it says "and ... more".
_LISTED = 12


@dataclass(frozen=True)
class Source:
    """One stored array: read(start, stop) and take(ascending unique rows) give rows of ``dtype`` (n, ...)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    take: Callable[[np.ndarray], np.ndarray]

    @staticmethod
    def of(array: np.ndarray) -> Source:
        """An array in memory, or mapped."""
        return Source(
            array.shape, array.dtype, lambda start, stop: array[start:stop], lambda rows: array[rows]
        )


class Opened(ABC):
    """An open file: ``shapes`` says what is in it by name, ``word`` what it calls an array."""

    word = "array"

    def __init__(self, path: Path, shapes: Mapping[str, str]) -> None:
        self.path, self.shapes = path, shapes

    @abstractmethod
    def find(self, name: str) -> Source | None:
        """The array of this name, or None."""

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape and type of the array of this name, or None; without reading it where the format allows."""
        found = self.find(name)
        return None if found is None else (tuple(found.shape), found.dtype)

    def default_keys(self, labels: str | None) -> tuple[str, ...]:
        """What ``key`` stands for where the job leaves it out."""
        candidates = [name for name in self.shapes if name != labels]
        if "x" in candidates:
            return ("x",)
        if len(candidates) == 1:
            return (candidates[0],)
        raise fault(
            self.path, "input.key", f"say which {self.word} holds the rows; the file has {self.listing()}"
        )

    def joined(self, sources: list[tuple[str, Source]]) -> list[tuple[str, Source]]:
        """The inputs as the dataset sees them (a CSV's columns are one input)."""
        return sources

    def listing(self) -> str:
        """What is in the file, for an error."""
        names = [f"{name!r} {shape}".rstrip() for name, shape in self.shapes.items()]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return (", ".join(names[:_LISTED]) + more) or f"no {self.word}s"

    def close(self) -> None:
        """Close the file."""


class _Npy(Opened):
    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            shape, dtype = _header(path, stream, path.name)
        super().__init__(path, {"x": _describe(shape, dtype)})
        self._source = Source(shape, dtype, _unread, _unread)
        if dtype.hasobject or 0 in shape:
            return  # refused by what it is; never loaded
        try:
            self._source = Source.of(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise fault(path, "input.path", f"is a damaged .npy file: {error}") from error

    def find(self, name: str) -> Source | None:
        return self._source if name == "x" else None


class _Npz(Opened):
    """Arrays are read whole when asked for (an archive cannot be mapped); use .npy or HDF5 beyond memory."""

    def __init__(self, path: Path) -> None:
        self._headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".npy"):
                        with archive.open(member) as stream:
                            self._headers[member[:-4]] = _header(path, stream, member)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise fault(path, "input.path", f"is a damaged .npz file: {error}") from error
        super().__init__(path, {name: _describe(*header) for name, header in self._headers.items()})

    def find(self, name: str) -> Source | None:
        if name not in self._headers:
            return None
        shape, dtype = self._headers[name]
        if dtype.hasobject:
            return Source(shape, dtype, _unread, _unread)
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return Source.of(archive[name])
        except (
            ValueError,
            OSError,
            EOFError,
            KeyError,
            MemoryError,
            zipfile.BadZipFile,
            zipfile.zlib.error,
        ) as error:
            raise fault(self.path, "input.key", f"{name!r} cannot be read: {error}") from error

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
        return self._headers.get(name)


class _Hdf5(Opened):
    word = "dataset"

    def __init__(self, path: Path) -> None:
        from enclaveml import hdf5  # h5py is wanted for this format only

        self._hdf5 = hdf5
        try:
            self._file = hdf5.open_read(path)
            self._found = hdf5.list_datasets(self._file)
        except FormatError as error:
            raise JobError(str(error)) from error
        super().__init__(path, {name: _describe(d.shape or (), d.dtype) for name, d in self._found.items()})

    def find(self, name: str) -> Source | None:
        dataset = self._found.get(name.strip("/"))
        if dataset is None:
            return None

        def take(rows: np.ndarray) -> np.ndarray:
            if not len(rows):
                return read(0, 0)
            # HDF5 is slow with scattered rows: read runs of rows, over gaps of up to 16.
            runs = np.split(rows, np.flatnonzero(np.diff(rows) > 16) + 1)
            return np.concatenate([read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs])

        def read(start: int, stop: int) -> np.ndarray:
            try:
                with self._hdf5.reading(self.path, f"/{name}"):
                    return dataset[start:stop]
            except FormatError as error:
                raise JobError(str(error)) from error

        return Source(dataset.shape or (), dataset.dtype, read, take)

    def close(self) -> None:
        self._file.close()


class _Csv(Opened):
    word = "column"

    def __init__(self, path: Path) -> None:
        self._table: CsvTable = read_csv(path)
        super().__init__(path, {name: "" for name in self._table.names})

    def find(self, name: str) -> Source | None:
        if name not in self._table.names:
            return None
        column = self._table.values[:, self._table.names.index(name)]
        whole = (np.abs(column) < 2.0**53) & (column == np.trunc(column))
        return Source.of(column.astype(np.int64) if whole.all() else column)

    def listing(self) -> str:
        return super().listing() + (
            "" if self._table.has_header else " (no header line: columns are numbered)"
        )

    def default_keys(self, labels: str | None) -> tuple[str, ...]:
        names = tuple(name for name in self._table.names if name != labels)
        if not names:
            raise fault(self.path, "input.key", "no column is left beside the labels")
        return names

    def joined(self, sources: list[tuple[str, Source]]) -> list[tuple[str, Source]]:
        columns = [self._table.names.index(name) for name, _ in sources]
        return [("columns", Source.of(self._table.values[:, columns]))]


#: A file's kind by its name's ending.
KINDS: dict[str, type[Opened]] = {
    ".npy": _Npy,
    ".npz": _Npz,
    ".csv": _Csv,
    ".tsv": _Csv,
    ".h5": _Hdf5,
    ".hdf5": _Hdf5,
    ".hdf": _Hdf5,
}


def open_source(path: Path) -> Opened:
    """Open a file by its name's ending. Raises JobError for what is missing, unknown or damaged."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise fault(path, "input.path", f"has an unknown ending {path.suffix!r}; allowed: {', '.join(KINDS)}, or a folder of such files")
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, names)
        raise fault(path, "input.path", "no such file" + (f"; nearest: {near!r}" if near else "")) from error
    except OSError as error:
        raise fault(path, "input.path", f"cannot be read: {error.strerror or error}") from error
    return kind(path)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, whatever its case; None if none is near."""
    by_lower = {known.lower(): known for known in names}
    found = get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def fault(path: Path | str, key: str, message: str) -> JobError:
    """A JobError about the data file at ``path``."""
    return JobError(Fault(str(path), key, message))


def _header(path: Path, stream: BinaryIO | Any, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type from the start of an .npy stream, without loading it."""
    try:
        version = np.lib.format.read_magic(stream)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(stream)
    except (ValueError, EOFError, OSError) as error:
        raise fault(path, "input.path", f"{name} is no .npy file: {str(error).splitlines()[0]}") from error
    return tuple(shape), dtype


def _describe(shape: Sequence[int], dtype: np.dtype) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''}) {dtype}"


def _unread(*_: Any) -> np.ndarray:
    raise AssertionError("an array of objects is never read")
