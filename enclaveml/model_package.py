"""A job's model as bytes: the model file, its arguments and its weights, read by rank 0.

Workers may share no file system with rank 0, so everything that building needs is in the package,
but for packages installed on every node. No pickle: a package is read without running anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enclaveml.errors import Fault, FormatError, JobError
from enclaveml.model_class import ModelSource
from enclaveml.checkpoints import read_checkpoint
from enclaveml.weights import FORMATS, write_weights

_MAGIC = b"EMLMODEL"


@dataclass(frozen=True)
class ModelPackage:
    """What any rank builds the model from.

    flax: ``model.flax`` of the job. source: bytes of the model file; None for an installed package.
    args: ``model.args``. weights: bytes of a safetensors file, made of whatever the job names; None for the
    class's own initial values. weights_name: the name of what the job names, for errors.
    """

    flax: str
    source: bytes | None
    args: dict[str, Any]
    weights: bytes | None
    weights_name: str = "weights"

    def to_bytes(self) -> bytes:
        """Magic, length of the header (u32, little-endian), header (JSON), source, weights."""
        header = asdict(self) | {"source": None if self.source is None else len(self.source),
                                 "weights": None if self.weights is None else len(self.weights)}
        text = json.dumps(header).encode()
        return b"".join((_MAGIC, struct.pack("<I", len(text)), text, self.source or b"", self.weights or b""))

    @staticmethod
    def from_bytes(data: bytes) -> ModelPackage:
        """The package that :meth:`to_bytes` wrote. Raises FormatError for any other bytes."""
        try:
            if data[:8] != _MAGIC:
                raise ValueError("wrong magic")
            (length,) = struct.unpack_from("<I", data, 8)
            header = json.loads(data[12:12 + length])
            start, source, weights = 12 + length, header.pop("source"), header.pop("weights")
            if len(data) != start + (source or 0) + (weights or 0) or min(source or 0, weights or 0) < 0:
                raise ValueError(f"{len(data)} bytes do not fit the lengths in the header")
            middle = start + (source or 0)
            return ModelPackage(source=None if source is None else bytes(data[start:middle]),
                                weights=None if weights is None else bytes(data[middle:]), **header)
        except (ValueError, TypeError, KeyError, AttributeError, struct.error) as e:
            raise FormatError(f"no model package: {e}") from e


def package_model(flax: str, args: Mapping[str, Any], weights_path: Path | None,
                  job_folder: Path) -> ModelPackage:
    """Read what a job names: the model file relative to ``job_folder``, and the weights.

    Raises one JobError for a file that is missing, weights of another format and arguments that are
    no plain values.
    """
    source = ModelSource.parse(flax)
    faults: list[Fault] = []
    code = weights = None
    if source.file:
        try:
            code = (job_folder / source.file).read_bytes()
        except OSError as e:
            faults.append(Fault(source.file, "model.flax", f"cannot be read in {job_folder}: {e.strerror}"))
    if weights_path is not None:
        try:
            weights = _weights(weights_path)
        except JobError as e:
            faults += e.faults
    for name, value in args.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as e:
            faults.append(Fault(flax, f"model.args.{name}", f"must be numbers, text, lists or mappings: {e}"))
    if faults:
        raise JobError(*faults)
    name = weights_path.name if weights_path else "weights"
    return ModelPackage(flax, code, dict(args), weights, weights_name=name)


def _weights(path: Path) -> bytes:
    """Weights as the bytes of a safetensors file. Raises JobError."""
    if not path.is_dir() and path.suffix not in FORMATS:
        raise JobError(Fault(path.name, "model.weights", f"is no {' or '.join(FORMATS)} file and no Orbax checkpoint's "
                             "folder; write one with safetensors.numpy.save_file"))
    if path.suffix != ".safetensors":
        try:
            return write_weights(read_checkpoint(path))
        except ValueError as e:
            raise JobError(Fault(path.name, "model.weights", f"{e}; allowed are numbers and booleans")) from e
    try:
        return path.read_bytes()
    except OSError as e:
        raise JobError(Fault(path.name, "model.weights", f"cannot be read in {path.parent}: {e.strerror}")) from e
