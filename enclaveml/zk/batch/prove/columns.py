"""Columns and their coefficients as commitments have them: five columns, one a coordinate, for a feature over F."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension, field, kernels
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
