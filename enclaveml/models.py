"""A job's Flax model: packed by rank 0 into bytes, built from them by every rank.

Letters: B rows, D flat outputs per row. Workers may share no file system with rank 0, so a package
holds the model file itself and its weights. Building gives one pure function of rows, whatever the
model's own inputs and outputs look like. Imported lazily, since building needs JAX.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import Fault, FormatError, JobError
from enclaveml.model_class import ModelSource, check_arguments, load_class, parameters_of, user_code
from enclaveml.weights import FORMATS, match_weights, read_weights
from enclaveml.zk.interface import ModelFunction

_MAGIC = b"EMLMODEL"

#: Arguments of ``__call__`` that tell a model whether it is being trained, as Flax's examples and own
#: layers name them, with the value for inference. Given wherever the model has them.
INFERENCE_MODE = {"train": False, "training": False, "is_training": False, "deterministic": True,
                  "use_running_average": True}


@dataclass(frozen=True)
class ModelPackage:
    """What any rank builds the model from.

    flax: ``model.flax`` of the job. source: bytes of the model file; None for an installed package.
    args: ``model.args``. weights: bytes of the weights file; None for the class's own initial values.
    weights_name: that file's name, for errors.
    """

    flax: str
    source: bytes | None
    args: dict[str, Any]
    weights: bytes | None
    weights_format: str = "safetensors"
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


def package_model(flax: str, args: Mapping[str, Any], weights_path: Path | None, job_folder: Path) -> ModelPackage:
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
        if weights_path.suffix not in FORMATS:
            faults.append(Fault(weights_path.name, "model.weights",
                                f"is no {' or '.join(FORMATS)} file; write one with safetensors.numpy.save_file"))
        else:
            try:
                weights = weights_path.read_bytes()
            except OSError as e:
                faults.append(Fault(weights_path.name, "model.weights",
                                    f"cannot be read in {weights_path.parent}: {e.strerror}"))
    for name, value in args.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as e:
            faults.append(Fault(flax, f"model.args.{name}", f"must be numbers, text, lists or mappings: {e}"))
    if faults:
        raise JobError(*faults)
    return ModelPackage(flax, code, dict(args), weights, weights_name=weights_path.name if weights_path else "weights")


@dataclass(frozen=True)
class OutputPart:
    """One of the model's outputs: its name, shape per row and own dtype. Flat, it has ``size`` columns."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Model:
    """A built model: a pure function of its state and of rows.

    kind: ``nnx`` or ``linen``. state: array by weight name (see weights.py). row_shape, dtype: of
    the rows it takes. outputs_layout: the outputs in the order of the D columns. initialised: no
    weights were given, the state is what the class starts with at seed 0.
    """

    kind: str
    state: Mapping[str, Any]
    row_shape: tuple[int, ...]
    dtype: np.dtype
    outputs_layout: tuple[OutputPart, ...]
    initialised: bool
    call: Callable[[Mapping[str, Any], Any], Any]

    @property
    def outputs(self) -> int:
        """D."""
        return sum(part.size for part in self.outputs_layout)

    def apply_state(self, state: Mapping[str, Any], rows: Any) -> Any:
        """Rows (B, *row_shape) -> (B, D) float32 for a given state; traceable at any B.

        Products are made at full float32 precision: the proof is compared with this output.
        """
        import jax
        import jax.numpy as jnp

        with jax.default_matmul_precision("highest"):
            leaves = jax.tree.leaves(self.call(state, rows))
        flat = [jnp.reshape(leaf, (rows.shape[0], -1)).astype(jnp.float32) for leaf in leaves]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=1)

    def apply(self, rows: Any) -> Any:
        """Rows (B, *row_shape) -> (B, D) float32."""
        return self.apply_state(self.state, rows)

    @cached_property
    def function(self) -> ModelFunction:
        """The model as the proof system takes it, with its fingerprint."""
        return ModelFunction(self.apply, self.row_shape, self.dtype, function_fingerprint(self))


def build_model(package: ModelPackage, row_shape: Sequence[int], dtype: Any, job_folder: Path | None = None,
                parts: Sequence[Sequence[int]] = ()) -> Model:
    """Build the model for rows of ``row_shape`` and ``dtype`` (float32 or int32).

    job_folder: where the model file's own imports of its neighbours are found, on ranks that have
    it. parts: shapes of the model's several inputs, where a row is their flat concatenation; each
    is given to the model as a positional argument.

    Raises JobError for anything wrong in the model file, its arguments, its weights or its outputs.
    """
    row_shape, dtype = tuple(int(n) for n in row_shape), np.dtype(dtype)
    source = ModelSource.parse(package.flax)
    cls = load_class(source, package.source, job_folder)
    filename = inspect.getfile(cls) if package.source is None else source.filename(job_folder)
    found = None if package.weights is None else read_weights(package.weights, package.weights_name)
    taken = inspect.signature(cls.__call__).parameters
    mode = {name: value for name, value in INFERENCE_MODE.items() if name in taken}
    split = _splitter(row_shape, [tuple(p) for p in parts])
    running = f"running it on rows of shape {row_shape} {dtype}"

    from flax import nnx

    if issubclass(cls, nnx.Module):
        kind = "nnx"
        state, call = _build_nnx(cls, source, package.args, mode, filename)
    else:
        kind = "linen"
        state, call = _build_linen(cls, source, package.args, mode, filename, split, row_shape, dtype,
                                   running, concrete=found is None)
    if found is not None:
        state = match_weights(state, found, package.weights_name)

    import jax
    import jax.numpy as jnp

    state = {name: jnp.asarray(a) for name, a in state.items()}
    with user_code(source.where, running, filename):
        two, three = (jax.eval_shape(lambda s, r: call(s, *split(r)), state,
                                     jax.ShapeDtypeStruct((b, *row_shape), dtype)) for b in (2, 3))
    layout = _layout(two, three, source)
    return Model(kind, state, row_shape, dtype, layout, found is None, lambda s, rows: call(s, *split(rows)))


def function_fingerprint(model: Model) -> str:
    """Hex SHA-256 of what the model computes: the same in every process, other for any change.

    Over the StableHLO of the function at two rows with the state as arguments (constants in the
    user's code are part of the text), the state's names, shapes, dtypes and bytes, and the versions
    of JAX and Flax. Always lowered for the CPU, so that it does not depend on the rank's device.
    """
    import flax
    import jax

    def model_function(state, rows):
        return model.apply_state(state, rows)

    rows = jax.ShapeDtypeStruct((2, *model.row_shape), model.dtype)
    lowered = jax.jit(model_function).trace(dict(model.state), rows).lower(lowering_platforms=("cpu",))
    digest = hashlib.sha256(f"jax {jax.__version__} flax {flax.__version__}\n".encode())
    digest.update(lowered.as_text().encode())
    for name, array in sorted(model.state.items()):
        digest.update(f"\n{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _build_nnx(cls, source: ModelSource, args, mode, filename):
    from flax import nnx, traverse_util

    check_arguments(cls, source, args, frozenset({"rngs"}))
    own = {"rngs": nnx.Rngs(0)} if "rngs" in parameters_of(cls) else {}
    with user_code(source.where, f"constructing {source.name}", filename):
        module = cls(**args, **own)
        module.eval()
    graph, rng, variables = nnx.split(module, nnx.RngState, ...)
    paths = {_dotted(path): path for path in traverse_util.flatten_dict(nnx.to_pure_dict(variables))}
    initial = {_dotted(p): a for p, a in traverse_util.flatten_dict(nnx.to_pure_dict(variables)).items()}
    flat = dict(nnx.to_flat_state(variables))

    def call(state, *inputs):
        leaves = {path: flat[path].replace(state[name]) if isinstance(flat[path], nnx.Variable) else state[name]
                  for name, path in paths.items()}
        return nnx.merge(graph, rng, nnx.from_flat_state(leaves))(*inputs, **mode)

    return initial, call


def _build_linen(cls, source: ModelSource, args, mode, filename, split, row_shape, dtype, running, concrete):
    import jax
    import jax.numpy as jnp
    from flax import traverse_util
    from flax.core import meta

    check_arguments(cls, source, args, frozenset({"parent", "name"}))
    with user_code(source.where, f"constructing {source.name}", filename):
        module = cls(**args)

    def start():
        return meta.unbox(module.init(jax.random.key(0), *split(jnp.zeros((2, *row_shape), dtype)), **mode))

    with user_code(source.where, running, filename):
        variables = start() if concrete else jax.eval_shape(start)
    flat = traverse_util.flatten_dict(variables)
    paths = {_dotted(path[1:] if path[0] == "params" else path): path for path in flat}
    initial = {name: flat[path] for name, path in paths.items()}

    def call(state, *inputs):
        return module.apply(traverse_util.unflatten_dict({paths[n]: a for n, a in state.items()}), *inputs, **mode)

    return initial, call


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _splitter(row_shape: tuple[int, ...], parts: list[tuple[int, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    """Rows (B, *row_shape) -> the model's positional inputs, each (B, *part)."""
    if not parts:
        return lambda rows: (rows,)
    ends = np.cumsum([math.prod(p) for p in parts]).tolist()
    if row_shape != (ends[-1],):
        raise JobError(Fault("input.key", "", f"parts of shapes {parts} make rows of {ends[-1]} values; "
                             f"the rows have shape {row_shape}"))
    return lambda rows: tuple(rows[:, end - math.prod(p):end].reshape(rows.shape[0], *p)
                              for end, p in zip(ends, parts, strict=True))


def _layout(two: Any, three: Any, source: ModelSource) -> tuple[OutputPart, ...]:
    """Names, shapes and dtypes of the outputs, from their shapes at two and at three rows.

    Raises JobError unless each output's first axis is the rows and its elements are real numbers.
    """
    import jax

    parts: list[OutputPart] = []
    faults: list[Fault] = []
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(two), jax.tree.leaves(three), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "output"
        if a.shape[:1] != (2,) or b.shape[:1] != (3,) or a.shape[1:] != b.shape[1:]:
            faults.append(Fault(source.where, "model.flax", f"output {name} has shape {a.shape} for 2 rows and "
                                f"{b.shape} for 3; its first axis must be the rows, and the others fixed"))
        elif not (a.dtype == bool or jax.numpy.issubdtype(a.dtype, jax.numpy.integer)
                  or jax.numpy.issubdtype(a.dtype, jax.numpy.floating)):
            faults.append(Fault(source.where, "model.flax", f"output {name} is {a.dtype}; return real numbers"))
        parts.append(OutputPart(name, tuple(a.shape[1:]), str(a.dtype)))
    if not parts:
        faults.append(Fault(source.where, "model.flax", "returns no array"))
    if faults:
        raise JobError(*faults)
    return tuple(parts)
