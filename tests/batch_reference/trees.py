"""Codewords and Merkle trees."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

import numpy as np

from enclaveml.zk.batch.format import P


@cache
def powers(w: int, count: int) -> list[int]:
    """w^0, w^1, ..."""
    result = [1]
    while len(result) < count:
        result.append(result[-1] * w % P)
    return result


def transform(coefficients: list[int], w: int) -> list[int]:
    """Values at w^0, w^1, ..., as many as coefficients (w of that order): Cooley and Tukey's recursion from its end, all parts of a step at once."""
    rows, values = len(coefficients), np.array(coefficients, np.int64)[:, None]
    while rows > 1:  # row j has the values of every rows-th coefficient from the j-th
        rows //= 2
        even, odd = values[:rows], values[rows:] * np.array(powers(pow(w, rows, P), values.shape[1])) % P
        values = np.concatenate([(even + odd) % P, (even - odd) % P], axis=1)
    return values[0].tolist()


def codeword(column: list[int]) -> list[int]:
    n = len(column)
    return transform([value % P for value in column] + [0] * (3 * n), pow(31, (P - 1) // (4 * n), P))


class Tree:
    """The tree over codewords [c][4n]."""

    def __init__(self, codewords: list[list[int]]) -> None:
        self.leaves = [b"".join(word[i].to_bytes(4, "little") for word in codewords) for i in range(len(codewords[0]))]
        self.levels = [[self.lowest(leaf, position) for position, leaf in enumerate(self.leaves)]]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([sha256(b"\x01" + below[i] + below[i + 1]).digest() for i in range(0, len(below), 2)])

    def lowest(self, leaf: bytes, position: int) -> bytes:
        """The hash of a leaf."""
        return sha256(b"\x00" + leaf).digest()

    def record(self, position: int) -> bytes:
        """What an opening shows before the siblings."""
        return self.leaves[position]

    @property
    def root(self) -> bytes:
        return self.levels[-1][0]

    def opened(self, position: int) -> bytes:
        """The leaf and its siblings, the lowest first."""
        parts = [self.record(position)]
        for level in self.levels[:-1]:
            parts.append(level[position ^ 1])
            position >>= 1
        return b"".join(parts)
