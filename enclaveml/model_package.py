"""A job's model as bytes: the model file, its arguments and its weights, read by rank 0.

Workers may share no file system with rank 0, so everything that building needs is in the package,
but for packages installed on every node. No pickle: a package is read without running anything.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclaveml.errors import Fault, FormatError, JobError
from enclaveml.model_class import PREPROCESS, ModelSource
from enclaveml.checkpoints import names_of_the_model, read_checkpoint
from enclaveml.weights import FORMATS, NARROW, read_weights, write_weights

if TYPE_CHECKING:
    from enclaveml.job import JobSpec

log = logging.getLogger(__name__)

_MAGIC = b"EMLMODEL"
_BLOBS = ("source", "weights", "preprocess_source")  # in the order in which they follow the header


@dataclass(frozen=True)
class ModelPackage:
    """What any rank builds the model from.

    flax: ``model.flax`` of the job. source: bytes of the model file; None for an installed package.
    args: ``model.args``. weights: bytes of a safetensors file, made of whatever the job names; None for the
    class's own initial values. weights_name: the name of what the job names, for errors. preprocess: ``model.preprocess``
    where it is part of the model that is proved, else None (outside of the proof it is rank 0's alone); preprocess_source:
    the bytes of its file, or None for an installed package.
    """

    flax: str
    source: bytes | None
    args: dict[str, Any]
    weights: bytes | None
    weights_name: str = "weights"
    preprocess: str | None = None
    preprocess_source: bytes | None = None

    def to_bytes(self) -> bytes:
        """Magic, length of the header (u32, little-endian), header (JSON), then source, weights and preprocess_source."""
        blobs = {name: getattr(self, name) for name in _BLOBS}
        header = asdict(self) | {name: None if blob is None else len(blob) for name, blob in blobs.items()}
        text = json.dumps(header).encode()
        return b"".join((_MAGIC, struct.pack("<I", len(text)), text, *(blob or b"" for blob in blobs.values())))

    @staticmethod
    def from_bytes(data: bytes) -> ModelPackage:
        """The package that :meth:`to_bytes` wrote. Raises FormatError for any other bytes."""
        try:
            if data[:8] != _MAGIC:
                raise ValueError("wrong magic")
            (length,) = struct.unpack_from("<I", data, 8)
            header = json.loads(data[12:12 + length])
            start, lengths = 12 + length, {name: header.pop(name) for name in _BLOBS}
            sizes = [n or 0 for n in lengths.values()]
            if len(data) != start + sum(sizes) or min(sizes) < 0:
                raise ValueError(f"{len(data)} bytes do not fit the lengths in the header")
            blobs: dict[str, bytes | None] = {}
            for name, size in zip(_BLOBS, sizes, strict=True):
                blobs[name] = None if lengths[name] is None else bytes(data[start:start + size])
                start += size
            return ModelPackage(**blobs, **header)
        except (ValueError, TypeError, KeyError, AttributeError, struct.error) as e:
            raise FormatError(f"no model package: {e}") from e


def package_model(flax: str, args: Mapping[str, Any], weights_path: Path | None,
                  job_folder: Path, preprocess: str | None = None) -> ModelPackage:
    """Read what a job names: the model file relative to ``job_folder``, the weights, and the file of the preprocessing
    that is part of the model.

    Raises one JobError for a file that is missing, weights of another format and arguments that are
    no plain values.
    """
    source = ModelSource.parse(flax)
    faults: list[Fault] = []
    weights = None
    code = _code(source, "model.flax", job_folder, faults)
    before = None if preprocess is None else _code(ModelSource.parse(preprocess, PREPROCESS), PREPROCESS, job_folder, faults)
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
    return ModelPackage(flax, code, dict(args), weights, name, preprocess, before)


def package_of(job: JobSpec) -> ModelPackage:
    """The package of a job's model. Raises JobError as :func:`package_model`."""
    model = job.model
    return package_model(model.flax, dict(model.args), model.weights, job.path.absolute().parent,
                         model.preprocess if model.preprocess_proved else None)


def _code(source: ModelSource, key: str, job_folder: Path, faults: list[Fault]) -> bytes | None:
    """The bytes of a file of code; None for an installed package, and for a file that adds a fault."""
    if not source.file:
        return None
    try:
        return (job_folder / source.file).read_bytes()
    except OSError as e:
        faults.append(Fault(source.file, key, f"cannot be read in {job_folder}: {e.strerror}"))
        return None


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
        data = path.read_bytes()
    except OSError as e:
        raise JobError(Fault(path.name, "model.weights", f"cannot be read in {path.parent}: {e.strerror}")) from e
    arrays = read_weights(data, path.name)
    named = names_of_the_model(arrays, path.name)
    if narrow := [name for name, array in named.items() if str(array.dtype) in NARROW]:
        log.info("weights %s: %d of %d arrays are of 16 bits; where the model's own are float32 they are widened, which is exact",
                 path.name, len(narrow), len(named))
    return data if list(named) == list(arrays) else write_weights(named)
