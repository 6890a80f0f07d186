"""The lookups' A, B and h in the lanes of vectors: in one pass over the rows, in numba (change this module when ``extension_vectors`` or
``vectors`` changes: what is compiled is kept in numba's cache).

Elements of F are laid out uint32 [N, 5, W]: a row's features next to each other, apart by coordinates. W is a multiple of LANES.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension_vectors as of_f
from enclaveml.zk.batch.prove import vectors
from enclaveml.zk.batch.prove.field import R1, R2
from enclaveml.zk.batch.prove.vectors import LANES

#: Vectors whose norms are inverted together (Montgomery's trick).
_TOGETHER = 32

#: Scratch: the running product; then for each vector the product of the other conjugates, the norm, and the product until before it.
_KEPT = DEGREE + 2

#: Of ``constants``: base and offset of each feature, [5, W] both, then beta in each lane, [5, LANES].
_ONE = np.uint32(R1)

_GIVEN = types.Array(types.uint32, 1, "C", readonly=True)
_FOUND = types.Array(types.uint32, 1, "C")


def _word(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


@intrinsic
def _denominators(_context: Any, q: Any, r: Any, a: Any, at: Any, constants: Any, feature: Any, width: Any, left: Any, right: Any, base: Any,
                  scratch: Any, slot: Any) -> Any:
    """A and B of the LANES numbers at ``at``, written at ``base``; what their inverses need into the scratch at ``slot``."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        q, r, a, at, constants, feature, width, left, right, base, scratch, slot = (
            vectors.pointer(context, b, kind, each) if isinstance(kind, types.Array) else each
            for kind, each in zip(signature.args, arguments, strict=True))
        square = vectors.halves(b, vectors.constant(R2))
        quotient, remainder = (vectors.multiply(b, vectors.signed(b, vectors.load(b, v, at)), square) for v in (q, r))
        activation = vectors.signed(b, vectors.load(b, a, at))
        bases = of_f.load(b, constants, feature, width)
        offsets = of_f.load(b, constants, b.add(feature, b.mul(width, _word(DEGREE))), width)
        betas = of_f.load(b, constants, b.mul(width, _word(2 * DEGREE)), _word(LANES))
        x = [vectors.subtract(b, v, vectors.multiply(b, activation, vectors.halves(b, c))) for v, c in zip(bases, betas, strict=True)]
        x[0] = vectors.subtract(b, x[0], quotient)
        y = [vectors.subtract(b, offsets[0], remainder), *offsets[1:]]
        of_f.store(b, x, left, base, width)
        of_f.store(b, y, right, base, width)
        product = of_f.multiply(b, x, of_f.factor(b, y))
        once = of_f.frobenius(b, product, 1)
        pair = of_f.multiply(b, once, of_f.factor(b, of_f.frobenius(b, once, 1)))
        others = of_f.multiply(b, pair, of_f.factor(b, of_f.frobenius(b, pair, 2)))
        norm = of_f.norm(b, product, of_f.factor(b, others))
        of_f.store(b, others, scratch, slot, _word(LANES))
        vectors.store(b, norm, scratch, b.add(slot, _word(DEGREE * LANES)))
        running = vectors.load(b, scratch, _word(0))
        vectors.store(b, running, scratch, b.add(slot, _word((DEGREE + 1) * LANES)))
        vectors.store(b, vectors.multiply(b, running, vectors.halves(b, norm)), scratch, _word(0))
        return context.get_dummy_value()

    return types.void(q, r, a, at, constants, feature, width, left, right, base, scratch, slot), generate


@intrinsic
def _inverted(_context: Any, scratch: Any) -> Any:
    """Invert the running product."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        at = vectors.pointer(context, b, signature.args[0], arguments[0])
        vectors.store(b, vectors.inverse(b, vectors.load(b, at, _word(0))), at, _word(0))
        return context.get_dummy_value()

    return types.void(scratch), generate


@intrinsic
def _helpers(_context: Any, left: Any, right: Any, helpers: Any, base: Any, width: Any, scratch: Any, slot: Any) -> Any:
    """h = (A + B) / (A B) at ``base``, and the running product's inverse without that of ``slot``."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        left, right, helpers, base, width, scratch, slot = (
            vectors.pointer(context, b, kind, each) if isinstance(kind, types.Array) else each
            for kind, each in zip(signature.args, arguments, strict=True))
        others = of_f.load(b, scratch, slot, _word(LANES))
        norm, before = (vectors.load(b, scratch, b.add(slot, _word((DEGREE + k) * LANES))) for k in range(2))
        running = vectors.halves(b, vectors.load(b, scratch, _word(0)))
        inverse = vectors.multiply(b, before, running)
        vectors.store(b, vectors.multiply(b, norm, running), scratch, _word(0))
        total = of_f.add(b, of_f.load(b, left, base, width), of_f.load(b, right, base, width))
        of_f.store(b, of_f.scale(b, of_f.multiply(b, total, of_f.factor(b, others)), inverse), helpers, base, width)
        return context.get_dummy_value()

    return types.void(left, right, helpers, base, width, scratch, slot), generate


@njit(types.void(_GIVEN, _GIVEN, _GIVEN, _GIVEN, types.intp, types.intp, types.intp, _FOUND, _FOUND, _FOUND), nogil=True, boundscheck=False,
      cache=True)
def helpers(q: np.ndarray, r: np.ndarray, a: np.ndarray, constants: np.ndarray, width: int, start: int, end: int, left: np.ndarray,
            right: np.ndarray, found: np.ndarray) -> None:
    """Write A, B and h of rows ``start`` to ``end``: flat arrays of [N, 5, W]; q, r, a likewise of [N, W].

    constants: base, offset, [5, W] both, and beta times R in each lane, [5, LANES].
    """
    blocks = width // LANES
    scratch = np.empty(LANES * (1 + _KEPT * _TOGETHER), np.uint32)
    for first in range(start * blocks, end * blocks, _TOGETHER):
        count = min(_TOGETHER, end * blocks - first)
        for lane in range(LANES):
            scratch[lane] = _ONE
        for i in range(count):
            row, block = divmod(first + i, blocks)
            _denominators(q, r, a, (first + i) * LANES, constants, block * LANES, width, left, right, row * DEGREE * width + block * LANES,
                          scratch, LANES * (1 + _KEPT * i))
        _inverted(scratch)
        for i in range(count - 1, -1, -1):
            row, block = divmod(first + i, blocks)
            _helpers(left, right, found, row * DEGREE * width + block * LANES, width, scratch, LANES * (1 + _KEPT * i))


@intrinsic
def _plain(_context: Any, x: Any, at: Any, apart: Any, found: Any) -> Any:
    """Plain coordinates of the LANES elements at ``at``, coordinate after coordinate."""
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        x, at, apart, found = (vectors.pointer(context, b, kind, each) if isinstance(kind, types.Array) else each
                               for kind, each in zip(signature.args, arguments, strict=True))
        one = vectors.halves(b, vectors.constant(1))
        of_f.store(b, [vectors.multiply(b, v, one) for v in of_f.load(b, x, at, apart)], found, _word(0), _word(LANES))
        return context.get_dummy_value()

    return types.void(x, at, apart, found), generate


@njit(types.void(_GIVEN, types.intp, types.intp, types.intp, types.Array(types.uint32, 2, "C")), nogil=True, boundscheck=False, cache=True)
def plain_columns(x: np.ndarray, width: int, start: int, end: int, found: np.ndarray) -> None:
    """Of rows ``start`` to ``end`` of [N, 5, W], flat, what is committed: plain, each feature's five coordinates next to each other, [N, 5 F]."""
    features = found.shape[1] // DEGREE
    scratch = np.empty(DEGREE * LANES, np.uint32)
    for row in range(start, end):
        for feature in range(0, features, LANES):
            _plain(x, row * DEGREE * width + feature, width, scratch)
            for lane in range(min(LANES, features - feature)):
                for k in range(DEGREE):
                    found[row, (feature + lane) * DEGREE + k] = scratch[k * LANES + lane]
