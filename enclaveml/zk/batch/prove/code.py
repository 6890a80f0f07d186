"""The Reed-Solomon code of rate 1/4 (PROTOCOL.md, "Commitment"): all columns of a matrix at once.

The values at w^(4k + c), k = 0 .. n - 1, are the transform of length n of the coefficients times w^(c i). It is Stockham's
(natural order in and out, no bit reversal): every step reads and writes whole runs along the columns, and its twiddle factors
are constant along them.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, GENERATOR, P
from enclaveml.zk.batch.prove import field
from enclaveml.zk.batch.prove.field import Array


def root_of_unity(length: int) -> int:
    """The generator of the group of the order ``length`` that the protocol uses."""
    return pow(GENERATOR, (P - 1) // length, P)


@cache
def powers(length: int, step: int, count: int) -> np.ndarray:
    """w^(step i), i < count, w of the order ``length``: uint32 [count] in Montgomery form."""
    w, value, found = pow(root_of_unity(length), step, P), field.R1, []
    for _ in range(count):
        found.append(value)
        value = value * w % P
    return np.array(found, np.uint32)


def encode(columns: Array) -> Array:
    """Codewords uint32 [4n, C], plain, of coefficients uint32 [n, C], plain."""
    n, width = columns.shape
    xp = field.library(columns)
    cosets = [_transform(field.multiply(columns, powers(BLOWUP * n, c, n)[:, None])) for c in range(BLOWUP)]
    return xp.stack(cosets, axis=1).reshape(BLOWUP * n, width)


def _transform(x: Array) -> Array:
    """Values at w^0 .. w^(n-1) of coefficients uint32 [n, C]."""
    n, width = x.shape
    xp = field.library(x)
    run = 1
    while run < n:
        half = n // run // 2
        pairs = x.reshape(2, half, run * width)
        low, high = pairs[0], pairs[1]
        twiddles = powers(2 * half, 1, half)[:, None]
        x = xp.stack([field.add(low, high), field.multiply(field.subtract(low, high), twiddles)], axis=1)
        run *= 2
    return x.reshape(n, width)
