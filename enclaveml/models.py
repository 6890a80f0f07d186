"""A job's Flax model, built by every rank from the bytes that rank 0 packed.

Letters: B rows, D flat outputs per row. Building gives one pure function of rows, whatever the
model's own inputs and outputs look like. JAX is imported by what needs it, not with the module.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import Fault, JobError
from enclaveml.flax_state import Parts, take_apart
from enclaveml.model_class import ModelSource, load_class, user_code
from enclaveml.model_package import ModelPackage, package_model
from enclaveml.preprocess_function import Preprocess, check_rows_alone, load_preprocess
from enclaveml.weights import match_weights, read_weights
from enclaveml.zk.interface import ModelFunction

__all__ = ["Model", "ModelPackage", "OutputPart", "build_model", "function_fingerprint", "package_model"]


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
    weights were given, the state is what the class starts with at seed 0. preprocess: hex SHA-256 of the
    source of the preprocessing that is part of it, or "".
    """

    kind: str
    state: Mapping[str, Any]
    row_shape: tuple[int, ...]
    dtype: np.dtype
    outputs_layout: tuple[OutputPart, ...]
    initialised: bool
    call: Callable[[Mapping[str, Any], Any], Any]
    preprocess: str = ""

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
        return ModelFunction(self.apply, self.row_shape, self.dtype, function_fingerprint(self),
                             tuple(part.size for part in self.outputs_layout))


def build_model(package: ModelPackage, row_shape: Sequence[int], dtype: Any, job_folder: Path | None = None,
                parts: Sequence[Sequence[int]] = (), types: Sequence[str] = ()) -> Model:
    """Build the model for rows of ``row_shape`` and ``dtype`` (float32 or int32).

    job_folder: where the model file's own imports of its neighbours are found, on ranks that have
    it. parts: shapes of the model's several inputs, where a row is their flat concatenation; each
    is given to the model as a positional argument. types: their dtypes; none where they are all the rows' own.

    Raises JobError for anything wrong in the model file, its arguments, its weights or its outputs.
    """
    row_shape, dtype = tuple(int(n) for n in row_shape), np.dtype(dtype)
    source = ModelSource.parse(package.flax)
    cls = load_class(source, package.source, job_folder)
    filename = inspect.getfile(cls) if package.source is None else source.filename(job_folder)
    found = None if package.weights is None else read_weights(package.weights, package.weights_name)
    split = _splitter(row_shape, [tuple(p) for p in parts], types or [str(dtype)] * len(parts))
    if package.preprocess is not None:
        split = _composed(load_preprocess(package.preprocess, package.preprocess_source, job_folder), split, row_shape, dtype)
    running = f"running it on rows of shape {row_shape} {dtype}"

    import jax
    import jax.numpy as jnp

    def inputs() -> tuple[Any, ...]:
        return split(jnp.zeros((2, *row_shape), dtype))

    def construct(abstract: bool) -> tuple[Parts, list[Any]]:
        module = take_apart(cls, source, package.args, inputs, filename, running, abstract)
        with user_code(source.where, running, filename):
            return module, [
                _output_shapes(lambda state, rows: module.call(state, *split(rows)), module.state,
                               jax.ShapeDtypeStruct((b, *row_shape), dtype)) for b in (2, 3)]

    try:
        module, shapes = construct(abstract=found is not None)
    except JobError:
        if found is None:
            raise
        # A constructor may need real arrays; where it is at fault itself, this raises the same again.
        module, shapes = construct(abstract=False)
    layout = _layout(*shapes, source)
    state = module.state if found is None else match_weights(module.state, found, package.weights_name)
    # Put there as they are: jnp.asarray compiles a program for each shape.
    return Model(module.kind, {name: jax.device_put(a) for name, a in state.items()}, row_shape, dtype, layout,
                 found is None, lambda state, rows: module.call(state, *split(rows)), _digest(package))


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
    if model.preprocess:
        digest.update(f"preprocess {model.preprocess}\n".encode())
    digest.update(lowered.as_text().encode())
    for name, array in sorted(model.state.items()):
        digest.update(f"\n{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _output_shapes(function: Callable, *arguments: Any) -> Any:
    """Shapes of what the function returns, traced. Raises ValueError where it closes over an array of
    an earlier trace (``jax.eval_shape`` alone does not notice)."""
    import jax

    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    if any(isinstance(c, jax.core.Tracer) for c in traced.consts):
        raise ValueError("the model closes over an array that was traced when it was constructed")
    return shapes


def _splitter(row_shape: tuple[int, ...], parts: list[tuple[int, ...]],
              types: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Rows (B, *row_shape) -> the model's positional inputs, each (B, *part) of its type."""
    if not parts or parts == [row_shape]:  # one input is the row as it is
        return lambda rows: (rows,)
    ends = np.cumsum([math.prod(p) for p in parts]).tolist()
    if row_shape != (ends[-1],):
        raise JobError(Fault("input.key", "", f"parts of shapes {parts} make rows of {ends[-1]} values; "
                             f"the rows have shape {row_shape}"))
    return lambda rows: tuple(rows[:, end - math.prod(p):end].reshape(rows.shape[0], *p).astype(t)
                              for end, p, t in zip(ends, parts, types, strict=True))


def _composed(function: Preprocess, split: Callable[[Any], tuple[Any, ...]], row_shape: tuple[int, ...],
              dtype: np.dtype) -> Callable[[Any], tuple[Any, ...]]:
    """Rows (B, *row_shape) -> the model's inputs, preprocessed. Raises JobError where rows do not stay apart."""
    import jax.numpy as jnp

    few = np.random.default_rng(0).integers(0, 2, (3, *row_shape)).astype(dtype)  # 0 and 1 are fit for ids too
    check_rows_alone(function, split(jnp.asarray(few)))
    return lambda rows: function(split(rows))


def _digest(package: ModelPackage) -> str:
    """SHA-256 (hex) of the preprocessing's name and source; "" without one."""
    if package.preprocess is None:
        return ""
    return hashlib.sha256(package.preprocess.encode() + b"\0" + (package.preprocess_source or b"")).hexdigest()


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
            faults.append(Fault(source.where, "model.flax", f"output {name} has shape {a.shape} for 2 "
                                f"rows and {b.shape} for 3; its first axis must be the rows, "
                                "and the others fixed"))
        elif not (a.dtype == bool or jax.numpy.issubdtype(a.dtype, jax.numpy.integer)
                  or jax.numpy.issubdtype(a.dtype, jax.numpy.floating)):
            faults.append(Fault(source.where, "model.flax",
                                f"output {name} is {a.dtype}; return real numbers"))
        parts.append(OutputPart(name, tuple(a.shape[1:]), str(a.dtype)))
    if not parts:
        faults.append(Fault(source.where, "model.flax", "returns no array"))
    if faults:
        raise JobError(*faults)
    return tuple(parts)
