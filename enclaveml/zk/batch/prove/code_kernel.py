"""The Reed-Solomon code in the lanes of vectors, in numba (change this module when ``vectors`` changes: what is compiled is kept in numba's cache).

A column's coefficients are a polynomial f; its symbols of the coset c are f(w^(4k + c)), k < n, the remainders of f by X - w^(4k + c). They are
found by remainders of remainders (Bernstein 2008, "Fast multiplication and its applications", section 3): X^L - t^4, t = w^(e L/4), is the product
of X^(L/4) - t i^m, m < 4, i = w^n. What is multiplied with depends on the modulus alone, so that a coset costs no more than the group itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from enclaveml.zk.batch.format import BLOWUP
from enclaveml.zk.batch.prove import vectors
from enclaveml.zk.batch.prove.code import powers, root_of_unity
from enclaveml.zk.batch.prove.field import montgomery_int
from enclaveml.zk.batch.prove.vectors import LANES, Halves

#: Columns that are worked on at once.
_COLUMNS = 128

#: Numbers that stay in a core's cache: what is longer is cut by steps over all of it, then part after part brought to its end.
_CACHED = 1 << 17

#: The fourth root of 1.
_TURN = montgomery_int(root_of_unity(4))


def _splat(b: ir.IRBuilder, data: ir.Value, place: ir.Value) -> Halves:
    """A number, i64 at ``data`` + place, in all lanes."""
    value = b.load(b.gep(data, [place]), align=8)
    kind = ir.VectorType(ir.IntType(64), LANES // 2)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    half = b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES // 2), [0] * (LANES // 2)))
    return half, half


def _step(radix: int, given: bool) -> Callable[..., None]:
    """One step of LANES columns: ``radix`` rows ``apart`` at ``start`` of x, written at ``to`` of ``found``, so far apart too.

    given: x are elements, or int32 in (-p, p).
    """
    @intrinsic
    def step(_context: Any, x: Any, start: Any, apart: Any, twiddles: Any, place: Any, found: Any, to: Any, apart_there: Any) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            x, start, apart, twiddles, place, found, to, apart_there = (
                vectors.pointer(context, b, kind, each) if isinstance(kind, types.Array) else each
                for kind, each in zip(signature.args, arguments, strict=True))
            rows, factors = [], []
            for number in range(radix):
                value = vectors.load(b, x, start)
                rows.append(vectors.signed(b, value) if given else value)
                start = b.add(start, apart)
                if number:
                    factors.append(_splat(b, twiddles, place))
                    place = b.add(place, ir.Constant(place.type, 1))
            rows[1:] = [vectors.multiply(b, v, w) for v, w in zip(rows[1:], factors, strict=True)]
            for value in _remainders(b, rows):
                vectors.store(b, value, found, to)
                to = b.add(to, apart_there)
            return context.get_dummy_value()

        return types.void(x, start, apart, twiddles, place, found, to, apart_there), generate

    return step


def _remainders(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """sum_k i^(m k) rows_k for each m; with two rows their sum and difference."""
    if len(rows) == 2:
        return [vectors.add(b, *rows), vectors.subtract(b, *rows)]
    even = [operation(b, rows[0], rows[2]) for operation in (vectors.add, vectors.subtract)]
    total = vectors.add(b, rows[1], rows[3])
    turned = vectors.multiply(b, vectors.subtract(b, rows[1], rows[3]), vectors.halves(b, vectors.constant(_TURN)))
    return [vectors.add(b, even[0], total), vectors.add(b, even[1], turned), vectors.subtract(b, even[0], total), vectors.subtract(b, even[1], turned)]


_first_2, _first_4, _later_4 = _step(2, True), _step(4, True), _step(4, False)


@cache
def plan(n: int) -> tuple[np.ndarray, np.ndarray]:
    """What the steps of length n >= 16 multiply with, uint64 [4, .], of each coset: for every modulus t, t^2, t^3 (of the first step t alone,
    where there are two factors); and which symbol k each remainder is, int64 [n]."""
    roots = powers(BLOWUP * n, 1, BLOWUP * n).astype(np.uint64)
    found = []
    for coset in range(BLOWUP):
        exponents, length, of_coset = np.array([coset]), n, []
        while length > 1:
            radix = 2 if length == n and n.bit_length() % 2 == 0 else 4
            quotient = length // radix
            of_coset.append((exponents[:, None] * quotient * np.arange(1, radix) % (BLOWUP * n)).reshape(-1))
            exponents = (exponents[:, None] + BLOWUP * n // length * np.arange(radix)).reshape(-1)
            length = quotient
        found.append(roots[np.concatenate(of_coset)])
    return np.stack(found), (exponents - (BLOWUP - 1)) // BLOWUP


@njit(types.void(types.Array(types.uint32, 1, "C"), types.intp, types.intp, types.intp, types.intp,
                 types.Array(types.uint64, 1, "C", readonly=True), types.intp), nogil=True, boundscheck=False, inline="always")
def _steps(scratch: np.ndarray, columns: int, begin: int, end: int, length: int, twiddles: np.ndarray, of_step: int) -> None:
    """One step of rows ``begin`` to ``end``, whose moduli have this degree."""
    quarter = length // 4
    for start in range(begin, end, length):
        place = of_step + 3 * (start // length)
        for row in range(start, start + quarter):
            for lane in range(0, columns, LANES):
                at = row * columns + lane
                _later_4(scratch, at, quarter * columns, twiddles, place, scratch, at, quarter * columns)


@njit(types.void(types.Array(types.uint32, 2, "A", readonly=True), types.intp, types.intp, types.Array(types.uint64, 1, "C", readonly=True),
                 types.Array(types.int64, 1, "C", readonly=True), types.Array(types.uint32, 2, "A"), types.intp, types.Array(types.uint32, 1, "C")),
      nogil=True, boundscheck=False, cache=True)
def encode(x: np.ndarray, column: int, columns: int, twiddles: np.ndarray, order: np.ndarray, found: np.ndarray, to: int,
           scratch: np.ndarray) -> None:
    """Write the symbols of a coset of so many columns from ``column`` on, a multiple of LANES, from column ``to`` of ``found`` on: uint32 [n, .] both.

    Twiddles and order are of ``plan``; x are elements, or int32 in (-p, p), with the columns of a row next to each other, as they are in
    ``found``; scratch: n times ``columns``.
    """
    n = x.shape[0]
    apart, apart_there = x.strides[0] // 4, found.strides[0] // 4
    radix = 4
    bits = 0
    while 1 << bits < n:
        bits += 1
    if bits % 2:
        radix = 2
    quotient = n // radix
    for row in range(quotient):
        for lane in range(0, columns, LANES):
            if radix == 2:
                _first_2(x, row * apart + column + lane, quotient * apart, twiddles, 0, scratch, row * columns + lane, quotient * columns)
            else:
                _first_4(x, row * apart + column + lane, quotient * apart, twiddles, 0, scratch, row * columns + lane, quotient * columns)
    length, of_step = quotient, radix - 1
    while length > 4 and length * columns > _CACHED:
        _steps(scratch, columns, 0, n, length, twiddles, of_step)
        of_step += 3 * (n // length)
        length //= 4
    whole, of_whole = length, of_step
    for begin in range(0, n, whole):
        end, length, of_step = begin + whole, whole, of_whole
        while length > 4:
            _steps(scratch, columns, begin, end, length, twiddles, of_step)
            of_step += 3 * (n // length)
            length //= 4
        for start in range(begin, end, 4):
            # The four remainders are symbols a quarter of all apart.
            for lane in range(0, columns, LANES):
                _later_4(scratch, start * columns + lane, columns, twiddles, of_step + 3 * (start // 4), found,
                         order[start] * apart_there + to + lane, n // 4 * apart_there)


def encoded(x: np.ndarray, coset: int, found: np.ndarray, to: int) -> None:
    """Write the symbols of a coset of columns x, uint32 or int32 [n, .], n >= 16, into those of ``found``, '<u4' [n, .], from ``to`` on."""
    n, width = x.shape
    if x.strides[1] != 4:
        x = np.ascontiguousarray(x)
    twiddles, order = plan(n)
    scratch, whole, given = np.empty(n * _COLUMNS, np.uint32), width // LANES * LANES, x.view(np.uint32)
    for column in range(0, whole, _COLUMNS):
        encode(given, column, min(_COLUMNS, whole - column), twiddles[coset], order, found, to + column, scratch)
    if whole < width:
        last, symbols = np.zeros((n, LANES), np.uint32), np.empty((n, LANES), np.uint32)
        last[:, : width - whole] = given[:, whole:]
        encode(last, 0, LANES, twiddles[coset], order, symbols, 0, scratch)
        found[:, to + whole : to + width] = symbols[:, : width - whole]
