"""From a JAX function to the canonical ONNX document, and its hash.

The only module that imports jax2onnx (12 s the first time it converts), and only when called.
"""

from __future__ import annotations

import hashlib

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.interface import ModelFunction
from enclaveml.zk.ezkl.onnx_canonical import canonical

#: Opset 20 and later emit Gelu, which ezkl refuses.
OPSET = 18

#: The batch at which a model is hashed. Batch 1 loses its axis in some convolution chains.
HASH_BATCH = 2


def export(function: ModelFunction, batch: int) -> bytes:
    """The canonical ONNX document of ``function`` at a fixed batch (at least 2).

    Raises JobError when the function cannot be exported.
    """
    if batch < 2:
        raise ValueError(f"batch is {batch}; at least 2")
    import jax
    from jax2onnx import to_onnx

    spec = jax.ShapeDtypeStruct((batch, *function.row_shape), np.dtype(function.dtype))
    try:
        model = to_onnx(function.apply, [spec], opset=OPSET)
    except Exception as error:
        raise JobError(
            f"the model cannot be exported to ONNX: {type(error).__name__}: {error}\n"
            "jax2onnx converts plain jax.numpy, flax.nnx and linen layers; loops (lax.scan, fori_loop, "
            "nnx.RNN) must be unrolled in Python"
        ) from error
    return canonical(model)


def model_hash(function: ModelFunction) -> str:
    """SHA-256 (hex) of the canonical document at batch 2, weights included."""
    return hashlib.sha256(export(function, HASH_BATCH)).hexdigest()
