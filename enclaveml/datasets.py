"""A job's rows: .npy, .npz, HDF5 and CSV files, read in pieces, converted and checked.

Letters: N rows, n rows read at once, ``row_shape`` the shape of one row.

Conversion: floats, unsigned bytes (``uint8``: pixels) and booleans become float32; all other
integers become int32 (token ids), refused where they do not fit. Several inputs of both types are joined as float32, where
integers must be exact (up to 2^24); the model gets them as int32 again. With a scale, unsigned bytes become
float32(byte) * float32(scale): the model gets these numbers, and a proof is about them. A CSV file has no types: its
values are float32. Inputs that are NaN or infinite, or 1e38 or more in size (ezkl aborts on them),
are refused when they are read, with row and column.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enclaveml.dataset_folder import Folder
from enclaveml.dataset_sources import Opened, Source, nearest, open_source
from enclaveml.errors import Fault, JobError

#: Inputs must be smaller than this in size: ezkl 23.0.5 aborts at 1e38.
LIMIT = 1e38

#: Largest integer beside float inputs: all up to it are exact in float32.
EXACT = 1 << 24

_TILE_BYTES = 1 << 24


@dataclass(frozen=True)
class Part:
    """One of several inputs that are joined into one row: columns [start, stop), its elements in C order.

    ``dtype`` is what the model gets, float32 or int32; a row of both is float32.
    """

    key: str
    row_shape: tuple[int, ...]
    start: int
    stop: int
    dtype: str = "float32"


class Dataset:
    """Rows of one or several arrays of a file.

    rows: N. row_shape: of one row; with several inputs (their total number of elements,).
    dtype: float32 or int32. parts: where each input lies in a row. option: the job's key that errors name.

    Several threads may read: they take turns at the file.
    """

    def __init__(
        self,
        path: str,
        sources: Sequence[tuple[str, Source]],
        labels: np.ndarray | None = None,
        close: Opened | Dataset | None = None,
        scale: float | None = None,
        option: str = "input.key",
    ) -> None:
        self.path, self._sources, self._labels, self._opened, self._option = path, tuple(sources), labels, close, option
        self._turn = threading.Lock()
        self._scale = None if scale is None else np.float32(scale)
        for key, source in sources:
            _check_kind(path, key, source, option)
            if scale is not None and source.dtype != np.uint8:
                raise _error(path, "input.scale", f"is for uint8; {key!r} is {source.dtype}, whose values are "
                                                  "the model's inputs as they are. Leave input.scale out")
        dtypes = {key: converted(source.dtype) for key, source in sources}
        lengths = {key: source.shape[0] for key, source in sources}
        if len(set(lengths.values())) > 1:
            raise _error(
                path,
                option,
                "inputs must have as many rows as each other; "
                + ", ".join(f"{key!r} has {length}" for key, length in lengths.items()),
            )
        self.rows = int(next(iter(lengths.values())))
        # One type or, of several inputs, two.
        self.dtype = next(iter(dtypes.values())) if len(set(dtypes.values())) == 1 else np.dtype(np.float32)
        parts, start = [], 0
        for key, source in sources:
            stop = start + int(np.prod(source.shape[1:], dtype=np.int64))
            parts.append(Part(key, tuple(source.shape[1:]), start, stop, str(dtypes[key])))
            start = stop
        self.parts = tuple(parts)
        self.row_shape: tuple[int, ...] = parts[0].row_shape if len(parts) == 1 else (start,)
        if start == 0:
            raise _error(
                path, option, f"{parts[0].key!r} has rows without elements: {sources[0][1].shape}"
            )
        if labels is not None and labels.shape != (self.rows,):
            raise _error(path, "input.labels", f"there are {len(labels)} labels for {self.rows} rows")

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; labels stay valid."""
        if self._opened is not None:
            with self._turn:
                self._opened.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), C-contiguous (n, *row_shape) of ``dtype``.

        Raises IndexError outside [0, N], JobError for a value that no model should see.
        """
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows [{start}, {stop}) of {self.rows}")
        with self._turn:
            arrays = [self._convert(key, source, source.read(start, stop), np.arange(start, stop))
                      for key, source in self._sources]
        return self._join(arrays, stop - start)

    def read_rows(self, indices: np.ndarray) -> np.ndarray:
        """These rows in this order, repeats allowed: C-contiguous (n, *row_shape). Raises as :meth:`read`."""
        indices = np.asarray(indices, np.int64)
        if len(indices) and not (0 <= indices.min() and indices.max() < self.rows):
            bad = indices[(indices < 0) | (indices >= self.rows)][0]
            raise IndexError(f"row {bad} of {self.rows}")
        # HDF5 wants ascending rows without repeats.
        unique, back = np.unique(indices, return_inverse=True)
        with self._turn:
            arrays = [self._convert(key, source, source.take(unique), unique)[back] for key, source in self._sources]
        return self._join(arrays, len(indices))

    def tiles(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in order, (first row, (n, *row_shape)) at a time; n is ``rows`` or what is 16 MiB."""
        size = rows or max(1, _TILE_BYTES // (4 * int(np.prod(self.row_shape, dtype=np.int64))))
        for start in range(0, self.rows, size):
            yield start, self.read(start, min(start + size, self.rows))

    def labels(self) -> np.ndarray | None:
        """(N,) int64 or float64, or None where the job names none."""
        return self._labels

    def fingerprint(self, key: bytes = b"") -> str:
        """SHA-256 hex over type, shapes and converted rows; the same for the same rows in another format.

        It identifies rows and does not hide them: few or low-entropy rows can be found from it by
        search. ``key`` (a secret) makes it an HMAC-like BLAKE2b-256 that nobody else can search.
        """
        digest = hashlib.blake2b(key=key[:64], digest_size=32) if key else hashlib.sha256()
        shapes = [list(part.row_shape) for part in self.parts]
        digest.update(json.dumps([self.rows, str(self.dtype), shapes]).encode())
        for _, rows in self.tiles():
            digest.update(rows.astype(rows.dtype.newbyteorder("<"), copy=False).data)
        return digest.hexdigest()

    def _convert(self, key: str, source: Source, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        kind = source.dtype.kind
        if kind == "f" and _in_limits(values):
            pass
        elif kind == "f":
            # Not (|x| < LIMIT) is also true of NaN.
            self._refuse(
                key,
                ~(np.abs(values) < np.float64(LIMIT)),
                values,
                rows,
                f"an input must be a finite number smaller than {LIMIT:g}",
            )
        elif self.dtype == np.int32 and source.dtype.itemsize >= 4:
            info = np.iinfo(np.int32)
            self._refuse(
                key,
                (values < info.min) | (values > info.max),
                values,
                rows,
                "an integer input must fit int32",
            )
        elif kind in "iu" and self.dtype == np.float32 and source.dtype != np.uint8:
            self._refuse(
                key,
                (values < -EXACT) | (values > EXACT),
                values,
                rows,
                f"an integer beside float inputs must be from -{EXACT} to {EXACT}, where float32 is exact",
            )
        converted = np.array(values, self.dtype, order="C")  # a copy: callers may write to it
        if self._scale is not None:
            converted *= self._scale
        return converted

    def _refuse(self, key: str, bad: np.ndarray, values: np.ndarray, rows: np.ndarray, rule: str) -> None:
        if not bad.any():
            return
        first = np.argwhere(bad)[0]
        place = f"row {rows[first[0]]}"
        if len(first) == 2:
            place += f", column {first[1]}"
        elif len(first) > 2:
            place += f", element ({', '.join(str(i) for i in first[1:])})"
        raise _error(
            self.path,
            self._option,
            f"{key!r}: {place} is {values[tuple(first)]}; {rule} "
            f"({int(bad.sum())} such values in the {len(rows)} rows read)",
        )

    def _join(self, arrays: list[np.ndarray], rows: int) -> np.ndarray:
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate([array.reshape(rows, -1) for array in arrays], axis=1)


def open_dataset(
    path: str | Path, key: str | tuple[str, ...] | None = None, labels: str | None = None,
    scale: float | None = None,
) -> Dataset:
    """Open the rows of a job.

    Args:
        path: a file, or a folder of files.
        key: array of an .npz, dataset of an HDF5 file, columns of a CSV; several are flattened per
            row and joined. None: the only array, or ``x``; of a CSV all columns but the labels'.
        labels: likewise, one number per row.
        scale: what unsigned bytes are multiplied by; None: not at all.

    Raises JobError with the path, the key, what was found and what there is.
    """
    path = Path(path)
    opened = Folder(path) if path.is_dir() else open_source(path)
    try:
        keys = opened.default_keys(labels) if key is None else (key,) if isinstance(key, str) else tuple(key)
        if not keys:
            raise _error(str(path), "input.key", "is an empty list; leave it out or name an array")
        sources = [(name, _find(opened, name, "input.key")) for name in keys]
        label_values = None
        if labels is not None:
            label_values = _labels(str(path), labels, _find(opened, labels, "input.labels"))
        return Dataset(str(path), opened.joined(sources), label_values, opened, scale)
    except BaseException:
        opened.close()
        raise


def from_json(path: str | Path, row_shape: Sequence[int], dtype: np.dtype | str = "float32",
              parts: Sequence[Part] = ()) -> Dataset:
    """Rows of an ``--input`` file: ``{"data": [flat numbers], "sample_size": elements of a row}``.

    parts: the inputs that a row is joined of, where there are several.

    Raises JobError, also for a number that is not whole where an integer belongs.
    """
    where, size = str(path), int(np.prod(tuple(row_shape), dtype=np.int64))
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _error(where, "", f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _error(where, "", f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise _error(where, "", f'is no JSON object; expected {{"data": [numbers], "sample_size": {size}}}')
    for name in ("data", "sample_size"):
        if name not in document:
            raise _error(where, name, f"missing; found {', '.join(map(repr, document)) or 'nothing'}")
    sample_size, data = document["sample_size"], document["data"]
    if type(sample_size) is not int or sample_size != size:
        raise _error(
            where,
            "sample_size",
            f"is {sample_size!r}; the model takes {size} numbers a row (shape {tuple(row_shape)})",
        )
    if not isinstance(data, list):
        raise _error(where, "data", f"is {type(data).__name__}; expected a flat list of numbers")
    for i, value in enumerate(data):
        if type(value) not in (int, float):
            raise _error(
                where, "data", f"element {i} is {type(value).__name__}; expected a flat list of numbers"
            )
    if not data or len(data) % size:
        raise _error(
            where, "data", f"has {len(data)} numbers; expected a multiple of sample_size, {size}, and not 0"
        )
    try:
        values = np.array(data, np.float64).reshape(-1, *row_shape)
    except OverflowError as error:
        raise _error(where, "data", "has an integer too large for a number") from error
    several = parts if len(parts) > 1 else (Part("data", tuple(row_shape), 0, size, str(np.dtype(dtype))),)
    flat = values.reshape(len(values), size)
    integers = np.zeros(size, bool)
    for part in several:
        integers[part.start : part.stop] = np.dtype(part.dtype).kind in "iu"
    fine = ~integers | (np.isfinite(flat) & (flat == np.trunc(flat)) & (np.abs(flat) < 2.0**53))
    if not fine.all():
        raise _error(where, "data", f"element {np.flatnonzero(~fine)[0]} is {flat[~fine][0]:g}; "
                                    f"{'this model' if integers.all() else 'the model'} takes whole numbers"
                                    + ("" if integers.all() else " there"))
    columns = [(part, flat[:, part.start : part.stop].reshape(-1, *part.row_shape)) for part in several]
    dataset = Dataset(where, [(part.key, Source.of(values.astype(np.int64) if integers[part.start] else values))
                              for part, values in columns])
    dataset.read(0, dataset.rows)  # refuses NaN and the like now
    return dataset


def _in_limits(values: np.ndarray) -> bool:
    """Whether all are finite and below LIMIT in size; without a copy of them. A NaN is the minimum of its array."""
    if not values.size:
        return True
    return bool(-LIMIT < float(values.min()) and float(values.max()) < LIMIT)


def converted(dtype: np.dtype) -> np.dtype:
    """The type that a stored type is read as: float32 or int32."""
    return np.dtype(np.float32 if dtype.kind in "fb" or dtype == np.uint8 else np.int32)


def _check_kind(path: str, key: str, source: Source, option: str = "input.key") -> None:
    dtype = source.dtype
    refused = {
        "O": "holds Python objects (a pickle), which are never loaded",
        "c": "is complex",
        "S": "holds text",
        "U": "holds text",
        "V": "is a compound type",
        "M": "holds dates",
        "m": "holds times",
    }
    if dtype.kind in refused:
        raise _error(
            path, option, f"{key!r} {refused[dtype.kind]} ({dtype}); allowed: floats, integers, booleans"
        )
    if len(source.shape) == 0:
        raise _error(path, option, f"{key!r} is a single number; its first axis must be the rows")
    if source.shape[0] == 0:
        raise _error(path, option, f"{key!r} has no rows: shape {tuple(source.shape)}")


def _labels(path: str, key: str, source: Source) -> np.ndarray:
    _check_kind(path, key, source, "input.labels")
    if len(source.shape) > 2 or (len(source.shape) == 2 and source.shape[1] != 1):
        raise _error(
            path, "input.labels", f"{key!r} has shape {tuple(source.shape)}; expected one number per row"
        )
    values = source.read(0, source.shape[0]).reshape(-1)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values))[0]
            raise _error(
                path, "input.labels", f"{key!r}: row {bad} is {values[bad]}; a label must be a finite number"
            )
        return values
    if values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
        raise _error(path, "input.labels", f"{key!r}: {values.max()} does not fit int64")
    return values.astype(np.int64)


def _find(opened: Opened, name: str, option: str) -> Source:
    found = opened.find(name)
    if found is None:
        near = nearest(name, opened.shapes)
        raise _error(
            str(opened.path),
            option,
            f"no {opened.word} {name!r}; the file has {opened.listing()}"
            + (f"; nearest: {near!r}" if near else ""),
        )
    return found


def _error(where: str, key: str, message: str) -> JobError:
    return JobError(Fault(where, key, message))
