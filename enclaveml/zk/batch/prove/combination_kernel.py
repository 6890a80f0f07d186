"""Combinations of columns over F_p with coefficients from F in the lanes of vectors, in numba (change this module when ``vectors`` changes: what
is compiled is kept in numba's cache)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove import vectors
from enclaveml.zk.batch.prove.field import P_INVERSE, R1
from enclaveml.zk.batch.prove.vectors import LANES

#: Combinations that are made at once: u and e, five coordinates each.
COMBINATIONS = 2 * DEGREE

#: Products that fit in 64 bits.
_FITTING = 4

_P, _INVERSE, _R1, _LOW, _SHIFT = np.uint64(P), np.uint64(P_INVERSE), np.uint64(R1), np.uint64(0xFFFFFFFF), np.uint64(32)


def _added(blocks: int) -> Callable[..., None]:
    """What adds products of so many times LANES columns to a row's sums: of all combinations the lower halves' and the upper halves'."""
    @intrinsic
    def added(_context: Any, x: Any, at: Any, coefficients: Any, first: Any, apart: Any, sums: Any) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            x, at, coefficients, first, apart, sums = (
                vectors.pointer(context, b, kind, each) if isinstance(kind, types.Array) else each
                for kind, each in zip(signature.args, arguments, strict=True))

            def of_block(data: ir.Value, start: ir.Value, block: int) -> ir.Value:
                return vectors.load(b, data, b.add(start, ir.Constant(start.type, block * LANES)))

            values = [vectors.halves(b, vectors.signed(b, of_block(x, at, block))) for block in range(blocks)]
            for k in range(COMBINATIONS):
                start, total = b.add(first, b.mul(apart, ir.Constant(apart.type, k))), None
                for block, value in enumerate(values):
                    product = vectors.product(b, value, vectors.halves(b, of_block(coefficients, start, block)))
                    total = product if total is None else tuple(b.add(v, w) for v, w in zip(total, product, strict=True))
                for number, half in enumerate(vectors.cut(b, total)):
                    vectors.accumulate(b, half, sums, (2 * k + number) * LANES)
            return context.get_dummy_value()

        return types.void(x, at, coefficients, first, apart, sums), generate

    return added


_whole, _single = _added(_FITTING), _added(1)


@njit(types.uint32(types.uint64), inline="always")
def _reduced(t: int) -> int:
    """``field.reduce``."""
    high = t >> _SHIFT
    for _ in range(2):
        if high >= _P:
            high -= _P
    m = ((t & _LOW) * _INVERSE) & _LOW
    subtracted = (m * _P) >> _SHIFT
    return high - subtracted if high >= subtracted else high + _P - subtracted


@njit(types.void(types.Array(types.uint32, 2, "C", readonly=True), types.intp, types.intp, types.Array(types.uint32, 2, "C", readonly=True),
                 types.Array(types.uint32, 2, "C")), nogil=True, boundscheck=False, cache=True)
def combine(x: np.ndarray, start: int, end: int, coefficients: np.ndarray, found: np.ndarray) -> None:
    """Of rows ``start`` to ``end`` of x, uint32 [n, M]: write sum_j c_k[j] x[i, j] / R into found[i, k], uint32 [n, 10].

    x holds elements, or int32 in (-p, p) as they lie in memory; coefficients uint32 [10, M].
    """
    width = x.shape[1]
    whole = width // LANES * LANES
    values, given = x.reshape(-1), coefficients.reshape(-1)
    last, of_last = np.zeros(LANES, np.uint32), np.zeros(COMBINATIONS * LANES, np.uint32)
    for k in range(COMBINATIONS):
        for lane in range(width - whole):
            of_last[k * LANES + lane] = coefficients[k, whole + lane]
    sums, halves = np.empty(2 * COMBINATIONS * LANES, np.uint64), np.empty(2, np.uint64)
    for row in range(start, end):
        sums[:] = np.uint64(0)
        column = 0
        while column + _FITTING * LANES <= width:
            _whole(values, row * width + column, given, column, width, sums)
            column += _FITTING * LANES
        while column < whole:
            _single(values, row * width + column, given, column, width, sums)
            column += LANES
        if whole < width:
            for lane in range(width - whole):
                last[lane] = x[row, whole + lane]
            _single(last, 0, of_last, 0, LANES, sums)
        for k in range(COMBINATIONS):
            for number in range(2):
                total = np.uint64(0)
                for lane in range(LANES):
                    total += sums[(2 * k + number) * LANES + lane]
                halves[number] = total % _P
            found[row, k] = _reduced(halves[0] + halves[1] * _R1)
