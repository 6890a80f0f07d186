"""A job's preprocessing: a function of its rows, part of the proved model or outside of the proof.

Inside (``model.preprocess_proved``, the default) every rank builds the model as ``model(preprocess(rows))``: that composition is
what is exported, hashed and proved, and a verified row speaks of the job's own rows. Outside, rank 0 alone applies the function, with numpy, as
it reads: what it makes are the job's rows to everything behind it, and a verified row speaks of those.

Letters: B rows. The function takes the inputs as the model would, an array (B, ...) for each of ``input.key``, and returns the
model's inputs: an array (B, ...), or a tuple of them. It must treat each row by itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.dataset_sources import Source
from enclaveml.datasets import Dataset, from_json, open_dataset
from enclaveml.errors import Fault, JobError
from enclaveml.job import JobSpec
from enclaveml.model_class import PREPROCESS, ModelSource, load_module, user_code

#: Bytes of rows, and rows at most, that a function outside of the proof gets at once. Always the same rows together: libraries
#: may round a row differently in a batch of another size, and every reading must give the same bits.
_TILE_BYTES, _TILE_ROWS = 1 << 20, 1024

#: Rows on which a function is held against itself alone, and how far the results may be apart (rounding).
_PROBED, _ROUNDING = 3, 1e-4


@dataclass(frozen=True)
class Preprocess:
    """A function that was loaded: ``name`` as the job writes it, ``where`` its file or module."""

    name: str
    where: str
    filename: str
    call: Callable[..., Any]

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """The model's inputs, of the rows' inputs (B, ...) each. Raises JobError for whatever goes wrong in it."""
        count = inputs[0].shape[0]
        shapes = ", ".join(f"{tuple(i.shape)} {i.dtype}" for i in inputs)
        with user_code(self.where, f"running {self.name} on {shapes}", self.filename, PREPROCESS):
            made = self.call(*inputs)
        found = tuple(made) if isinstance(made, tuple | list) else (made,)
        for each in found:
            shape = getattr(each, "shape", None)
            if not shape or shape[0] != count or 0 in shape:
                what = f"an array of shape {tuple(shape)}" if shape is not None else f"a {type(each).__name__}"
                raise JobError(Fault(self.where, PREPROCESS, f"{self.name} makes {what} of {count} rows; allowed: arrays whose "
                                     "first axis is the rows, one for each input of the model"))
        if not found:
            raise JobError(Fault(self.where, PREPROCESS, f"{self.name} returns no array"))
        return found


def load_preprocess(name: str, code: bytes | None, job_folder: Path | None) -> Preprocess:
    """Import the function that ``model.preprocess`` names, from the bytes of its file or an installed package. Raises JobError."""
    source = ModelSource.parse(name, PREPROCESS)
    module = load_module(source, code, job_folder, PREPROCESS)
    found = getattr(module, source.name, None)
    if not callable(found):
        what = f"{source.name} is a {type(found).__name__}, and" if found is not None else f"has no {source.name}, which"
        raise JobError(Fault(source.where, PREPROCESS, f"{what} must be a function of the rows"))
    filename = source.filename(job_folder) if code is not None else str(getattr(module, "__file__", ""))
    return Preprocess(name, source.where, filename, found)


def digest(name: str, job_folder: Path) -> str:
    """SHA-256 (hex) of the file in which the function is; "" for a package whose file cannot be found."""
    source = ModelSource.parse(name, PREPROCESS)
    path: Path | None = job_folder / source.file
    if not source.file:
        try:
            spec = importlib.util.find_spec(source.module)
        except (ImportError, ValueError):
            spec = None
        path = Path(spec.origin) if spec is not None and spec.origin else None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""
    except OSError:
        return ""


def check_rows_alone(function: Preprocess, inputs: Sequence[Any]) -> None:
    """Raise JobError where a row becomes another one among others: the function must treat each row by itself.

    inputs: a few rows of each input, (B, ...).
    """
    together = function(inputs)
    for row in range(len(inputs[0])):
        alone = function([each[row:row + 1] for each in inputs])
        for one, other in zip(together, alone, strict=False):
            a, b = np.asarray(one)[row:row + 1].astype(np.float64), np.asarray(other).astype(np.float64)
            if len(together) != len(alone) or a.shape != b.shape or not np.allclose(a, b, _ROUNDING, _ROUNDING, equal_nan=True):
                raise JobError(Fault(function.where, PREPROCESS, f"{function.name} makes something else of a row alone than among "
                                     "others; it must treat each row by itself. Statistics of the data are constants of the file"))


def open_rows(job: JobSpec) -> Dataset:
    """The rows that a job's model is given: its dataset, or ``--input``'s rows, preprocessed where that lies outside of the proof.

    Raises JobError for data or a function that do not serve.
    """
    data = open_dataset(job.input.path, job.input.key, job.input.labels, job.input.scale)
    if job.sample is not None:
        with data:
            data = from_json(job.sample, data.row_shape, data.dtype, data.parts)
    if job.model.preprocess is None or job.model.preprocess_proved:
        return data
    return preprocessed(data, job.model.preprocess, job.path.absolute().parent)


def preprocessed(data: Dataset, name: str, folder: Path) -> Dataset:
    """A dataset of what the function makes of ``data``, outside of any proof; it closes ``data`` with itself. Raises JobError."""
    source = ModelSource.parse(name, PREPROCESS)
    code = None
    if source.file:
        try:
            code = (folder / source.file).read_bytes()
        except OSError as error:
            raise JobError(Fault(source.file, PREPROCESS, f"cannot be read in {folder}: {error.strerror}")) from error
    before = "jax" in sys.modules
    function = load_preprocess(name, code, folder)
    few = data.read(0, min(_PROBED, data.rows))
    check_rows_alone(function, split_inputs(few, data))
    made = [np.asarray(each) for each in function(split_inputs(few, data))]
    if not before and "jax" in sys.modules:
        raise JobError(Fault(source.where, PREPROCESS, "imports JAX through another library; outside of the proof the function runs "
                             "on rank 0 before JAX is bound to a device. Keep it to numpy"))
    size = max(1, min(_TILE_ROWS, _TILE_BYTES // (4 * math.prod(data.row_shape))))

    @lru_cache(maxsize=4)
    def tile(number: int) -> tuple[np.ndarray, ...]:
        rows = data.read(number * size, min(data.rows, (number + 1) * size))
        found = tuple(np.asarray(each) for each in function(split_inputs(rows, data)))
        if [(each.shape[1:], each.dtype) for each in found] != [(each.shape[1:], each.dtype) for each in made]:
            raise JobError(Fault(source.where, PREPROCESS, f"{name} makes other shapes or types of rows {number * size} to "
                                 f"{number * size + len(rows) - 1} than of the first; they must all be alike"))
        return found

    def rows_of(which: int) -> Callable[[np.ndarray], np.ndarray]:
        def take(rows: np.ndarray) -> np.ndarray:
            out = np.empty((len(rows), *made[which].shape[1:]), made[which].dtype)
            for number in np.unique(rows // size).tolist():
                mine = rows // size == number
                out[mine] = tile(number)[which][rows[mine] - number * size]
            return out

        return take

    def source_of(which: int) -> Source:
        take = rows_of(which)
        return Source((data.rows, *made[which].shape[1:]), made[which].dtype, lambda a, b: take(np.arange(a, b)), take)

    names = [name] if len(made) == 1 else [f"{name}[{i}]" for i in range(len(made))]
    return Dataset(data.path, [(each, source_of(i)) for i, each in enumerate(names)], data.labels(), data, option=PREPROCESS)


def split_inputs(rows: np.ndarray, data: Dataset) -> tuple[np.ndarray, ...]:
    """Rows (B, *row_shape) of a dataset as its several inputs, (B, ...) each; the rows themselves where there is one."""
    if len(data.parts) == 1:
        return (rows,)
    return tuple(rows[:, part.start:part.stop].reshape(len(rows), *part.row_shape).astype(part.dtype) for part in data.parts)
