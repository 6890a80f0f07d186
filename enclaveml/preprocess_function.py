"""The function that ``model.preprocess`` names, as a run calls it: what every rank needs of a job's preprocessing.

The workers build their model with it where it is part of the proved model; what is made of a dataset with it is
``preprocessing``'s, on rank 0.

Letters: B rows. The function takes the inputs as the model would, an array (B, ...) for each of ``input.key``, and returns the
model's inputs: an array (B, ...), or a tuple of them. It must treat each row by itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import Fault, JobError
from enclaveml.model_class import PREPROCESS, ModelSource, load_module, user_code

#: How far the results of a row alone and of the same row among others may be apart (rounding).
_ROUNDING = 1e-4


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
