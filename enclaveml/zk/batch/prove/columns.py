"""Columns and their coefficients as commitments have them: five columns, one a coordinate, for a feature over F."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from enclaveml.zk.batch.format import DEGREE, P, power_of_two
from enclaveml.zk.batch.prove import extension, field, kernels
from enclaveml.zk.batch.prove.chunks import CELLS, split
from enclaveml.zk.batch.prove.extension import Element, Extended
from enclaveml.zk.batch.prove.field import Array
from enclaveml.zk.batch.prove.parallel import Pool


def interleave(found: np.ndarray, x: Extended) -> None:
    """Write five uint32 [n, M], plain, into columns uint32 [n, 5 M]: for each feature its five coordinates."""
    apart = found.reshape(found.shape[0], -1, DEGREE)
    for k, v in enumerate(x):
        apart[:, :, k] = np.asarray(v)


def by_coordinate(c: Extended) -> list[Extended]:
    """X^d c for the five d: what the coordinates of features over F are combined with."""
    return [times_element(c, tuple(int(k == d) for k in range(DEGREE))) for d in range(DEGREE)]


def apart(gamma: Extended) -> list[Extended]:
    """Coefficients of interleaved columns, five uint32 [5 M], by coordinate: five uint32 [M] each."""
    return [tuple(v[d::DEGREE] for v in gamma) for d in range(DEGREE)]


def times_element(x: Extended, c: Element) -> Extended:
    """x c for one element c."""
    return extension.multiply(x, extension.broadcast(extension.constant(c), 1))


def joined(parts: Sequence[Extended]) -> Extended:
    """Coefficients after each other."""
    return tuple(np.concatenate([part[k] for part in parts]) for k in range(DEGREE))


def coefficients(pairs: Sequence[tuple[Extended, Extended]], montgomery: Sequence[bool]) -> np.ndarray:
    """What ``kernels.combined`` takes, uint32 [S, 10, M], of a (gamma, theta) for each plane.

    The coefficients of planes in Montgomery form have to be plain, so that either product is.
    """
    return np.stack([np.stack([field.from_montgomery(v) if plane else v for v in (*gamma, *theta)])
                     for (gamma, theta), plane in zip(pairs, montgomery, strict=True)])


def combine(chunks: Sequence[list[Array]], given: np.ndarray, threads: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Of the planes of every chunk of rows the two combinations: plain uint32 [n, 5] each."""
    parts = threads.map(lambda planes: np.asarray(kernels.combined(planes, given)), chunks)
    sums = np.concatenate(parts, axis=1)
    return sums[:DEGREE].T, sums[DEGREE:].T


def combined(values: np.ndarray, gamma: Extended, theta: Extended, threads: Pool) -> tuple[np.ndarray, np.ndarray]:
    """The two combinations of columns uint32 [n, c], plain, or int32 in (-p, p): plain uint32 [n, 5] each."""
    given = coefficients([(gamma, theta)], [False])
    kernel = vectors() if kernels.without_device() else None
    if kernel is None:
        plain = field.from_signed(values.view(np.int32))
        size = min(len(values), power_of_two(-(-CELLS // values.shape[1])))
        return combine([[plain[start : start + size]] for start in range(0, len(values), size)], given, threads)
    found = np.empty((len(values), 2 * DEGREE), np.uint32)
    rows = np.ascontiguousarray(values).view(np.uint32)
    split(threads, len(rows), rows.shape[1], lambda start, end: kernel(rows, start, end, given[0], found))
    return found[:, :DEGREE], found[:, DEGREE:]


@cache
def vectors() -> Callable[[np.ndarray, int, int, np.ndarray, np.ndarray], None] | None:
    """``combination_kernel.combine``; None where it cannot be imported, or not called, for whatever reason, or gives something else."""
    x, c = ((np.arange(first, first + rows * 75, dtype=np.uint32).reshape(rows, 75) * np.uint32(40503)) % np.uint32(P)
            for first, rows in ((1, 3), (7, 2 * DEGREE)))
    found = np.empty((3, 2 * DEGREE), np.uint32)
    try:
        from enclaveml.zk.batch.prove.combination_kernel import combine as combine_vectors

        combine_vectors(x, 0, 3, c, found)
    except Exception:  # no numba; or its own errors, which share no class; or a cache that a crash has cut
        return None
    products = x.astype(np.uint64)[:, None] * c.astype(np.uint64) % np.uint64(P)
    right = field.from_montgomery((products.sum(axis=-1) % np.uint64(P)).astype(np.uint32))
    return combine_vectors if (found == right).all() else None
