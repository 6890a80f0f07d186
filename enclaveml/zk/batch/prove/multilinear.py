"""Multilinear extensions: tables of eq, folding, and small sum-checks' arithmetic, on arrays in Montgomery form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension, field
from enclaveml.zk.batch.prove.extension import ONE, Element, Extended


def eq_table(point: Sequence[Element]) -> Extended:
    """eq(point, i) for i = 0 .. 2^n - 1: five uint32 [2^n]. The first coordinate belongs to the highest bit."""
    return eq_suffixes(point)[0]


def eq_suffixes(point: Sequence[Element]) -> list[Extended]:
    """For k = 0 .. n the table of eq of the coordinates from k on: five uint32 [2^(n-k)] each."""
    found = [extension.broadcast(extension.constant(ONE), 1)]
    for t in reversed(point):
        high = extension.multiply(found[-1], extension.broadcast(extension.constant(t), 1))
        low = extension.subtract(found[-1], high)
        found.append(tuple(np.concatenate([a, b]) for a, b in zip(low, high, strict=True)))
    return found[::-1]


def halves(x: Extended) -> tuple[Extended, Extended]:
    """Entries whose highest bit is 0, and those where it is 1."""
    middle = x[0].shape[0] // 2
    return tuple(a[:middle] for a in x), tuple(a[middle:] for a in x)


def pad(x: Extended, length: int) -> Extended:
    """x extended by zeros."""
    return tuple(np.concatenate([a, np.zeros(length - len(a), np.uint32)]) for a in x)


def total(x: Extended) -> Element:
    """Sum of all entries, as integers."""
    return extension.element(extension.sum_last(x))


def inner(x: Extended, y: Extended) -> Element:
    """Sum of x y."""
    return total(extension.multiply(x, y))


def embedded(values: np.ndarray) -> Extended:
    """uint32 in [0, p) as elements of F."""
    zero = np.zeros_like(values)
    return (field.to_montgomery(values),) + (zero,) * (DEGREE - 1)


def from_plain(values: np.ndarray) -> Extended:
    """Of plain coordinates uint32 [..., 5] the array over F."""
    return tuple(field.to_montgomery(np.ascontiguousarray(values[..., k])) for k in range(DEGREE))
