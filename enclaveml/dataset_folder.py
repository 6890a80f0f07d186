"""A folder of files as one dataset: their rows one after another, the files in the order of their names.

The files may be of any kind that a single file may be of, and hold arrays of one name, row shape and type. One
file's content is in memory at a time where its format cannot be read in pieces (.npz, .csv), and no more than
OPEN files are open.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from enclaveml.dataset_sources import KINDS, Opened, Source, fault, open_source

#: Files that stay open, the last used ones. Limits on open files are 1,024 on many machines.
OPEN = 4


class Folder(Opened):
    """The files of a folder. Files whose names begin with a dot or an underscore are passed over.

    Raises JobError for a folder without data files, or with a file of another kind.
    """

    def __init__(self, path: Path) -> None:
        try:
            names = sorted(p.name for p in path.iterdir() if not p.name.startswith((".", "_")))
        except OSError as error:
            raise fault(path, "input.path", f"cannot be read: {error.strerror or error}") from error
        self._files = [path / name for name in names]
        strange = next((p for p in self._files if p.suffix.lower() not in KINDS or not p.is_file()), None)
        if strange is not None:
            raise fault(path, "input.path", f"{strange.name!r} is no data file; allowed in a folder of data: files "
                        f"ending in {', '.join(KINDS)}, and others if their names begin with '.' or '_'")
        if not self._files:
            raise fault(path, "input.path", f"has no data file; allowed endings: {', '.join(KINDS)}")
        self._open: OrderedDict[int, tuple[Opened, dict[str, Source]]] = OrderedDict()
        first = self._at(0)[0]
        super().__init__(path, first.shapes)
        self.word = first.word

    def find(self, name: str) -> Source | None:
        if self._at(0)[0].header(name) is None:
            return None
        return self._joined(name, lambda opened: opened.header(name), lambda opened: opened.find(name))

    def default_keys(self, labels: str | None) -> tuple[str, ...]:
        return self._at(0)[0].default_keys(labels)

    def joined(self, sources: list[tuple[str, Source]]) -> list[tuple[str, Source]]:
        names = [name for name, _ in sources]

        def one(opened: Opened) -> list[tuple[str, Source]]:
            return opened.joined([(name, opened.find(name)) for name in names])

        if self.word != "column":  # only a CSV's columns become one input
            return sources
        key = " ".join(names)
        return [(key, self._joined(key, lambda opened: (one(opened)[0][1].shape, one(opened)[0][1].dtype),
                                   lambda opened: one(opened)[0][1]))]

    def listing(self) -> str:
        return f"{self._at(0)[0].listing()} (in {self._files[0].name!r}, the first of {len(self._files)} files)"

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1][0].close()

    def _at(self, number: int) -> tuple[Opened, dict[str, Source]]:
        """A file, open, and what was read from it by name."""
        if number not in self._open:
            self._open[number] = (open_source(self._files[number]), {})
            while len(self._open) > OPEN:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(number)
        return self._open[number]

    def _joined(self, key: str, header: Callable[[Opened], tuple[tuple[int, ...], np.dtype] | None],
                find: Callable[[Opened], Source | None]) -> Source:
        """The rows of all files. Raises JobError for a file whose array is missing or of another shape or type."""
        headers = []
        for number, file in enumerate(self._files):
            found = header(self._at(number)[0])
            if found is None:
                raise fault(file, "input.key", f"no {self.word} {key!r}; the file has "
                                               f"{self._at(number)[0].listing()}, the first file of the folder has one")
            headers.append(found)
        shape, dtype = headers[0]
        if self.word == "column":  # a column of whole numbers is read as integers, in every file or in none
            dtype = np.result_type(*(d for _, d in headers))
        for file, (other, kind) in zip(self._files, headers, strict=True):
            if other[1:] != shape[1:] or len(other) != len(shape) or (kind != dtype and self.word != "column"):
                raise fault(file, "input.path", f"{key!r} has rows of shape {other[1:]} {kind}; the first file of the "
                                                f"folder, {self._files[0].name!r}, has {shape[1:]} {dtype}")
        ends = np.cumsum([h[0][0] if h[0] else 0 for h in headers])
        starts = np.concatenate([[0], ends[:-1]])

        def source(number: int) -> Source:
            opened, read = self._at(number)
            if key not in read:
                read[key] = find(opened)
            return read[key]

        def read(start: int, stop: int) -> np.ndarray:
            parts = [np.empty((0, *shape[1:]), dtype)]
            for number in range(int(np.searchsorted(ends, start, "right")), len(ends)):
                if starts[number] >= stop:
                    break
                low, high = max(start, starts[number]), min(stop, ends[number])
                if low < high:
                    parts.append(source(number).read(int(low - starts[number]), int(high - starts[number])))
            return np.concatenate(parts).astype(dtype, copy=False) if len(parts) != 2 else parts[1]

        def take(rows: np.ndarray) -> np.ndarray:
            parts = [np.empty((0, *shape[1:]), dtype)]
            which = np.searchsorted(ends, rows, "right")
            for number in np.unique(which).tolist():
                parts.append(source(number).take(rows[which == number] - starts[number]))
            return np.concatenate(parts).astype(dtype, copy=False)

        return Source((int(ends[-1]), *shape[1:]), dtype, read, take)
