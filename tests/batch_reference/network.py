"""The integer network, and keys for it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from enclaveml.zk.batch.format import Layer, VerificationKey, Wiring

from .trees import Tree, codeword


@dataclass(eq=False)
class Step:
    """One layer's values, each [N][M]: z, and in hidden layers q, r, a."""

    z: list[list[int]]
    q: list[list[int]] = field(default_factory=list)
    r: list[list[int]] = field(default_factory=list)
    a: list[list[int]] = field(default_factory=list)


@dataclass(eq=False)
class Network:
    """weights: for each layer [K + 3][M'] int8, the last three rows the bias's limbs. shifts: 0 for the last layer.

    wirings, residuals: as the key's layers have them; none for dense layers. tables: a layer's activation, where it isn't ReLU.
    """

    weights: list[list[list[int]]]
    shifts: list[int]
    wirings: dict[int, tuple[Wiring, ...]] = field(default_factory=dict)
    residuals: dict[int, tuple[int, int]] = field(default_factory=dict)
    tables: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def random(cls, widths: list[int], shifts: list[int], seed: int = 0) -> Network:
        return cls.of([*zip(widths, widths[1:])], [*shifts, 0], {}, {}, seed)

    @classmethod
    def of(cls, shapes: list[tuple[int, int]], shifts: list[int], wirings: dict, residuals: dict, seed: int = 0) -> Network:
        """Random weights of layers K, M'; wirings and residuals by a layer's number."""
        draw = random.Random(seed)
        weights = [[[draw.randint(-128, 127) if k < inputs + 1 else draw.randint(-2, 1) if k == inputs + 1 else 0
                     for _ in range(outputs)] for k in range(inputs + 3)]
                   for inputs, outputs in shapes]
        return cls(weights, shifts, wirings, residuals)

    def columns(self, number: int) -> list[list[int]]:
        """Layer ``number`` (from 0) as columns of length n_l."""
        matrix = self.weights[number]
        length = 4
        while length < len(matrix):
            length *= 2
        return [[row[j] for row in matrix] + [0] * (length - len(matrix)) for j in range(len(matrix[0]))]

    def key(self, rows: int, low: int = -128, high: int = 127, range_bits: int = 10) -> VerificationKey:
        tables = tuple(dict.fromkeys(self.tables.values()))
        layers = tuple(Layer(len(matrix) - 3, len(matrix[0]), shift, self.wirings.get(number, ()), self.residuals.get(number),
                             tables.index(self.tables[number]) + 1 if number in self.tables else 0)
                       for number, (matrix, shift) in enumerate(zip(self.weights, self.shifts, strict=True), 1))
        roots = tuple(Tree([codeword(column) for column in self.columns(i)]).root for i in range(len(layers)))
        return VerificationKey(rows, low, high, layers, range_bits, roots, tables=tables)

    def reads(self, number: int, width: int) -> list[tuple[int, list[list[list[int]]]]]:
        """What layer ``number`` (from 1) reads: for each wiring its array, and for each position, for each k, which features are summed.

        width: features of the layer before it, which a dense layer reads.
        """
        found = []
        for w in self.wirings.get(number, (Wiring(number - 1, (1, 1, width)),)):
            (height, wide, channels), (tall, broad) = w.shape, w.pool
            top, left, bottom, right = w.pads
            positions = []
            for y in range(-top, height // tall + bottom - w.kernel[0] + 1, w.stride[0]):
                for x in range(-left, wide // broad + right - w.kernel[1] + 1, w.stride[1]):
                    positions.append([[((i * tall + di) * wide + j * broad + dj) * channels + c for di in range(tall) for dj in range(broad)
                                       if w.cell is None or w.cell == (di, dj)]
                                      if 0 <= i < height // tall and 0 <= j < wide // broad else []
                                      for i in range(y, y + w.kernel[0]) for j in range(x, x + w.kernel[1]) for c in range(channels)])
            found.append((w.source, positions))
        return found

    def sums(self, number: int, arrays: list[list[list[int]]]) -> list[list[int]]:
        """z of layer ``number`` (from 1), [N][M], of all rows' arrays: inputs, then activations."""
        matrix = self.weights[number - 1]
        read = self.reads(number, len(arrays[number - 1][0]))
        z = []
        for row in range(len(arrays[0])):
            found = []
            for position in zip(*(positions for _, positions in read)):
                given = [sum(arrays[source][row][u] for u in cell) for (source, _), cells in zip(read, position) for cell in cells]
                found += [sum(v * weights[j] for v, weights in zip([*given, 1, 2**8, 2**16], matrix, strict=True))
                          for j in range(len(matrix[0]))]
            if number in self.residuals:
                source, exponent = self.residuals[number]
                found = [v + 2**exponent * a for v, a in zip(found, arrays[source][row], strict=True)]
            z.append(found)
        return z

    def activation(self, number: int, q: int) -> int:
        """a of layer ``number`` (from 1)."""
        return looked_up(self.tables.get(number), q)

    def run(self, x: list[list[int]]) -> list[Step]:
        """Every layer's values on x [N][K]."""
        steps, arrays = [], [x]
        for number, shift in enumerate(self.shifts, 1):
            z = self.sums(number, arrays)
            if not shift:
                return [*steps, Step(z)]
            half = 1 << shift - 1
            q = [[v + half >> shift for v in row] for row in z]
            r = [[(v + half) % 2**shift for v in row] for row in z]
            arrays.append([[self.activation(number, v) for v in row] for row in q])
            steps.append(Step(z, q, r, arrays[-1]))
        raise AssertionError("the last layer has no shift")


def looked_up(table: tuple[int, ...] | None, q: int) -> int:
    """What a table makes of q; ReLU without one."""
    if table is None:
        return min(max(q, 0), 255)
    return table[min(max(q + len(table) // 2, 0), len(table) - 1)]


def fingerprints(key: VerificationKey) -> list[tuple[int, int, int]]:
    """Every entry of the lookups, in order: what 1, beta and beta^2 are multiplied with."""
    half = 2**key.range_bits
    found = [(q, looked_up(table, q), tag) for table, tag in zip((None, *key.tables), (0, *range(21, 35))) for q in range(-half, half)]
    return found + [(r, 0, s) for s in key.shifts for r in range(2**s)]


def tag(layer: Layer) -> int:
    """What beta^2 is multiplied with in the fingerprints of a layer's activation."""
    return layer.table + 20 if layer.table else 0


def inputs(rows: int, width: int, seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randint(-128, 127) for _ in range(width)] for _ in range(rows)]
