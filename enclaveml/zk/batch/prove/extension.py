"""Arithmetic in F = F_p[X] / (X^5 - 2).

An array over F is a tuple of five arrays over F_p, its coordinates, all in Montgomery form unless said otherwise: apart,
because JAX on CPU vectorises no array that is written in pieces. A single element outside of arrays is a tuple of five
Python integers (plain, canonical).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from enclaveml.zk.batch.format import DEGREE, RESIDUE, P
from enclaveml.zk.batch.prove import field
from enclaveml.zk.batch.prove.field import Array

#: An array over F: five arrays of uint32, or one of numpy's whose first axis is the five.
Extended = tuple[Array, ...] | np.ndarray
#: One element: five integers in [0, p).
Element = tuple[int, ...]

ZERO: Element = (0,) * DEGREE
ONE: Element = (1,) + (0,) * (DEGREE - 1)

#: Subtracted from a sum of three products beyond 2^63, so that two more fit: a multiple of p just below 2^63.
_FOLD = np.uint64(((1 << 63) // P) * P)
_TOP = np.uint64(1 << 63)


def add(x: Extended, y: Extended) -> Extended:
    """x + y."""
    if isinstance(x, np.ndarray):
        return field.add(x, y)
    return tuple(field.add(a, b) for a, b in zip(x, y, strict=True))


def subtract(x: Extended, y: Extended) -> Extended:
    """x - y."""
    if isinstance(x, np.ndarray):
        return field.subtract(x, y)
    return tuple(field.subtract(a, b) for a, b in zip(x, y, strict=True))


def scale(x: Extended, c: Array) -> Extended:
    """x c for an array c over F_p in Montgomery form."""
    return tuple(field.multiply(a, c) for a in x)


def multiply(x: Extended, y: Extended) -> Extended:
    """x y: 25 products, one reduction a coordinate."""
    if isinstance(x[0], np.ndarray) and isinstance(y[0], np.ndarray):
        product = _multiply_numpy(x, y)
        return product if isinstance(x, np.ndarray) else tuple(product)
    wide_x = [field.wide(a) for a in x]
    wide_y = [field.wide(b) for b in y]
    doubled = [field.wide(field.add(b, b)) for b in y]
    return tuple(_coordinate(wide_x, wide_y, doubled, k) for k in range(DEGREE))


def _coordinate(x: list[Array], y: list[Array], doubled: list[Array], k: int) -> Array:
    """Coordinate k of a product: the five products of which it is the sum; X^5 = 2."""
    terms = [x[i] * (y[k - i] if i <= k else doubled[k + DEGREE - i]) for i in range(DEGREE)]
    first = terms[0] + terms[1] + terms[2]
    first = field.library(first).where(first >= _TOP, first - _FOLD, first)
    return field.reduce(first + terms[3] + terms[4])


def _multiply_numpy(x: Extended, y: Extended) -> np.ndarray:
    """x y of numpy's arrays, uint32 [5, ...]; the last axes of one may be missing from the other, or of length 1."""
    left, right = _stacked(x), _stacked(y)
    axes = max(left.ndim, right.ndim)
    left, right = (v.reshape(v.shape[:1] + (1,) * (axes - v.ndim) + v.shape[1:]) for v in (left, right))
    product = vectors()
    if product is None:
        return multiply_plainly(left, right)
    shape = np.broadcast_shapes(left.shape, right.shape)
    if left.size == DEGREE:
        left, right = right, left
    if left.shape != shape:
        left = np.broadcast_to(left, shape)
    if right.shape != shape and right.size != DEGREE:
        right = np.broadcast_to(right, shape)
    found = np.empty(shape, np.uint32)
    product(*(np.ascontiguousarray(v, np.uint32).reshape(DEGREE, -1) for v in (left, right)), found.reshape(DEGREE, -1))
    return found


def multiply_plainly(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The same, uint32 [5, ...] of as many axes, in few operations on large arrays: what each costs by itself is what small ones take
    long for."""
    left, right = left.astype(np.uint64), right.astype(np.uint64)
    products = left[:, None] * right[None]
    products %= np.uint64(P)
    sums = np.zeros((2 * DEGREE - 1,) + products.shape[2:], np.uint64)
    for i in range(DEGREE):
        sums[i : i + DEGREE] += products[i]
    sums[: DEGREE - 1] += sums[DEGREE:] * np.uint64(RESIDUE)
    return field.reduce_small(sums[:DEGREE])


@cache
def vectors() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None:
    """``products.multiply``; None where it cannot be imported, or not called, for whatever reason, or gives something else."""
    tried = np.stack([np.arange(P - 11, P, dtype=np.uint32) // (k + 1) for k in range(DEGREE)])
    found = np.empty_like(tried)
    try:
        from enclaveml.zk.batch.prove.products import multiply as multiply_vectors

        multiply_vectors(tried, tried, found)
    except Exception:  # no numba; or its own errors, which share no class; or a cache that a crash has cut
        return None
    return multiply_vectors if (found == multiply_plainly(tried, tried)).all() else None


def _stacked(x: Extended) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else np.stack(x)


def sum_last(x: Extended) -> Extended:
    """Sum along the last axis."""
    return tuple(_modulo(a.sum(axis=-1, dtype=np.uint64)) for a in x)


def _modulo(t: Array) -> Array:
    return (t % np.uint64(P)).astype(np.uint32)


def constant(c: Element) -> np.ndarray:
    """An element as uint32 [5] in Montgomery form, to be given to what is jitted."""
    return np.array([field.montgomery_int(v) for v in c], np.uint32)


def broadcast(c: Any, rank: int = 0) -> Extended:
    """Of uint32 [5, ...] the five coordinates, with ``rank`` axes of length 1 after theirs."""
    return tuple(c[k].reshape(c.shape[1:] + (1,) * rank) for k in range(DEGREE))


def element(x: Extended) -> Element:
    """The one element of an array of one, as integers."""
    return tuple(int(np.asarray(a).reshape(())) * pow(field.R1, -1, P) % P for a in x)


def plain(x: Extended) -> np.ndarray:
    """Plain coordinates as uint32 [..., 5]."""
    return np.stack([field.from_montgomery(np.asarray(a)) for a in x], axis=-1)


def to_bytes(*elements: Element) -> bytes:
    """Elements as a proof has them: five u32 each."""
    return np.array(elements, "<u4").tobytes()


def plus(x: Element, y: Element) -> Element:
    """x + y of single elements."""
    return tuple((a + b) % P for a, b in zip(x, y, strict=True))


def minus(x: Element, y: Element) -> Element:
    """x - y of single elements."""
    return tuple((a - b) % P for a, b in zip(x, y, strict=True))


def times(x: Element, y: Element) -> Element:
    """x y of single elements, written out: a proof takes a thousand of them."""
    a, b, c, d, e = x
    v, w, s, t, u = y
    return ((a * v + RESIDUE * (b * u + c * t + d * s + e * w)) % P, (a * w + b * v + RESIDUE * (c * u + d * t + e * s)) % P,
            (a * s + b * w + c * v + RESIDUE * (d * u + e * t)) % P, (a * t + b * s + c * w + d * v + RESIDUE * e * u) % P,
            (a * u + b * t + c * s + d * w + e * v) % P)


def powers(x: Element, count: int) -> list[Element]:
    """1, x, x^2, ... so many."""
    found = [ONE]
    while len(found) < count:
        found.append(times(found[-1], x))
    return found[:count]


def lift(c: int) -> Element:
    """An integer as an element."""
    return (c % P,) + ZERO[1:]


def frobenius(x: Extended, times: int) -> Extended:
    """x^(p^times): X^p = 2^((p-1)/5) X, so that every coordinate gets a constant."""
    z = pow(RESIDUE, (P - 1) // DEGREE * times, P)
    return tuple(a if k == 0 else field.multiply(a, np.uint32(field.montgomery_int(pow(z, k, P))))
                 for k, a in enumerate(x))


def inverse(x: Extended) -> Extended:
    """1 / x, 0 for 0: the product y of the other conjugates, over the norm x y in F_p (Itoh and Tsujii 1988)."""
    once = frobenius(x, 1)
    pair = multiply(once, frobenius(once, 1))
    others = multiply(pair, frobenius(pair, 2))
    norm = multiply(x, others)[0]
    return scale(others, field.inverse(norm))
