"""What is jitted: each function is one small program, compiled once a shape.

Small on purpose: JAX on CPU computes a chain of products over F again for each coordinate of its result when they are in one
program, so that products are programs of their own. Arrays are chunks of H rows and F features, uint32, elements of F five of them
in Montgomery form; single elements and constants are uint32 [5, ...] likewise.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from enclaveml.zk.batch.format import DEGREE, RESIDUE, P
from enclaveml.zk.batch.prove import code, extension, field
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.field import Array

#: Rows of a chunk that are inverted together.
TOGETHER = 8

on_device = jnp.asarray


def without_device() -> bool:
    """Whether JAX works on the CPU, where numba's kernels are quicker."""
    return jax.default_backend() == "cpu"


coset_values = jax.jit(code.coset_values)
multiply = jax.jit(extension.multiply)
add = jax.jit(extension.add)
subtract = jax.jit(extension.subtract)
scale = jax.jit(extension.scale)
frobenius = jax.jit(extension.frobenius, static_argnums=1)


@jax.jit
def denominators(q: Array, r: Array, a: Array, bases: Array, beta: Array, offsets: Array) -> tuple[Extended, Extended]:
    """A = base - q - beta a and B = offset - r for int32 [H, F]; bases and offsets uint32 [5, F]."""
    q, r, a = (field.to_montgomery(field.from_signed(values)) for values in (q, r, a))
    left = [field.subtract(jnp.broadcast_to(bases[k], a.shape), field.multiply(a, beta[k])) for k in range(DEGREE)]
    left[0] = field.subtract(left[0], q)
    right = [jnp.broadcast_to(offsets[k], r.shape) for k in range(DEGREE)]
    right[0] = field.subtract(right[0], r)
    return tuple(left), tuple(right)


@jax.jit
def table_denominators(values: Array, constants: Array) -> Extended:
    """alpha - v_0 - beta v_1 - beta^2 v_2 of int32 [3, H, F] and the three constants, uint32 [3, 5]."""
    v = field.to_montgomery(field.from_signed(values))
    found = [field.subtract(field.subtract(jnp.broadcast_to(constants[0, k], v.shape[1:]), field.multiply(v[1], constants[1, k])),
                            field.multiply(v[2], constants[2, k])) for k in range(DEGREE)]
    return (field.subtract(found[0], v[0]), *found[1:])


@jax.jit
def elements(*values: Array) -> list[Array]:
    """int32 [H, F] as elements of the field, plain."""
    return [field.from_signed(v) for v in values]


@jax.jit
def norm(x: Extended, others: Extended) -> Array:
    """Coordinate 0 of the product with the other conjugates, the only one that isn't 0."""
    wide = [field.wide(v) for v in others]
    terms = [field.wide(v) * (wide[0] if i == 0 else field.wide(field.add(others[DEGREE - i], others[DEGREE - i])))
             for i, v in enumerate(x)]
    return field.add(field.reduce(terms[0] + terms[1] + terms[2]), field.reduce_small(terms[3] + terms[4]))


@jax.jit
def running_products(x: Array) -> list[Array]:
    """x [H, F] as eighths x_0 .. x_7 of its rows: x_0, x_0 x_1, ..., x_0 .. x_7."""
    parts = jnp.split(x, TOGETHER)
    found = [parts[0]]
    for part in parts[1:]:
        found.append(field.multiply(found[-1], part))
    return found


@jax.jit
def apart(x: Array, products: list[Array], inverse: Array) -> list[Array]:
    """1 / x by eighths, from the running products and the inverse of the last (Montgomery's trick)."""
    parts = jnp.split(x, TOGETHER)
    found = []
    for i in range(TOGETHER - 1, 0, -1):
        found.append(field.multiply(inverse, products[i - 1]))
        inverse = field.multiply(inverse, parts[i])
    return [inverse, *reversed(found)]


join = jax.jit(jnp.concatenate)
invert = jax.jit(field.inverse)


def inverse(x: Array) -> Array:
    """1 / x for uint32 [H, F] without zeros."""
    if x.shape[0] % TOGETHER:
        return invert(x)
    products = running_products(x)
    return join(apart(x, products, invert(products[-1])))


def inverted(x: Extended) -> tuple[Extended, Array]:
    """y and c with 1 / x = y c, c in F_p: as ``extension.inverse``, in programs of their own."""
    once = frobenius(x, 1)
    pair = multiply(once, frobenius(once, 1))
    others = multiply(pair, frobenius(pair, 2))
    return others, inverse(norm(x, others))


@jax.jit
def plain(x: Extended) -> Extended:
    """Plain coordinates."""
    return tuple(field.from_montgomery(v) for v in x)


@jax.jit
def weighted(right: Extended, weights: Array) -> Extended:
    """w_j B for weights uint32 [5, F]."""
    return extension.multiply(right, extension.broadcast(weights))


@jax.jit
def with_last_rows(x: Extended, rows: Extended) -> Extended:
    """x with its last rows replaced by these, plain."""
    return tuple(jnp.concatenate([v[: len(v) - len(new)], field.to_montgomery(new)]) for v, new in zip(x, rows, strict=True))


@jax.jit
def linear_part(left: Extended, weights: Array, right: Extended) -> Extended:
    """sum_j w_j A + B' for each row: five uint32 [H]."""
    return extension.sum_last(extension.add(extension.multiply(left, extension.broadcast(weights)), right))


@jax.jit
def steps(low: Any, high: Any) -> tuple[Any, Any]:
    """Of any arrays: high - low, and 2 high - low, which is the value at 2."""
    step = jax.tree.map(field.subtract, high, low)
    return step, jax.tree.map(field.add, high, step)


@jax.jit
def fold(low: Any, high: Any, r: Array) -> Any:
    """low + r (high - low) of any elements of F."""
    def folded(x: Extended, y: Extended) -> Extended:
        step = extension.subtract(y, x)
        return extension.add(x, extension.multiply(step, extension.broadcast(r, step[0].ndim)))
    return jax.tree.map(folded, low, high, is_leaf=_is_element)


@partial(jax.jit, static_argnums=2)
def split(x: Any, half: Array, rows: int) -> tuple[Any, Any]:
    """Rows below ``half`` and the ``half`` rows from there, both extended by zeros to ``rows``; all from 2 half on are 0."""
    def low(v: Array) -> Array:
        inside = jnp.arange(rows) < half
        return jnp.where(inside.reshape((rows,) + (1,) * (v.ndim - 1)), _extended(v, rows)[:rows], np.uint32(0))

    def high(v: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(_extended(v, v.shape[0] + rows), half, rows)

    return jax.tree.map(low, x), jax.tree.map(high, x)


@jax.jit
def products(*pairs: tuple[Extended, Extended]) -> list[Extended]:
    """The product of each pair: none needs another's."""
    return [extension.multiply(x, y) for x, y in pairs]


@jax.jit
def brackets(helpers: list[Extended], products: list[Extended], lines: list[Extended], low: Extended, weights: list[tuple[Array, ...]]) -> Array:
    """sum_i eq(i) (sum_j h (A B')(i, j) - line(i)) of each, lines where there are any; last the sum of ``low`` where ``inside`` is 1.

    All that for each of ``weights``, eq and inside, six uint32 [H]: uint32 [weights, ., 5].
    """
    values = []
    for number, (h, product) in enumerate(zip(helpers, products, strict=True)):
        sums = extension.sum_last(extension.multiply(h, product))
        values.append(extension.subtract(sums, lines[number]) if number < len(lines) else sums)
    found = []
    for *eq, inside in weights:
        sums = [jnp.stack(extension.sum_last(extension.multiply(value, eq))) for value in values]
        found.append(jnp.stack([*sums, total(tuple(v * inside for v in low))]))
    return jnp.stack(found)


@jax.jit
def row_sums(x: Extended) -> Extended:
    """Sums over features: five uint32 [H]."""
    return extension.sum_last(x)


@jax.jit
def total(x: Extended) -> Array:
    """Sum of all entries: uint32 [5]."""
    return jnp.stack([(v.sum(dtype=np.uint64) % np.uint64(P)).astype(np.uint32) for v in x])


@jax.jit
def combined(planes: list[Array], coefficients: Array) -> Array:
    """sum over planes s and columns j of c_s[j] plane_s[:, j] / R: for uint32 [H, M] planes and coefficients [S, 10, M], uint32 [10, H].

    Four products fit in 64 bits; the halves of such sums are added up apart, for up to 2^32 of them.
    """
    found = []
    for k in range(coefficients.shape[1]):
        low = high = np.uint64(0)
        for start in range(0, len(planes), 4):
            chunk = sum(field.wide(plane) * field.wide(coefficients[start + s, k])
                        for s, plane in enumerate(planes[start : start + 4]))
            low = low + (chunk & np.uint64(0xFFFFFFFF))
            high = high + (chunk >> np.uint64(32))
        low, high = (v.sum(axis=-1, dtype=np.uint64) % np.uint64(P) for v in (low, high))
        found.append(field.reduce(low + high * np.uint64(field.R1)))
    return jnp.stack(found)


def _extended(v: Array, rows: int) -> Array:
    return jnp.pad(v, [(0, max(0, rows - v.shape[0]))] + [(0, 0)] * (v.ndim - 1))


def _is_element(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == DEGREE and not isinstance(x[0], tuple)


assert RESIDUE == 2  # ``norm`` doubles
