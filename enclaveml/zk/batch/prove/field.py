"""Arithmetic modulo p on arrays, for numpy and inside JAX alike.

Elements are uint32 in [0, p). An array is *in Montgomery form* where it holds x R mod p for x, R = 2^32. A product
of two elements is reduced to x y / R: a constant in Montgomery form times plain data is plain, and two factors in
Montgomery form give one in Montgomery form (Montgomery 1985, "Modular multiplication without trial division").
JAX needs 64-bit types for this: the caller enables them (``api``).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from enclaveml.zk.batch.format import P

#: R and R^2 modulo p, and 1 / p modulo R.
R1 = (1 << 32) % P
R2 = R1 * R1 % P
P_INVERSE = pow(P, -1, 1 << 32)

#: An array of numpy or of JAX.
Array = Any

_P32 = np.uint32(P)
_P64 = np.uint64(P)
_INVERSE32 = np.uint32(P_INVERSE)
_SHIFT = np.uint64(32)


def library(x: Array) -> ModuleType:
    """numpy for its arrays, else jax.numpy: what is in this module works on either."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def below_p(x: Array) -> Array:
    """x modulo p for uint32 x < 2 p: the wrapped difference is the larger number where x < p."""
    return library(x).minimum(x, x - _P32)


def add(x: Array, y: Array) -> Array:
    """x + y."""
    return below_p(x + y)


def subtract(x: Array, y: Array) -> Array:
    """x - y."""
    difference = x - y
    return library(difference).minimum(difference, difference + _P32)


def wide(x: Array) -> Array:
    """x as uint64, for products: up to four of them fit in a sum."""
    return x.astype(np.uint64)


def reduce_small(t: Array) -> Array:
    """t / R modulo p for uint64 t < 2^32 p, which two products are below."""
    high = (t >> _SHIFT).astype(np.uint32)
    m = t.astype(np.uint32) * _INVERSE32
    return subtract(high, ((wide(m) * _P64) >> _SHIFT).astype(np.uint32))


def reduce(t: Array) -> Array:
    """t / R modulo p for any uint64 t: its upper half is brought below p first."""
    high = below_p(below_p((t >> _SHIFT).astype(np.uint32)))
    m = t.astype(np.uint32) * _INVERSE32
    return subtract(high, ((wide(m) * _P64) >> _SHIFT).astype(np.uint32))


def multiply(x: Array, y: Array) -> Array:
    """x y / R."""
    return reduce_small(wide(x) * wide(y))


def to_montgomery(x: Array) -> Array:
    """x R for plain x."""
    return reduce_small(wide(x) * np.uint64(R2))


def from_montgomery(x: Array) -> Array:
    """Plain x for x R."""
    return reduce_small(wide(x))


def from_signed(x: Array) -> Array:
    """Integers of int32 in (-p, p) as elements of the field."""
    return library(x).where(x < 0, x + np.int32(P), x).astype(np.uint32)


def montgomery_int(x: int) -> int:
    """x R for an integer."""
    return x * R1 % P


def power(x: Array, exponent: int) -> Array:
    """x^exponent (exponent >= 1), x and the result in Montgomery form."""
    result = x
    for bit in bin(exponent)[3:]:
        result = multiply(result, result)
        if bit == "1":
            result = multiply(result, x)
    return result


def inverse(x: Array) -> Array:
    """1 / x, 0 for 0; x and the result in Montgomery form."""
    return power(x, P - 2)
