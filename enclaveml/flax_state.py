"""A Flax module, NNX or Linen, taken apart: its state by weight name, and a pure function of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml.model_class import ModelSource, check_arguments, parameters_of, user_code

#: Arguments of ``__call__`` that tell a model whether it is being trained, as Flax's examples and own
#: layers name them, with the value for inference. Given wherever the model has them.
INFERENCE_MODE = {"train": False, "training": False, "is_training": False, "deterministic": True,
                  "use_running_average": True}


@dataclass(frozen=True, eq=False)
class Parts:
    """kind: ``nnx`` or ``linen``. state: array (or its shape) by weight name. call: (state, *inputs)
    -> the module's own outputs, in inference mode."""

    kind: str
    state: Mapping[str, Any]
    call: Callable[..., Any]


def take_apart(cls: type, source: ModelSource, args: Mapping[str, Any], inputs: Callable[[], Sequence[Any]],
               filename: str, running: str, abstract: bool) -> Parts:
    """Construct ``cls`` with ``args`` at seed 0 and separate state from function.

    inputs: makes example inputs, which Linen needs. filename: of the user's code in tracebacks.
    running: what errors call running it. abstract: the state is shapes only, since weights follow;
    drawing initial values takes seconds of compilation for each new shape.

    Raises JobError for arguments that the class does not take and for failures in the user's code.
    """
    from flax import nnx

    taken = inspect.signature(cls.__call__).parameters
    mode = {name: value for name, value in INFERENCE_MODE.items() if name in taken}
    if issubclass(cls, nnx.Module):
        check_arguments(cls, source, args, frozenset({"rngs"}))
        with user_code(source.where, f"constructing {source.name}", filename):
            return _nnx(cls, args, mode, abstract)
    check_arguments(cls, source, args, frozenset({"parent", "name"}))
    with user_code(source.where, f"constructing {source.name}", filename):
        module = cls(**args)
    with user_code(source.where, running, filename):
        return _linen(module, mode, inputs, abstract)


def _nnx(cls: type, args: Mapping[str, Any], mode: Mapping[str, bool], abstract: bool) -> Parts:
    import jax
    from flax import nnx, traverse_util

    def construct() -> Any:
        module = cls(**args, **({"rngs": nnx.Rngs(0)} if "rngs" in parameters_of(cls) else {}))
        module.eval()
        return module

    module = nnx.eval_shape(construct) if abstract else construct()
    graph, rng, variables = nnx.split(module, nnx.RngState, ...)
    if abstract:  # not drawn from in inference, but part of what is merged
        rng = jax.tree.map(lambda a: jax.random.key(0) if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
                           else np.zeros(a.shape, a.dtype), rng)
    arrays = traverse_util.flatten_dict(nnx.to_pure_dict(variables))
    paths = {_dotted(path): path for path in arrays}
    flat = dict(nnx.to_flat_state(variables))

    def call(state: Mapping[str, Any], *inputs: Any) -> Any:
        leaves = {path: flat[path].replace(state[name]) if isinstance(flat[path], nnx.Variable)
                  else state[name] for name, path in paths.items()}
        return nnx.merge(graph, rng, nnx.from_flat_state(leaves))(*inputs, **mode)

    return Parts("nnx", {name: arrays[path] for name, path in paths.items()}, call)


def _linen(module: Any, mode: Mapping[str, bool], inputs: Callable[[], Sequence[Any]],
           abstract: bool) -> Parts:
    import jax
    from flax import traverse_util
    from flax.core import meta

    def start() -> Any:
        return meta.unbox(module.init(jax.random.key(0), *inputs(), **mode))

    flat = traverse_util.flatten_dict(jax.eval_shape(start) if abstract else start())
    paths = {_dotted(path[1:] if path[0] == "params" else path): path for path in flat}

    def call(state: Mapping[str, Any], *inputs: Any) -> Any:
        variables = traverse_util.unflatten_dict({paths[name]: a for name, a in state.items()})
        return module.apply(variables, *inputs, **mode)

    return Parts("linen", {name: flat[path] for name, path in paths.items()}, call)


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))
