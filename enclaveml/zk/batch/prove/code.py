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


def scale_powers(length: int, coset: int) -> np.ndarray:
    """w^(c i), i < n, for the coset c, w of the order 4n: uint32 [n] in Montgomery form."""
    return powers(BLOWUP * length, coset, length)


def coset_values(columns: Array, scales: Array) -> Array:
    """Codewords' symbols 4k + c, k = 0 .. n - 1, of coefficients: uint32 [n, C] both, plain; ``scales`` are the coset's."""
    x = field.multiply(columns, scales[:, None])
    n, width = x.shape
    run = 1
    while run < n:
        x = (_radix_4 if n // run % 4 == 0 else _radix_2)(x, n // run, run * width)
        run *= 4 if n // run % 4 == 0 else 2
    return x.reshape(n, width)


def _radix_2(x: Array, length: int, run: int) -> Array:
    """One step where transforms of this length remain: halves, whose sums and differences are transformed apart."""
    low, high = x.reshape(2, length // 2, run)
    return _stacked(field.add(low, high), field.multiply(field.subtract(low, high), powers(length, 1, length // 2)[:, None]))


def _radix_4(x: Array, length: int, run: int) -> Array:
    """Two such steps at once: the array is read and written half as often."""
    quarter = length // 4
    a, b, c, d = x.reshape(4, quarter, run)
    twiddles = [powers(length, step, quarter)[:, None] for step in range(4)]
    sums, differences = (field.add(a, c), field.add(b, d)), (field.subtract(a, c), field.subtract(b, d))
    turned = field.multiply(differences[1], np.uint32(field.montgomery_int(root_of_unity(4))))
    return _stacked(field.add(*sums), field.multiply(field.add(differences[0], turned), twiddles[1]),
                    field.multiply(field.subtract(*sums), twiddles[2]),
                    field.multiply(field.subtract(differences[0], turned), twiddles[3]))


def _stacked(*parts: Array) -> Array:
    return field.library(parts[0]).stack(parts, axis=1)
