"""The integer network that a batch proof is about, in plain numpy: the reference for quantiser and prover, bit for bit.

PROTOCOL.md, "Statement", has the arithmetic. Letters: N rows, K inputs and M outputs of a layer, D outputs of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclaveml.zk.batch.format import (
    ACTIVATION_MAX,
    BIAS_CONSTANTS,
    WEIGHT_HIGH,
    WEIGHT_LOW,
    Layer,
    P,
    VerificationKey,
    Wiring,
    bits,
)
from enclaveml.zk.batch.patches import products

#: The biases that three int8 limbs can say.
BIAS_LOW, BIAS_HIGH = WEIGHT_LOW * sum(BIAS_CONSTANTS), WEIGHT_HIGH * sum(BIAS_CONSTANTS)

#: Inputs are int16.
INPUT_LOW, INPUT_HIGH = -(2**15), 2**15 - 1


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer as it is committed: ``matrix`` (K + 3, M') int8, the weights and below them the bias's three limbs.

    shift: s of the rescaling after it; 0 in the last layer, which has none. wirings, residual: as in a key. table: its activation, as one of
    a key's tables; () for ReLU. units: what a quotient and a number of the table stand for in the float layer's sums and values; no key has it.
    """

    matrix: np.ndarray
    shift: int
    wirings: tuple[Wiring, ...] = ()
    residual: tuple[int, int] | None = None
    table: tuple[int, ...] = ()
    units: tuple[float, float] = (1.0, 1.0)

    @property
    def weights(self) -> np.ndarray:
        """(K, M') float64: products and sums of these integers are exact in it."""
        return self.matrix[: -len(BIAS_CONSTANTS)].astype(np.float64)

    @property
    def bias(self) -> np.ndarray:
        """(M',) int64."""
        return np.array(BIAS_CONSTANTS, np.int64) @ self.matrix[-len(BIAS_CONSTANTS) :].astype(np.int64)

    @property
    def shape(self) -> Layer:
        """What a key says of it, but for which of the key's tables its own is."""
        return Layer(self.matrix.shape[0] - len(BIAS_CONSTANTS), self.matrix.shape[1], self.shift, self.wirings, self.residual)

    def reads(self, number: int) -> tuple[Wiring, ...]:
        """The wirings of layer ``number``, from 1, a dense layer's too."""
        return self.wirings or (Wiring(number - 1, (1, 1, self.matrix.shape[0] - len(BIAS_CONSTANTS))),)

    def sums(self, number: int, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """z, (N, M) int64, of the arrays (N, features) of integers before layer ``number``: the inputs, then activations."""
        found = products(self.reads(number), arrays, self.weights).astype(np.int64).reshape(len(arrays[0]), -1, self.matrix.shape[1])
        found = (found + self.bias).reshape(len(arrays[0]), -1)
        if self.residual is None:
            return found
        source, exponent = self.residual
        return found + (arrays[source].astype(np.int64) << exponent)

    def activated(self, z: np.ndarray) -> np.ndarray:
        """a of the layer's sums z, in int64."""
        return activated(z, self.shift, self.table)

    @property
    def range(self) -> tuple[int, int]:
        """The least and the largest activation."""
        return (min(self.table), max(self.table)) if self.table else (0, ACTIVATION_MAX)

    def extremes(self, number: int, ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The least and the largest z that arrays within these ranges, (low, high) each, can give."""
        least, most, start = self.bias, self.bias, 0
        for wiring in self.reads(number):
            weights = self.weights[start : start + wiring.inputs]
            negative, positive = np.minimum(weights, 0).sum(axis=0), np.maximum(weights, 0).sum(axis=0)
            low, high = (wiring.window * value for value in ranges[wiring.source])
            if any(wiring.pads):
                low, high = min(low, 0), max(high, 0)
            least = least + negative * high + positive * low
            most = most + positive * high + negative * low
            start += wiring.inputs
        low, high = (value << self.residual[1] for value in ranges[self.residual[0]]) if self.residual else (0, 0)
        return int(least.min()) + low, int(most.max()) + high


def layer(weights: np.ndarray, bias: np.ndarray, shift: int, wirings: tuple[Wiring, ...] = (),
          residual: tuple[int, int] | None = None, table: tuple[int, ...] = ()) -> IntegerLayer:
    """A layer of weights (K, M') and biases (M',) of whole numbers. Raises ValueError where one is out of its range."""
    weights, bias = np.asarray(weights), np.asarray(bias).astype(np.int64)
    if weights.min() < WEIGHT_LOW or weights.max() > WEIGHT_HIGH:
        raise ValueError(f"weights from {weights.min():g} to {weights.max():g}; {WEIGHT_LOW} to {WEIGHT_HIGH} are int8")
    if bias.min() < BIAS_LOW or bias.max() > BIAS_HIGH:
        raise ValueError(f"biases from {bias.min()} to {bias.max()}; {BIAS_LOW} to {BIAS_HIGH} are three limbs")
    return IntegerLayer(np.concatenate([weights, limbs(bias)]).astype(np.int8), shift, wirings, residual, table)


def limbs(bias: np.ndarray) -> np.ndarray:
    """(3, M) int8 with bias = b0 + 256 b1 + 65536 b2; bias (M,) int64 within BIAS_LOW to BIAS_HIGH."""
    found, rest = [], bias
    for _ in BIAS_CONSTANTS[:-1]:
        low = (rest + 128) % 256 - 128
        found.append(low)
        rest = (rest - low) // 256
    return np.stack([*found, rest]).astype(np.int8)


def rescale(z: np.ndarray, shift: int) -> np.ndarray:
    """q of the sums z, rounded to the nearest (halves up): (z + 2^(s-1)) >> s, in int64."""
    return (z + (1 << (shift - 1))) >> shift


def activated(z: np.ndarray, shift: int, table: tuple[int, ...] = ()) -> np.ndarray:
    """a of the sums z, in int64: rescaled, and cut to 0 and 255, or what the table makes of it."""
    if not table:
        return np.clip(rescale(z, shift), 0, ACTIVATION_MAX)
    half = len(table) // 2
    return np.array(table, np.int64)[np.clip(rescale(z, shift), -half, half - 1) + half]


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """A network on whole numbers that stand for others by powers of two.

    An input x stands as round(x 2^input_scale), within [input_low, input_high]; an output y for y / 2^output_scale.
    ``range_bits``: R, with -2^R <= q < 2^R in every hidden layer for every input within the range.
    """

    layers: tuple[IntegerLayer, ...]
    input_scale: int
    output_scale: int
    input_low: int
    input_high: int

    def quantise(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, *row_shape) as whole numbers (N, K) int64, halves to even; those out of int64 are its ends."""
        return quantised(rows, self.input_scale)

    def within(self, x: np.ndarray) -> np.ndarray:
        """Which rows of x (N, K) the model takes, (N,) bool."""
        return ((x >= self.input_low) & (x <= self.input_high)).all(axis=1)

    def run(self, x: np.ndarray) -> np.ndarray:
        """y (N, D) int64 of x (N, K) within the range. Raises ValueError for rows that are not."""
        if not self.within(x).all():
            raise ValueError(f"an input is out of [{self.input_low}, {self.input_high}]")
        arrays = [x]
        for number, each in enumerate(self.layers[:-1], 1):
            arrays.append(each.activated(each.sums(number, arrays)))
        return self.layers[-1].sums(len(self.layers), arrays)

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """What the model says of float rows (N, *row_shape), (N, D) float64; inputs out of range are cut to it."""
        return self.run(np.clip(self.quantise(rows), self.input_low, self.input_high)) * 2.0**-self.output_scale

    @property
    def range_bits(self) -> int:
        ranges, found = [(self.input_low, self.input_high)], 0
        for number, each in enumerate(self.layers[:-1], 1):
            least, most = (int(rescale(np.int64(z), each.shift)) for z in each.extremes(number, ranges))
            found = max(found, most.bit_length(), (-least - 1).bit_length() if least < 0 else 0)
            found = max(found, bits(len(each.table)) - 1 if each.table else 0)
            ranges.append(each.range)
        return found

    def key(self, rows: int, roots: tuple[bytes, ...], masks: int = 0, weight_rows: int = 0) -> VerificationKey:
        """The verification key of proofs of so many rows, ``masks`` of them mask rows; ``weight_rows``: of the columns of hidden weights.
        Raises ValueError where the protocol has no such key."""
        tables = tuple(dict.fromkeys(each.table for each in self.layers if each.table))
        shapes = tuple(replace(each.shape, table=tables.index(each.table) + 1 if each.table else 0) for each in self.layers)
        return VerificationKey(rows, self.input_low, self.input_high, shapes, self.range_bits, roots, masks, tables, weight_rows)


def quantised(rows: np.ndarray, scale: int) -> np.ndarray:
    """round(x 2^scale), halves to even, of rows (N, *row_shape): (N, K) int64. NaN and what is beyond int32 become -2^31."""
    scaled = np.rint(rows.reshape(len(rows), -1).astype(np.float64) * 2.0**scale)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(scaled) < 2.0**31, scaled, -(2.0**31)).astype(np.int64)


def largest_input(inputs: int) -> int:
    """The largest magnitude of inputs with which a layer of so many cannot wrap modulo p (PROTOCOL.md, "Statement")."""
    room = P // 2 - 1 + WEIGHT_LOW * sum(BIAS_CONSTANTS)
    return min(INPUT_HIGH, room // (-WEIGHT_LOW * inputs))


def fits(model: IntegerModel) -> str:
    """Why the protocol has no key for a model; "" where it has."""
    try:
        model.key(4, (bytes(32),) * len(model.layers))
    except ValueError as error:
        return str(error)
    return ""
