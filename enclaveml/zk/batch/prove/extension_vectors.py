"""Arithmetic in F in the lanes of vectors, for kernels in numba: five vectors are the coordinates of so many elements.

As ``vectors``, on which it stands; values are those of ``extension``, bit for bit.
"""

from __future__ import annotations

from llvmlite import ir

from enclaveml.zk.batch.format import DEGREE, RESIDUE, P
from enclaveml.zk.batch.prove import vectors
from enclaveml.zk.batch.prove.field import montgomery_int
from enclaveml.zk.batch.prove.vectors import LANES, Halves

#: Five vectors.
Coordinates = list[ir.Value]

#: What is multiplied with: the halves of five vectors, then of those doubled.
Factor = list[Halves]

#: A multiple of p just below 2^63: see ``extension._coordinate``.
_FOLD = ((1 << 63) // P) * P


def load(b: ir.IRBuilder, data: ir.Value, start: ir.Value, apart: ir.Value) -> Coordinates:
    """The elements whose coordinates begin at ``data`` (i32*) + start, so far ``apart``."""
    return [vectors.load(b, data, place) for place in _places(b, start, apart)]


def store(b: ir.IRBuilder, x: Coordinates, data: ir.Value, start: ir.Value, apart: ir.Value) -> None:
    """Write them there."""
    for value, place in zip(x, _places(b, start, apart), strict=True):
        vectors.store(b, value, data, place)


def _places(b: ir.IRBuilder, start: ir.Value, apart: ir.Value) -> list[ir.Value]:
    found = [start]
    while len(found) < DEGREE:
        found.append(b.add(found[-1], apart))
    return found


def add(b: ir.IRBuilder, x: Coordinates, y: Coordinates) -> Coordinates:
    """x + y."""
    return [vectors.add(b, v, w) for v, w in zip(x, y, strict=True)]


def subtract(b: ir.IRBuilder, x: Coordinates, y: Coordinates) -> Coordinates:
    """x - y."""
    return [vectors.subtract(b, v, w) for v, w in zip(x, y, strict=True)]


def factor(b: ir.IRBuilder, y: Coordinates) -> Factor:
    """What ``multiply`` takes."""
    return [vectors.halves(b, v) for v in [*y, *(vectors.add(b, v, v) for v in y)]]


def multiply(b: ir.IRBuilder, x: Coordinates, y: Factor) -> Coordinates:
    """x y: 25 products, one reduction a coordinate."""
    wide = [vectors.halves(b, v) for v in x]
    return [_coordinate(b, wide, y, k) for k in range(DEGREE)]


def norm(b: ir.IRBuilder, x: Coordinates, y: Factor) -> ir.Value:
    """Coordinate 0 of x y alone."""
    return _coordinate(b, [vectors.halves(b, v) for v in x], y, 0)


def frobenius(b: ir.IRBuilder, x: Coordinates, times: int) -> Coordinates:
    """x^(p^times): every coordinate gets a constant."""
    z = pow(RESIDUE, (P - 1) // DEGREE * times, P)
    constants = [vectors.constant(montgomery_int(pow(z, k, P))) for k in range(DEGREE)]
    return [x[0], *(vectors.multiply(b, v, vectors.halves(b, c)) for v, c in zip(x[1:], constants[1:], strict=True))]


def scale(b: ir.IRBuilder, x: Coordinates, c: ir.Value) -> Coordinates:
    """x c for c over F_p."""
    halves = vectors.halves(b, c)
    return [vectors.multiply(b, v, halves) for v in x]


def _coordinate(b: ir.IRBuilder, x: list[Halves], y: Factor, k: int) -> ir.Value:
    """Coordinate k of a product: the five products of which it is the sum; X^5 = 2."""
    terms = [vectors.product(b, x[i], y[k - i if i <= k else k + 2 * DEGREE - i]) for i in range(DEGREE)]
    sums = []
    for half in zip(*terms, strict=True):
        first = b.add(b.add(half[0], half[1]), half[2])
        over = b.icmp_signed("<", first, ir.Constant(first.type, [0] * (LANES // 2)))
        fold = b.select(over, ir.Constant(first.type, [_FOLD] * (LANES // 2)), ir.Constant(first.type, [0] * (LANES // 2)))
        sums.append(b.add(b.add(b.sub(first, fold), half[3]), half[4]))
    return vectors.reduce(b, tuple(sums), small=False)


assert RESIDUE == 2  # coordinates are doubled
