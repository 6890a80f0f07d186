"""Arithmetic modulo p in the lanes of vectors, written in LLVM's language for kernels in numba (``products``, ``extension_vectors`` and others).

A compiler that finds such loops by itself widens every number to 64 bits apart; here even and odd lanes are multiplied where they
lie. Importing this needs numba; who uses it does without where there is none. Values are those of ``field``, bit for bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from enclaveml.zk.batch.format import P
from enclaveml.zk.batch.prove.field import P_INVERSE

#: Numbers of a vector: 256 bits; LLVM cuts it where registers are shorter.
LANES = 8

WORD = ir.IntType(32)
VECTOR = ir.VectorType(WORD, LANES)
_WIDE = ir.VectorType(ir.IntType(64), LANES // 2)

#: Even and odd lanes, 64 bits each.
Halves = tuple[ir.Value, ir.Value]


def constant(value: int) -> ir.Constant:
    """The same number in all lanes."""
    return ir.Constant(VECTOR, [value] * LANES)


def _wide(value: int) -> ir.Constant:
    return ir.Constant(_WIDE, [value] * (LANES // 2))


def splat(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A number, i32, in all lanes."""
    first = b.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(WORD, 0))
    return b.shuffle_vector(first, ir.Constant(VECTOR, ir.Undefined), ir.Constant(VECTOR, [0] * LANES))


def load(b: ir.IRBuilder, data: ir.Value, offset: ir.Value) -> ir.Value:
    """The vector that begins at ``data`` (i32*) + offset."""
    return b.load(b.bitcast(b.gep(data, [offset]), VECTOR.as_pointer()), align=4)


def store(b: ir.IRBuilder, value: ir.Value, data: ir.Value, offset: ir.Value) -> None:
    """Write it there."""
    b.store(value, b.bitcast(b.gep(data, [offset]), VECTOR.as_pointer()), align=4)


def halves(b: ir.IRBuilder, x: ir.Value) -> Halves:
    """Even and odd lanes."""
    both = b.bitcast(x, _WIDE)
    return b.and_(both, _wide(0xFFFFFFFF)), b.lshr(both, _wide(32))


def _smaller(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.icmp_unsigned("<", x, y), x, y)


def add(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """``field.add``."""
    total = b.add(x, y)
    return _smaller(b, total, b.sub(total, constant(P)))


def subtract(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """``field.subtract``."""
    difference = b.sub(x, y)
    return _smaller(b, difference, b.add(difference, constant(P)))


def product(b: ir.IRBuilder, x: Halves, y: Halves) -> Halves:
    """Products, not reduced."""
    return b.mul(x[0], y[0]), b.mul(x[1], y[1])


def _upper(b: ir.IRBuilder, t: Halves) -> ir.Value:
    """The upper 32 bits of each, as one vector."""
    return b.bitcast(b.or_(b.lshr(t[0], _wide(32)), b.and_(t[1], _wide(0xFFFFFFFF << 32))), VECTOR)


def reduce(b: ir.IRBuilder, t: Halves, small: bool = True) -> ir.Value:
    """``field.reduce_small``; of any 64 bits ``field.reduce`` where not ``small``."""
    low = _wide(0xFFFFFFFF)
    m = tuple(b.and_(b.mul(b.and_(v, low), _wide(P_INVERSE)), low) for v in t)
    upper = _upper(b, t)
    if not small:
        for _ in range(2):
            upper = _smaller(b, upper, b.sub(upper, constant(P)))
    return subtract(b, upper, _upper(b, tuple(b.mul(v, _wide(P)) for v in m)))


def multiply(b: ir.IRBuilder, x: ir.Value, y: Halves) -> ir.Value:
    """``field.multiply`` by what is in halves already."""
    return reduce(b, product(b, halves(b, x), y))


def pointer(context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value) -> ir.Value:
    """Where an array of numba's begins, i32*."""
    return context.make_array(kind)(context, builder, array).data


def signed(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """``field.from_signed``: integers in (-p, p) as elements; elements are what they were."""
    return _smaller(b, x, b.add(x, constant(P)))


def inverse(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x^(p-2), p - 2 = 14 2^27 + 2^27 - 1: 0 for 0."""
    def times(y: ir.Value, z: ir.Value) -> ir.Value:
        return multiply(b, y, halves(b, z))

    def squared(y: ir.Value, count: int) -> ir.Value:
        for _ in range(count):
            y = times(y, y)
        return y

    # x^(2^n - 1) for n = 1, 2, 3, 6, 12, 24, 27.
    two = times(squared(x, 1), x)
    three = times(squared(two, 1), x)
    six = times(squared(three, 3), three)
    twelve = times(squared(six, 6), six)
    twenty_four = times(squared(twelve, 12), twelve)
    most = times(squared(twenty_four, 3), three)
    return times(squared(squared(three, 1), 27), most)


def accumulate(b: ir.IRBuilder, t: Halves, data: ir.Value, offset: int) -> None:
    """Add 64 bits a lane to what is at ``data`` (i64*) + offset: LANES numbers, those of even lanes first."""
    for number, half in enumerate(t):
        at = b.bitcast(b.gep(data, [ir.Constant(ir.IntType(64), offset + number * LANES // 2)]), _WIDE.as_pointer())
        b.store(b.add(b.load(at, align=8), half), at, align=8)


def cut(b: ir.IRBuilder, t: Halves) -> tuple[Halves, Halves]:
    """The lower 32 bits of each, and the upper ones."""
    return tuple(b.and_(v, _wide(0xFFFFFFFF)) for v in t), tuple(b.lshr(v, _wide(32)) for v in t)


assert P - 2 == (14 << 27) + (1 << 27) - 1
