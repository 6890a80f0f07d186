"""A job's preprocessing: a function of its rows, part of the proved model or outside of the proof.

Inside (``model.preprocess_proved``, the default) every rank builds the model as ``model(preprocess(rows))``: that composition is
what is exported, hashed and proved, and a verified row speaks of the job's own rows. Outside, rank 0 alone applies the function, with numpy, as
it reads: what it makes are the job's rows to everything behind it, and a verified row speaks of those.
What it makes is kept nowhere, since data may be larger than memory: the fingerprint, the rounds and, where inputs are public, the results file
each read the rows, and the function runs again for each of them.

What the function is, ``preprocess_function`` says. Letters: B rows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from enclaveml.dataset_sources import Source
from enclaveml.datasets import Dataset, from_json, open_dataset
from enclaveml.errors import Fault, JobError
from enclaveml.job import JobSpec
from enclaveml.model_class import PREPROCESS, ModelSource
from enclaveml.preprocess_function import check_rows_alone, load_preprocess

#: Bytes of rows, and rows at most, that a function outside of the proof gets at once. Always the same rows together: libraries
#: may round a row differently in a batch of another size, and every reading must give the same bits.
_TILE_BYTES, _TILE_ROWS = 1 << 20, 1024

#: Rows on which a function is held against itself alone.
_PROBED = 3


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
