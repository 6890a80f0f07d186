"""From a JAX function to the canonical ONNX document, and its hash.

The only module that imports jax2onnx, and only when called.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.interface import ModelFunction
from enclaveml.zk.onnx_canonical import canonical

#: Opset 20 and later emit Gelu, which ezkl refuses.
OPSET = 18

#: The batch at which a model is hashed. Batch 1 loses its axis in some convolution chains.
HASH_BATCH = 2

#: Parts of jax2onnx that no Flax model needs. It imports every plugin before its first conversion; these
#: make layers with random weights while they are imported: 15 of 17 CPU seconds (jax2onnx 0.17.1).
_NOT_FOR_FLAX = ("jax2onnx.plugins.examples", "jax2onnx.plugins.equinox", "jax2onnx.plugins.dm_pix")


class _Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the modules of _NOT_FOR_FLAX as empty ones."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        mine = any(name == part or name.startswith(part + ".") for part in _NOT_FOR_FLAX)
        return ModuleSpec(name, self, is_package=True) if mine else None

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


@contextlib.contextmanager
def _without_needless_plugins() -> Iterator[None]:
    finder = _Empty()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def export(function: ModelFunction, batch: int) -> bytes:
    """The canonical ONNX document of ``function`` at a fixed batch (at least 2).

    Raises JobError when the function cannot be exported.
    """
    if batch < 2:
        raise ValueError(f"batch is {batch}; at least 2")
    import jax

    spec = jax.ShapeDtypeStruct((batch, *function.row_shape), np.dtype(function.dtype))
    with _without_needless_plugins():
        from jax2onnx import to_onnx

        try:
            model = to_onnx(function.apply, [spec], opset=OPSET)
        except Exception as error:
            raise JobError(
                f"the model cannot be exported to ONNX: {type(error).__name__}: {error}\n"
                "jax2onnx converts plain jax.numpy, flax.nnx and linen layers; loops (lax.scan, fori_loop, "
                "nnx.RNN) must be unrolled in Python, and pooling called with keywords: "
                "max_pool(x, window_shape=(2, 2), strides=(2, 2))"
            ) from error
    return canonical(model)


def model_hash(function: ModelFunction) -> str:
    """SHA-256 (hex) of the canonical document at batch 2, weights included."""
    return hashlib.sha256(export(function, HASH_BATCH)).hexdigest()
