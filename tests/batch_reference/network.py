"""The integer network, and keys for it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from enclaveml.zk.batch.format import Layer, VerificationKey

from .trees import Tree, codeword


@dataclass
class Step:
    """One layer's values, each [N][M]: z, and in hidden layers q, r, a."""

    z: list[list[int]]
    q: list[list[int]] = field(default_factory=list)
    r: list[list[int]] = field(default_factory=list)
    a: list[list[int]] = field(default_factory=list)


@dataclass
class Network:
    """weights: for each layer [K + 3][M] int8, the last three rows the bias's limbs. shifts: 0 for the last layer."""

    weights: list[list[list[int]]]
    shifts: list[int]

    @classmethod
    def random(cls, widths: list[int], shifts: list[int], seed: int = 0) -> Network:
        draw = random.Random(seed)
        weights = [[[draw.randint(-128, 127) if k < inputs + 1 else draw.randint(-2, 1) if k == inputs + 1 else 0
                     for _ in range(outputs)] for k in range(inputs + 3)]
                   for inputs, outputs in zip(widths, widths[1:])]
        return cls(weights, [*shifts, 0])

    def columns(self, number: int) -> list[list[int]]:
        """Layer ``number`` (from 0) as columns of length n_l."""
        matrix = self.weights[number]
        length = 4
        while length < len(matrix):
            length *= 2
        return [[row[j] for row in matrix] + [0] * (length - len(matrix)) for j in range(len(matrix[0]))]

    def key(self, rows: int, low: int = -128, high: int = 127, range_bits: int = 10) -> VerificationKey:
        layers = tuple(Layer(len(matrix) - 3, len(matrix[0]), shift)
                       for matrix, shift in zip(self.weights, self.shifts, strict=True))
        roots = tuple(Tree([codeword(column) for column in self.columns(i)]).root for i in range(len(layers)))
        return VerificationKey(rows, low, high, layers, range_bits, roots)

    def run(self, x: list[list[int]]) -> list[Step]:
        """Every layer's values on x [N][K]."""
        steps, values = [], x
        for matrix, shift in zip(self.weights, self.shifts):
            z = [[sum(v * matrix[k][j] for k, v in enumerate([*row, 1, 2**8, 2**16])) for j in range(len(matrix[0]))]
                 for row in values]
            if not shift:
                return [*steps, Step(z)]
            half = 1 << shift - 1
            q = [[v + half >> shift for v in row] for row in z]
            r = [[(v + half) % 2**shift for v in row] for row in z]
            values = [[min(max(v, 0), 255) for v in row] for row in q]
            steps.append(Step(z, q, r, values))
        raise AssertionError("the last layer has no shift")


def inputs(rows: int, width: int, seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randint(-128, 127) for _ in range(width)] for _ in range(rows)]
