"""Products in F in the lanes of vectors: ``extension.multiply`` of numpy's arrays, in one pass.

numpy goes through memory some sixty times for a product, and takes 0.1 ms to start all that, whatever the arrays' length. Importing
this needs numba; what it compiles is kept in numba's cache (change this module when ``vectors`` changes). ``extension`` does without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from enclaveml.zk.batch.format import DEGREE, RESIDUE, P
from enclaveml.zk.batch.prove import vectors
from enclaveml.zk.batch.prove.vectors import LANES, Halves

#: A multiple of p just below 2^63: see ``extension._coordinate``.
_FOLD = ((1 << 63) // P) * P


def _coordinate(b: ir.IRBuilder, x: list[Halves], y: list[Halves], k: int) -> ir.Value:
    """Coordinate k of a product; ``y`` with its coordinates doubled after them."""
    terms = [vectors.product(b, x[i], y[k - i if i <= k else k + 2 * DEGREE - i]) for i in range(DEGREE)]
    sums = []
    for half in zip(*terms, strict=True):
        first = b.add(b.add(half[0], half[1]), half[2])
        over = b.icmp_signed("<", first, ir.Constant(first.type, [0] * (LANES // 2)))
        fold = b.select(over, ir.Constant(first.type, [_FOLD] * (LANES // 2)), ir.Constant(first.type, [0] * (LANES // 2)))
        sums.append(b.add(b.add(b.sub(first, fold), half[3]), half[4]))
    return vectors.reduce(b, tuple(sums), small=False)


@intrinsic
def _multiplied(_context: Any, x: Any, y: Any, found: Any, start: Any, apart: Any) -> Any:
    """The products of LANES elements from ``start`` on, coordinates so far ``apart``, in all three arrays."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *arrays, start, apart = arguments
        left, right, target = (vectors.pointer(context, b, kind, each) for kind, each in zip(signature.args[:3], arrays, strict=True))
        places = [start]
        while len(places) < DEGREE:
            places.append(b.add(places[-1], apart))
        given = [vectors.load(b, right, place) for place in places]
        factors = [vectors.halves(b, v) for v in [*given, *(vectors.add(b, v, v) for v in given)]]
        others = [vectors.halves(b, vectors.load(b, left, place)) for place in places]
        for k, place in enumerate(places):
            vectors.store(b, _coordinate(b, others, factors, k), target, place)
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


assert RESIDUE == 2  # coordinates are doubled
