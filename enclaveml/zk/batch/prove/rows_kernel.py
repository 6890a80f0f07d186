"""The sum-check over rows in the lanes of vectors, in numba (change this module when ``extension_vectors`` or ``vectors`` changes: what is
compiled is kept in numba's cache).

A, B' and h are flat arrays of uint32 [N, 5, W] as ``lookup_kernel`` has them; the line and H are [N, 5].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove import extension_vectors as of_f
from enclaveml.zk.batch.prove import vectors
from enclaveml.zk.batch.prove.field import P_INVERSE
from enclaveml.zk.batch.prove.vectors import LANES

_P, _INVERSE, _LOW, _SHIFT = np.uint64(P), np.uint64(P_INVERSE), np.uint64(0xFFFFFFFF), np.uint64(32)
_FOLD, _TOP = np.uint64(((1 << 63) // P) * P), np.uint64(1 << 63)

_GIVEN = types.Array(types.uint32, 1, "C", readonly=True)
_FOUND = types.Array(types.uint32, 1, "C")
_PAIRS = types.Array(types.uint32, 2, "C")
_GIVEN_PAIRS = types.Array(types.uint32, 2, "C", readonly=True)


def _word(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _given(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> list[ir.Value]:
    """Arguments, of arrays where they begin."""
    return [vectors.pointer(context, b, kind, each) if isinstance(kind, types.Array) else each
            for kind, each in zip(signature.args, arguments, strict=True)]


def _accumulate(b: ir.IRBuilder, x: of_f.Coordinates, sums: ir.Value, first: int) -> None:
    """Add five vectors to the ``first`` of the sums and the following."""
    for k, v in enumerate(x):
        vectors.accumulate(b, vectors.halves(b, v), sums, (first + k) * LANES)


@intrinsic
def _weigh(_context: Any, left: Any, right: Any, helpers: Any, base: Any, width: Any, weights: Any, feature: Any, sums: Any) -> Any:
    """B' = w B in place of B; adds w A + B' and h to the sums."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        left, right, helpers, base, width, weights, feature, sums = _given(context, b, signature, arguments)
        factor = of_f.factor(b, of_f.load(b, weights, feature, width))
        weighted = of_f.multiply(b, of_f.load(b, right, base, width), factor)
        of_f.store(b, weighted, right, base, width)
        _accumulate(b, of_f.add(b, of_f.multiply(b, of_f.load(b, left, base, width), factor), weighted), sums, 0)
        _accumulate(b, of_f.load(b, helpers, base, width), sums, DEGREE)
        return context.get_dummy_value()

    return types.void(left, right, helpers, base, width, weights, feature, sums), generate


def _brackets(*places: int) -> Callable[..., None]:
    """What adds h A B' of the LANES features of two rows to the sums: at 0 (place 0), at 2 (1), and the leading coefficient (2)."""
    @intrinsic
    def brackets(_context: Any, left: Any, right: Any, helpers: Any, low: Any, high: Any, width: Any, sums: Any) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            *arrays, low, high, width, sums = _given(context, b, signature, arguments)
            given = [(of_f.load(b, array, low, width), of_f.load(b, array, high, width)) for array in arrays]
            steps = [of_f.subtract(b, second, first) for first, second in given]
            at_2 = [of_f.add(b, second, step) for (_, second), step in zip(given, steps, strict=True)]
            points = [[first for first, _ in given], at_2, steps]
            for place in places:
                x, y, h = points[place]
                product = of_f.multiply(b, x, of_f.factor(b, y))
                _accumulate(b, of_f.multiply(b, product, of_f.factor(b, h)), sums, place * DEGREE)
            return context.get_dummy_value()

        return types.void(left, right, helpers, low, high, width, sums), generate

    return brackets


_first_brackets, _later_brackets, _one_bracket = _brackets(1, 2), _brackets(0, 1, 2), _brackets(0)


@intrinsic
def _fold(_context: Any, x: Any, low: Any, high: Any, width: Any, challenge: Any, found: Any) -> Any:
    """low + r (high - low) of LANES elements, written where ``low`` is in ``found``."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        x, low, high, width, challenge, found = _given(context, b, signature, arguments)
        first, factor = of_f.load(b, x, low, width), of_f.factor(b, of_f.load(b, challenge, _word(0), _word(LANES)))
        step = of_f.subtract(b, of_f.load(b, x, high, width), first)
        of_f.store(b, of_f.add(b, first, of_f.multiply(b, step, factor)), found, low, width)
        return context.get_dummy_value()

    return types.void(x, low, high, width, challenge, found), generate


@njit(types.uint64(types.uint64), inline="always")
def _reduced(t: int) -> int:
    """``field.reduce``."""
    high = t >> _SHIFT
    for _ in range(2):
        if high >= _P:
            high -= _P
    m = ((t & _LOW) * _INVERSE) & _LOW
    subtracted = (m * _P) >> _SHIFT
    return high - subtracted if high >= subtracted else high + _P - subtracted


@njit(types.void(types.Array(types.uint64, 1, "C"), types.Array(types.uint64, 1, "C"), types.Array(types.uint64, 1, "C")), inline="always")
def _times(x: np.ndarray, y: np.ndarray, found: np.ndarray) -> None:
    """x y of single elements in Montgomery form, y with its coordinates doubled after them; see ``extension._coordinate``."""
    for k in range(DEGREE):
        total = np.uint64(0)
        for i in range(DEGREE):
            if i == 3 and total >= _TOP:
                total -= _FOLD
            total += x[i] * (y[k - i] if i <= k else y[k + 2 * DEGREE - i])
        found[k] = _reduced(total)


@njit(types.void(types.Array(types.uint64, 1, "C")), inline="always")
def _double(y: np.ndarray) -> None:
    """Write coordinates doubled after them."""
    for k in range(DEGREE):
        twice = y[k] + y[k]
        y[DEGREE + k] = twice - _P if twice >= _P else twice


@njit(types.uint64(types.Array(types.uint64, 1, "C"), types.intp), inline="always")
def _total(sums: np.ndarray, number: int) -> int:
    """One of the sums modulo p, over its lanes."""
    total = np.uint64(0)
    for lane in range(LANES):
        total += sums[number * LANES + lane]
    return total % _P


@njit(types.void(_GIVEN, _FOUND, _GIVEN, types.intp, _GIVEN, types.intp, types.intp, _PAIRS, _PAIRS), nogil=True, boundscheck=False, cache=True)
def weigh(left: np.ndarray, right: np.ndarray, helpers: np.ndarray, width: int, weights: np.ndarray, start: int, end: int,
          line: np.ndarray, sums_h: np.ndarray) -> None:
    """Of rows ``start`` to ``end``: w B in place of B, for weights [5, W], flat; the line sum_j w_j A + B', and H = sum_j h."""
    sums = np.empty(2 * DEGREE * LANES, np.uint64)
    for row in range(start, end):
        sums[:] = np.uint64(0)
        for feature in range(0, width, LANES):
            _weigh(left, right, helpers, row * DEGREE * width + feature, width, weights, feature, sums)
        for k in range(DEGREE):
            line[row, k] = _total(sums, k)
            sums_h[row, k] = _total(sums, DEGREE + k)


@njit(types.void(_GIVEN, _GIVEN, _GIVEN, _GIVEN_PAIRS, _GIVEN_PAIRS, types.intp, types.intp, types.boolean, types.intp, types.intp, _GIVEN_PAIRS,
                 _GIVEN_PAIRS, types.Array(types.uint64, 3, "C")), nogil=True, boundscheck=False, cache=True)
def round_sums(left: np.ndarray, right: np.ndarray, helpers: np.ndarray, line: np.ndarray, sums_h: np.ndarray, width: int, half: int, first: bool,
               start: int, end: int, eq: np.ndarray, eq_masks: np.ndarray, found: np.ndarray) -> None:
    """Add to ``found``, uint64 [2, 4, 5], over pairs of rows i and i + half, i from ``start`` to ``end``: what is summed with eq(i), uint32 [half, 5],
    the bracket at 0 (not in the first round, where it is 0), at 2 and its leading coefficient; and H at 0.

    Then the same over the last of them, as many as ``eq_masks`` has, with that. In Montgomery form, each below p.
    """
    sums, value, weight, product = np.empty(3 * DEGREE * LANES, np.uint64), np.empty(DEGREE, np.uint64), np.empty(2 * DEGREE, np.uint64), np.empty(
        DEGREE, np.uint64)
    masks_from = half - len(eq_masks)
    for row in range(start, end):
        sums[:] = np.uint64(0)
        for feature in range(0, width, LANES):
            low = row * DEGREE * width + feature
            high = low + half * DEGREE * width
            if first:
                _first_brackets(left, right, helpers, low, high, width, sums)
            else:
                _later_brackets(left, right, helpers, low, high, width, sums)
        for of_masks in range(2):
            if of_masks and row < masks_from:
                break
            for k in range(DEGREE):
                weight[k] = eq_masks[row - masks_from, k] if of_masks else eq[row, k]
                found[of_masks, 3, k] = (found[of_masks, 3, k] + np.uint64(sums_h[row, k])) % _P
            _double(weight)
            for point in range(1 if first else 0, 3):
                for k in range(DEGREE):
                    at_0, at_1 = np.uint64(line[row, k]), np.uint64(line[row + half, k])
                    of_line = at_0 if point == 0 else (at_1 + at_1 + _P - at_0 if point == 1 else np.uint64(0))
                    value[k] = (_total(sums, point * DEGREE + k) + _P + _P + _P - of_line) % _P
                _times(value, weight, product)
                for k in range(DEGREE):
                    found[of_masks, point, k] = (found[of_masks, point, k] + product[k]) % _P


@njit(types.void(_GIVEN, _GIVEN, _GIVEN, _GIVEN_PAIRS, _GIVEN_PAIRS, types.intp, types.intp, types.intp, _GIVEN_PAIRS, types.Array(types.uint64, 2, "C")),
      nogil=True, boundscheck=False, cache=True)
def block_sums(left: np.ndarray, right: np.ndarray, helpers: np.ndarray, line: np.ndarray, sums_h: np.ndarray, width: int, start: int, end: int,
               eq: np.ndarray, found: np.ndarray) -> None:
    """Add to ``found``, uint64 [2, 5], over rows ``start`` to ``end``: the bracket, summed with eq, uint32 [end - start, 5], and H."""
    sums, value, weight, product = np.empty(3 * DEGREE * LANES, np.uint64), np.empty(DEGREE, np.uint64), np.empty(2 * DEGREE, np.uint64), np.empty(
        DEGREE, np.uint64)
    for row in range(start, end):
        sums[:] = np.uint64(0)
        for feature in range(0, width, LANES):
            at = row * DEGREE * width + feature
            _one_bracket(left, right, helpers, at, at, width, sums)
        for k in range(DEGREE):
            weight[k] = eq[row - start, k]
            value[k] = (_total(sums, k) + _P - np.uint64(line[row, k])) % _P
            found[1, k] = (found[1, k] + np.uint64(sums_h[row, k])) % _P
        _double(weight)
        _times(value, weight, product)
        for k in range(DEGREE):
            found[0, k] = (found[0, k] + product[k]) % _P


@njit(types.void(_GIVEN, types.intp, types.intp, types.intp, types.intp, _GIVEN, _FOUND), nogil=True, boundscheck=False, cache=True)
def fold(x: np.ndarray, width: int, half: int, start: int, end: int, challenge: np.ndarray, found: np.ndarray) -> None:
    """Write x(i) + r (x(i + half) - x(i)) into ``found``, for rows i from ``start`` to ``end``: flat [N, 5, W]; ``found`` may be x.

    challenge: r in each lane, [5, LANES], flat.
    """
    for row in range(start, end):
        for feature in range(0, width, LANES):
            low = row * DEGREE * width + feature
            _fold(x, low, low + half * DEGREE * width, width, challenge, found)


@njit(types.void(_PAIRS, types.intp, types.intp, types.intp, _GIVEN), nogil=True, boundscheck=False, cache=True)
def fold_rows(x: np.ndarray, half: int, start: int, end: int, challenge: np.ndarray) -> None:
    """The same of one element a row, uint32 [N, 5], in place."""
    step, weight, product = np.empty(DEGREE, np.uint64), np.empty(2 * DEGREE, np.uint64), np.empty(DEGREE, np.uint64)
    for k in range(DEGREE):
        weight[k] = challenge[k * LANES]
    _double(weight)
    for row in range(start, end):
        for k in range(DEGREE):
            step[k] = (np.uint64(x[row + half, k]) + _P - np.uint64(x[row, k])) % _P
        _times(step, weight, product)
        for k in range(DEGREE):
            x[row, k] = (np.uint64(x[row, k]) + product[k]) % _P
