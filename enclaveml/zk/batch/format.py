"""Constants of the batch protocol's format, and the verification key (PROTOCOL.md, "Statement").

Prover and verifier share this module and nothing else. No JAX here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

#: The field's prime, 15 * 2^27 + 1 (BabyBear), and a generator of its units.
P = 15 * 2**27 + 1
GENERATOR = 31

#: F = F_p[X] / (X^DEGREE - RESIDUE). 154.5 bits: lookups in the largest allowed batch lose 34 of them.
DEGREE = 5
RESIDUE = 2

#: Inverse rate of the Reed-Solomon code.
BLOWUP = 4

#: Positions opened in each tree: (5/8)^155 = 2^-105.1, so that 16 openings stay under 2^-101
#: (PROTOCOL.md, "Errors").
QUERIES = 155

#: First state of every transcript.
DOMAIN = b"enclaveml-batch-1"

#: Largest activation, and the range of a weight.
ACTIVATION_MAX = 255
WEIGHT_LOW, WEIGHT_HIGH = -128, 127

#: What the rows of a layer's matrix below the weights are multiplied with: the limbs of the bias.
BIAS_CONSTANTS = (1, 2**8, 2**16)

#: Most rows, layers and width: what the table of errors covers.
MOST_ROWS = 2**20
MOST_LAYERS = 15
MOST_WIDTH = 2**15
MOST_RANGE_BITS = 20

#: Most cells that the positions of one layer read, a position's inputs counted for each: what a verifier goes through a layer.
MOST_READS = 2**22
#: Most arrays that a layer reads, one repeated counted again.
MOST_WIRINGS = 15

#: Most inputs, and outputs, of a proof: what a verifier lays out in memory, some GB, whatever a key says.
MOST_VALUES = 2**28
MOST_SHIFT = 20

_FORMAT = "enclaveml-batch-key-1"
#: More than any key takes.
_MOST_BYTES = 2**14


@dataclass(frozen=True)
class Wiring:
    """How the positions of a layer read an array, ``source``: 0 the inputs, m the activations of hidden layer m.

    The array's features are a map ``shape`` (height, width, channels). It is summed over windows ``pool`` that do not overlap (rows and
    columns left over at its end are not read), ``pads`` zeros are put around it (top, left, bottom, right), and there is a position for each
    patch ``kernel`` of it every ``stride`` cells. PROTOCOL.md, "Wiring". A dense layer has one position, which reads the array in order.
    """

    source: int
    shape: tuple[int, int, int]
    pool: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def features(self) -> int:
        """Features of the array."""
        return math.prod(self.shape)

    @property
    def inputs(self) -> int:
        """What a position reads."""
        return math.prod(self.kernel) * self.shape[2]

    @property
    def window(self) -> int:
        """How many features are summed to what is read once."""
        return math.prod(self.pool)

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width of the summed map."""
        return self.shape[0] // self.pool[0], self.shape[1] // self.pool[1]

    @property
    def places(self) -> tuple[int, int]:
        """How many patches below and beside each other."""
        (height, width), (top, left, bottom, right) = self.pooled, self.pads
        return ((height + top + bottom - self.kernel[0]) // self.stride[0] + 1,
                (width + left + right - self.kernel[1]) // self.stride[1] + 1)

    @property
    def positions(self) -> int:
        """P."""
        return math.prod(self.places)

    @property
    def whole(self) -> bool:
        """Whether it is one position that reads the array as it is."""
        return self.kernel == self.pooled and self.window == 1 and not any(self.pads)

    @property
    def numbers(self) -> list[int]:
        """All of them."""
        return [self.source, *self.shape, *self.pool, *self.kernel, *self.stride, *self.pads]

    def check(self, number: int) -> None:
        """Raise ValueError where layer ``number`` could not be wired so."""
        sizes = self.shape, self.pool, self.kernel, self.stride, self.pads
        _need(all(type(size) is tuple for size in sizes) and [*map(len, sizes)] == [3, 2, 2, 2, 4],
              f"layer {number}: a wiring is not of the right form")
        _need(all(type(value) is int for value in self.numbers), "a size is not an integer")
        _need(0 <= self.source < number, f"layer {number} reads the array {_short(self.source)}: 0 to {number - 1} are there")
        _need(all(1 <= value <= MOST_WIDTH for size in sizes[:4] for value in size) and self.features <= MOST_WIDTH,
              f"layer {number}: a wiring's size is not 1 to {MOST_WIDTH}")
        # Of an axis: the kernel fits into the summed map and its zeros, and no patch is of zeros alone.
        for pooled, kernel, zeros in zip(self.pooled, self.kernel, (self.pads[::2], self.pads[1::2]), strict=True):
            _need(all(0 <= value < kernel for value in zeros), f"layer {number}: zeros around a map are 0 to the kernel's size less 1")
            _need(pooled >= 1 and kernel <= pooled + sum(zeros), f"layer {number}: a window is larger than the map")


@dataclass(frozen=True)
class Layer:
    """K ``inputs`` of a position, M' ``outputs`` of it, the ``shift`` s of the rescaling (0: the last layer).

    wirings: what a position reads, one after the other; () for a dense layer that reads the layer before it.
    residual: None, or (m, e): 2^e times array m is added to the sums.
    """

    inputs: int
    outputs: int
    shift: int
    wirings: tuple[Wiring, ...] = ()
    residual: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        """n: the length of a column of its weights, the power of two from K + 3."""
        return max(4, power_of_two(self.inputs + len(BIAS_CONSTANTS)))

    @property
    def positions(self) -> int:
        """P: how often the same weights are used."""
        return self.wirings[0].positions if self.wirings else 1

    @property
    def features(self) -> int:
        """M = P M': what it computes; feature p M' + c is output c of position p."""
        return self.positions * self.outputs

    @property
    def variables(self) -> int:
        """Variables of its features: those of positions before those of outputs."""
        return bits(self.positions) + bits(self.outputs)

    def check(self, number: int, last: bool) -> None:
        """Raise ValueError where the format has no such layer ``number``."""
        _need(type(self.wirings) is tuple and all(type(wiring) is Wiring for wiring in self.wirings), "the wirings are Wirings")
        _need(len(self.wirings) <= MOST_WIRINGS, f"layer {number} reads {len(self.wirings)} arrays; {MOST_WIRINGS} are allowed")
        _need(all(type(value) is int for value in (self.inputs, self.outputs, self.shift)), "a size is not an integer")
        for wiring in self.wirings:
            wiring.check(number)
        if self.residual is not None:
            _need(type(self.residual) is tuple and len(self.residual) == 2, f"layer {number}: a residual is an array and an exponent")
            source, exponent = self.residual
            _need(type(source) is int and type(exponent) is int, "a size is not an integer")
            _need(0 <= source < number, f"layer {number} adds the array {_short(source)}: 0 to {number - 1} are there")
            _need(0 <= exponent <= MOST_SHIFT, f"layer {number}: a residual's exponent is 0 to {MOST_SHIFT}")
        _need(1 <= self.inputs <= MOST_WIDTH and 1 <= self.outputs <= MOST_WIDTH,
              f"layer {number} has {_short(self.inputs)} inputs and {_short(self.outputs)} outputs: 1 to {MOST_WIDTH} are allowed")
        if self.wirings:
            _need(len({wiring.positions for wiring in self.wirings}) == 1, f"layer {number} reads arrays at different numbers of positions")
            _need(sum(wiring.inputs for wiring in self.wirings) == self.inputs, f"layer {number}: its wirings do not read {self.inputs} inputs")
            _need(self.wirings != (Wiring(number - 1, (1, 1, self.inputs)),), f"layer {number}: a dense layer's wiring is left out")
            _need(self.features <= MOST_WIDTH and self.positions * self.inputs <= MOST_READS, f"layer {number} has too many positions")
        _need(1 <= self.shift <= MOST_SHIFT if not last else self.shift == 0,
              f"layer {number} has the shift {_short(self.shift)}: 1 to {MOST_SHIFT}, in the last layer 0")

    def to_json(self) -> list:
        """[K, M', s], and behind it what differs from a dense layer that reads the one before."""
        if not self.wirings and self.residual is None:
            return [self.inputs, self.outputs, self.shift]
        wirings = [[w.source, w.shape, w.pool, w.kernel, w.stride, w.pads] for w in self.wirings]
        return [self.inputs, self.outputs, self.shift, {"residual": self.residual, "wirings": wirings}]

    @classmethod
    def from_json(cls, given: list) -> Layer:
        """The inverse; whatever is wrong is found when the key is made, or by its encoding."""
        inputs, outputs, shift, *more = given
        if not more:
            return cls(inputs, outputs, shift)
        (more,) = more
        wirings = tuple(Wiring(source, *map(tuple, sizes)) for source, *sizes in more["wirings"])
        return cls(inputs, outputs, shift, wirings, None if more["residual"] is None else tuple(more["residual"]))


@dataclass(frozen=True)
class VerificationKey:
    """What a proof is checked against. Equal bytes mean the same statement.

    rows: N of one proof. input_low, input_high: range of the quantised inputs, within int16.
    range_bits: R, |q| <= 2^R. roots: of the layers' weights, 32 bytes each.

    Raises ValueError where sizes are beyond the format's limits or something could wrap modulo p.
    """

    rows: int
    input_low: int
    input_high: int
    layers: tuple[Layer, ...]
    range_bits: int
    roots: tuple[bytes, ...]

    def __post_init__(self) -> None:
        _need(type(self.layers) is tuple and type(self.roots) is tuple, "layers and roots are tuples")
        _need(all(type(layer) is Layer for layer in self.layers), "the layers are Layers")
        _need(1 <= len(self.layers) <= MOST_LAYERS,
              f"{len(self.layers)} layers; 1 to {MOST_LAYERS} are allowed")
        _need(all(type(root) is bytes and len(root) == 32 for root in self.roots), "a root is 32 bytes")
        _need(len(self.roots) == len(self.layers), f"{len(self.roots)} roots for {len(self.layers)} layers")
        # A bool, a float or numpy's integer would be equal to an int here and have other bytes, or none.
        _need(all(type(number) is int for number in (self.rows, self.input_low, self.input_high, self.range_bits)),
              "a size is not an integer")
        _need(4 <= self.rows <= MOST_ROWS and self.rows.bit_count() == 1,
              f"{_short(self.rows)} rows: a power of two, 4 to {MOST_ROWS}, is allowed")
        _need(-(2**15) <= self.input_low <= self.input_high < 2**15, "the inputs' range is not within int16")
        _need(0 <= self.range_bits <= MOST_RANGE_BITS,
              f"range bits are {_short(self.range_bits)}: 0 to {MOST_RANGE_BITS}")
        for number, layer in enumerate(self.layers, 1):
            layer.check(number, number == len(self.layers))
        for number, layer in enumerate(self.layers, 1):
            self._check_reads(number, layer)
            _need(not layer.shift or self.range_bits + layer.shift <= 29, f"layer {number}: range bits + shift exceed 29")
        read = {array for number, layer in enumerate(self.layers, 1) for array in self._arrays(number)}
        for number in range(1, len(self.layers)):
            _need(number in read, f"layer {number} is read by none")
        _need(self.rows * max(self.width, self.outputs) <= MOST_VALUES,
              "too many inputs or outputs for one proof: fewer rows a proof")
        _need(sum(layer.length * layer.outputs for layer in self.layers) < P,
              "too many weights for one weights proof")
        _need(2 * self.rows * self.units < P, "too many lookups: fewer rows a proof")

    def _arrays(self, number: int) -> list[int]:
        """The arrays that layer ``number`` reads or adds."""
        residual = self.layers[number - 1].residual
        return [wiring.source for wiring in self.wirings(number)] + ([residual[0]] if residual else [])

    def _check_reads(self, number: int, layer: Layer) -> None:
        if not layer.wirings and number > 1:
            above = self.layers[number - 2].features
            _need(above == layer.inputs, f"a layer has {above} outputs, the next {layer.inputs} inputs")
        largest = 128 * sum(BIAS_CONSTANTS)
        for wiring in self.wirings(number):
            _need(wiring.features == self.features(wiring.source),
                  f"layer {number} reads {wiring.features} features of array {wiring.source}, which has {self.features(wiring.source)}")
            largest += wiring.inputs * wiring.window * 128 * self.largest(wiring.source)
        if layer.residual is not None:
            source, exponent = layer.residual
            _need(self.features(source) == layer.features,
                  f"layer {number} has {layer.features} features, array {source}, which is added, {self.features(source)}")
            largest += self.largest(source) << exponent
        _need(largest < P // 2, f"layer {number} could wrap modulo p: fewer inputs, or smaller ones")

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """The layers before the last: those with an activation."""
        return self.layers[:-1]

    @property
    def units(self) -> int:
        """Features of all hidden layers."""
        return sum(layer.features for layer in self.hidden)

    @property
    def width(self) -> int:
        """Inputs of a row."""
        return self.features(0)

    @property
    def outputs(self) -> int:
        """D: outputs of a row."""
        return self.layers[-1].features

    def features(self, array: int) -> int:
        """Features of an array: 0 the inputs, m the activations of hidden layer m."""
        return self.layers[array - 1].features if array else self.wirings(1)[0].features

    def wirings(self, number: int) -> tuple[Wiring, ...]:
        """What layer ``number`` (from 1) reads."""
        layer = self.layers[number - 1]
        return layer.wirings or (Wiring(number - 1, (1, 1, layer.inputs)),)

    @property
    def shifts(self) -> tuple[int, ...]:
        """The different shifts of hidden layers, ascending: one table of remainders each."""
        return tuple(sorted({layer.shift for layer in self.hidden}))

    def largest(self, array: int) -> int:
        """The largest magnitude of an array's values."""
        return ACTIVATION_MAX if array else max(abs(self.input_low), abs(self.input_high))

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return json.dumps({
            "format": _FORMAT, "rows": self.rows, "input": [self.input_low, self.input_high],
            "range_bits": self.range_bits,
            "layers": [layer.to_json() for layer in self.layers],
            "roots": [root.hex() for root in self.roots],
        }, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> VerificationKey:
        """The key; ValueError, and nothing else, where ``data`` is not the one encoding of a key."""
        if len(data) > _MOST_BYTES:
            raise ValueError(f"not a batch verification key: {len(data)} bytes, more than {_MOST_BYTES}")
        try:
            given = json.loads(data)
            low, high = given["input"]
            layers = tuple(Layer.from_json(layer) for layer in given["layers"])
            key = cls(given["rows"], low, high, layers, given["range_bits"],
                      tuple(bytes.fromhex(root) for root in given["roots"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a batch verification key: {error}") from error
        if key.to_bytes() != data:
            raise ValueError("not a batch verification key: not its canonical encoding")
        return key


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number`` (1 or more)."""
    return 1 << max(0, number - 1).bit_length()


def bits(number: int) -> int:
    """Variables of a vector of so many entries, extended by zeros to a power of two."""
    return power_of_two(number).bit_length() - 1


def _short(number: int) -> str:
    """A number for a message: the digits of one that nobody could read are left out."""
    return str(number) if abs(number) < 10**12 else f"a number of {number.bit_length()} bits"


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)


#: Bits of soundness that the query phase of one opening gives.
QUERY_BITS = -QUERIES * math.log2(5 / 8)
