"""Columns and their coefficients as commitments have them: five columns, one a coordinate, for a feature over F."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import DEGREE
from enclaveml.zk.batch.prove import extension
from enclaveml.zk.batch.prove.extension import Element, Extended


def interleaved(x: Extended) -> np.ndarray:
    """Columns uint32 [n, 5 M], plain, of five uint32 [n, M]: for each feature its five coordinates."""
    return extension.plain(x).reshape(x[0].shape[0], -1)


def coordinate_coefficients(c: Extended) -> Extended:
    """Coefficients of the columns of features over F: X^d c_j for coordinate d of feature j, five uint32 [5 M]."""
    by_coordinate = [times_element(c, tuple(int(k == d) for k in range(DEGREE))) for d in range(DEGREE)]
    return tuple(np.stack([v[k] for v in by_coordinate], axis=-1).reshape(-1) for k in range(DEGREE))


def times_element(x: Extended, c: Element) -> Extended:
    """x c for one element c."""
    return extension.multiply(x, extension.broadcast(extension.constant(c), 1))


def joined(parts: Sequence[Extended]) -> Extended:
    """Coefficients after each other."""
    return tuple(np.concatenate([part[k] for part in parts]) for k in range(DEGREE))
