"""The batch prover's arithmetic against Python integers: in numpy, and jitted where that is another way."""

from __future__ import annotations

import importlib.util
import random
import sys
from types import ModuleType

import jax
import numpy as np
import pytest
from batch_reference.numbers import F
from batch_reference.numbers import eq as reference_eq
from batch_reference.numbers import evaluate, interpolate
from batch_reference.trees import codeword

from enclaveml.zk.batch.format import DEGREE, P
from enclaveml.zk.batch.prove import code, extension, field, kernels, linear, multilinear, polynomial

#: Where reductions go wrong first.
EDGES = [0, 1, 2, field.R1, field.R2, (P - 1) // 2, P - 2, P - 1]


def numbers(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [*EDGES, *(draw.randrange(P) for _ in range(count - len(EDGES)))]


def elements(count: int, seed: int) -> list[F]:
    draw = random.Random(seed)
    edges = [F(*[edge] * DEGREE) for edge in EDGES]
    return [*edges, *(F(*(draw.randrange(P) for _ in range(DEGREE))) for _ in range(count - len(edges)))]


def array(values: list[F]) -> tuple[np.ndarray, ...]:
    return multilinear.from_plain(np.array([value.c for value in values], np.uint32))


def back(values: extension.Extended) -> list[F]:
    return [F(*row) for row in extension.plain(values).tolist()]


def test_the_field_s_operations_are_those_of_integers() -> None:
    x, y = (np.array(numbers(64, seed), np.uint32) for seed in (1, 2))
    x, y = np.repeat(x, 64), np.tile(y, 64)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    inverse = pow(field.R1, -1, P)
    assert field.add(x, y).tolist() == [(a + b) % P for a, b in pairs]
    assert field.subtract(x, y).tolist() == [(a - b) % P for a, b in pairs]
    assert field.multiply(x, y).tolist() == [a * b * inverse % P for a, b in pairs]
    assert field.to_montgomery(x).tolist() == [a * field.R1 % P for a in x.tolist()]
    assert field.from_montgomery(field.to_montgomery(x)).tolist() == x.tolist()


@pytest.mark.parametrize("t", [0, 1, P, 2**32 - 1, 2**32 * P - 1, 2**32 * P, 4 * (P - 1) ** 2, 2**63, 2**64 - 1])
def test_any_sum_of_products_is_reduced(t: int) -> None:
    expected = t * pow(2**32, -1, P) % P
    assert field.reduce(np.array([t], np.uint64)).tolist() == [expected]
    if t < 2**32 * P:
        assert field.reduce_small(np.array([t], np.uint64)).tolist() == [expected]


def test_signed_integers_are_elements() -> None:
    values = [0, 1, -1, 1 - P, P - 1, -128, 2**29]
    assert field.from_signed(np.array(values, np.int32)).tolist() == [value % P for value in values]


def test_inverses_in_the_field() -> None:
    x = np.array([value for value in numbers(64, 3) if value], np.uint32)
    product = field.multiply(field.inverse(field.to_montgomery(x)), field.to_montgomery(x))
    assert field.from_montgomery(product).tolist() == [1] * len(x)


def test_the_extension_s_operations_are_those_of_polynomials() -> None:
    left, right = elements(64, 4), elements(64, 5)[::-1]
    x, y = array(left), array(right)
    assert back(extension.multiply(x, y)) == [a * b for a, b in zip(left, right, strict=True)]
    assert back(extension.add(x, y)) == [a + b for a, b in zip(left, right, strict=True)]
    assert back(extension.subtract(x, y)) == [a - b for a, b in zip(left, right, strict=True)]
    units = [value for value in left if value != F(0)]
    assert back(extension.inverse(array(units))) == [value.inverse() for value in units]
    assert [F(*extension.times(a.c, b.c)) for a, b in zip(left, right, strict=True)] == back(extension.multiply(x, y))
    assert [F(*polynomial.inverse(value.c)) for value in units] == [value.inverse() for value in units]


def test_jitted_products_and_inverses_are_numpy_s() -> None:
    """Their sums of products and their inversion go another way than numpy's."""
    left, right = elements(64, 6), elements(64, 7)
    left = [value + 3 * (value == F(0)) for value in left]
    x, y = (tuple(v.reshape(8, 8) for v in array(values)) for values in (left, right))
    with jax.enable_x64(True):
        product = [np.asarray(v) for v in kernels.multiply(x, y)]
        others, inverse = kernels.inverted(x)
        found = [np.asarray(v) for v in kernels.scale(others, inverse)]
    assert all((a == b).all() for a, b in zip(product, extension.multiply(x, y), strict=True))
    assert all((a == b).all() for a, b in zip(found, extension.inverse(x), strict=True))


@pytest.mark.parametrize("length", [4, 8, 32])
def test_codewords_are_the_polynomials_values(length: int) -> None:
    """Lengths that need steps of two and of four."""
    columns = np.array([numbers(length + len(EDGES), seed)[len(EDGES):] for seed in (8, 9, 10)], np.uint32).T
    cosets = [code.coset_values(columns, code.scale_powers(length, c)) for c in range(4)]
    found = np.stack(cosets, axis=1).reshape(4 * length, 3)
    assert found.T.tolist() == [list(codeword(column)) for column in columns.T.tolist()]
    with jax.enable_x64(True):
        assert (np.asarray(kernels.coset_values(columns, code.scale_powers(length, 3))) == cosets[3]).all()


def test_tables_of_eq_and_evaluation() -> None:
    values = elements(8, 12)
    point = [value.c for value in elements(12, 13)[-3:]]
    table = multilinear.eq_table(point)
    assert back(table) == [reference_eq([F(*t) for t in point], i) for i in range(8)]
    assert [back(suffix) for suffix in multilinear.eq_suffixes(point)] == [
        back(multilinear.eq_table(point[k:])) for k in range(4)]
    assert F(*multilinear.inner(table, array(values))) == evaluate(values, [F(*t) for t in point])


@pytest.mark.parametrize("high", [2**20, 2**29])
def test_combinations_of_integers_are_exact(high: int) -> None:
    """Values of q's size, and those of outputs, which take two parts; both ends."""
    draw = random.Random(14)
    values = [[draw.choice([-high, high - 1, draw.randrange(-high, high)]) for _ in range(3)] for _ in range(16)]
    coefficients = elements(16, 15)
    assert back(linear.combination(np.array(values, np.int32), array(coefficients))) == [
        sum((c * row[j] for c, row in zip(coefficients, values, strict=True)), F(0)) for j in range(3)]


def test_polynomials_from_their_values() -> None:
    values, r = elements(16, 16)[-5:], F(1, 2, 3, 4, 5)
    assert F(*polynomial.interpolated([value.c for value in values], r.c)) == interpolate(values, r)
    cubic = [interpolate(values[:4], F(x)) for x in range(5)]
    lead = (values[3] - 3 * values[2] + 3 * values[1] - values[0]) * pow(6, -1, P)
    assert [F(*value) for value in polynomial.cubic(*(value.c for value in cubic[:3]), lead.c)] == cubic[3:]


_NUMBA = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba is in the extra fast")


@_NUMBA
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 33])
@pytest.mark.parametrize("ones", [False, True])
def test_products_of_vectors_are_those_without(count: int, ones: bool) -> None:
    """Every number of lanes, and one factor for all; numbers at random, and the largest, whose sums of products pass 2^64."""
    draw = np.random.default_rng(count)
    assert extension.vectors() is not None
    for low in (0, P - 2):
        x = draw.integers(low, P, (DEGREE, count), np.uint32)
        y = draw.integers(low, P, (DEGREE, 1 if ones else count), np.uint32)
        assert (extension.multiply(x, y) == extension.multiply_plainly(x, y)).all()
        assert (extension.multiply(y, x) == extension.multiply_plainly(x, y)).all()


@_NUMBA
def test_products_of_arrays_of_other_shapes() -> None:
    draw = np.random.default_rng(5)
    shapes = ((3, 4), (4,)), ((2, 3, 1), (1, 1, 5)), ((6,), (1,)), ((2, 1), (2, 3))
    for one, other in shapes:
        x, y = (draw.integers(0, P, (DEGREE, *shape), np.uint32) for shape in (one, other))
        axes = max(x.ndim, y.ndim)
        expected = extension.multiply_plainly(*(v.reshape(DEGREE, *(1,) * (axes - v.ndim), *v.shape[1:]) for v in (x, y)))
        found = extension.multiply(x, y)
        assert found.shape == expected.shape and found.dtype == np.uint32 and (found == expected).all()
        assert all((a == b).all() for a, b in zip(extension.multiply(tuple(x), tuple(y)), expected, strict=True))
    turned = draw.integers(0, P, (9, DEGREE), np.uint32).T  # strides of another order
    assert (extension.multiply(turned, turned) == extension.multiply_plainly(turned, turned)).all()


def test_vectors_that_are_wrong_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what fails when it is called: numpy multiplies then."""
    def failing(*arrays: np.ndarray) -> None:
        raise RuntimeError("no such cache")

    for kernel in (failing, lambda x, y, found: found.fill(1)):
        made = ModuleType("enclaveml.zk.batch.prove.products")
        made.multiply = kernel
        monkeypatch.setitem(sys.modules, made.__name__, made)
        extension.vectors.cache_clear()
        assert extension.vectors() is None
    extension.vectors.cache_clear()
