"""Products in F in the lanes of vectors: ``extension.multiply`` of numpy's arrays, in one pass.

numpy goes through memory some sixty times for a product, and takes 0.1 ms to start all that, whatever the arrays' length. Importing
this needs numba; what it compiles is kept in numba's cache (change this module when ``extension_vectors`` or ``vectors`` changes).
``extension`` does without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension_vectors, vectors
from enclaveml.zk.batch.prove.vectors import LANES


@intrinsic
def _multiplied(_context: Any, x: Any, y: Any, found: Any, start: Any, apart: Any) -> Any:
    """The products of LANES elements from ``start`` on, coordinates so far ``apart``, in all three arrays."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *arrays, start, apart = arguments
        left, right, target = (vectors.pointer(context, b, kind, each) for kind, each in zip(signature.args[:3], arrays, strict=True))
        factor = extension_vectors.factor(b, extension_vectors.load(b, right, start, apart))
        product = extension_vectors.multiply(b, extension_vectors.load(b, left, start, apart), factor)
        extension_vectors.store(b, product, target, start, apart)
        return context.get_dummy_value()

    return types.void(x, y, found, start, apart), generate


_GIVEN = types.Array(types.uint32, 2, "C", readonly=True)


@njit(types.void(_GIVEN, _GIVEN, types.Array(types.uint32, 2, "C")), nogil=True, boundscheck=False, cache=True)
def multiply(x: np.ndarray, y: np.ndarray, found: np.ndarray) -> None:
    """Write x y into ``found``: uint32 [5, n], in Montgomery form, or either plain, as ``field.multiply`` has it; y [5, 1] is one for all."""
    count = x.shape[1]
    once = y.shape[1] == 1
    last = np.zeros((3, DEGREE, LANES), np.uint32)
    if once:
        for k in range(DEGREE):
            last[1, k, :] = y[k, 0]
    for start in range(0, count, LANES):
        some = min(LANES, count - start)
        if some == LANES and not once:
            _multiplied(x, y, found, start, count)
            continue
        for k in range(DEGREE):
            for i in range(some):
                last[0, k, i] = x[k, start + i]
                if not once:
                    last[1, k, i] = y[k, start + i]
        _multiplied(last[0], last[1], last[2], 0, LANES)
        for k in range(DEGREE):
            for i in range(some):
                found[k, start + i] = last[2, k, i]

