"""Constants of the batch protocol's format, and the verification key (PROTOCOL.md, "Statement").

Prover and verifier share this module and nothing else. No JAX here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise

#: The field's prime, 15 * 2^27 + 1 (BabyBear), and a generator of its units.
P = 15 * 2**27 + 1
GENERATOR = 31

#: F = F_p[X] / (X^DEGREE - RESIDUE). 154.5 bits: lookups in the largest allowed batch lose 34 of them.
DEGREE = 5
RESIDUE = 2

#: Inverse rate of the Reed-Solomon code.
BLOWUP = 4

#: Positions opened in each tree: (5/8)^155 = 2^-105.1, so that 16 openings stay under 2^-101, and the 19 of a
#: masked proof under 2^-100.8 (PROTOCOL.md, "Errors").
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

#: Most inputs, and outputs, of a proof: what a verifier lays out in memory, some GB, whatever a key says.
MOST_VALUES = 2**28
MOST_SHIFT = 20

#: Masked proofs: the fewest mask rows, the rows of masks in the multiplicities' columns at least, the length of the
#: columns that hold the rounds' masks. Each leaves 256 uniform entries in a column, of which an opening shows
#: QUERIES symbols and one value in F, five numbers: 160.
LEAST_MASKS = 256
LEAST_TABLE_ROWS = 256
ROUND_MASKS = 512

#: Columns that mask an opening: U and E, an element of F each.
PADS = 2 * DEGREE

#: Bytes of a leaf's salt in a masked proof, of the salt of its inputs' mask rows, and of the input key.
SALT = 16
INPUT_SALT = 32
INPUT_KEY = 32

#: First bytes of what masks are derived from: all of them, and the seed of the inputs' mask rows.
MASKS_DOMAIN = b"enclaveml-batch-masks"
INPUTS_DOMAIN = b"enclaveml-batch-inputs"

_FORMAT = "enclaveml-batch-key-1"
#: More than any key takes.
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Layer:
    """A dense layer: K ``inputs``, M ``outputs``, the ``shift`` s of its rescaling (0: the last layer)."""

    inputs: int
    outputs: int
    shift: int

    @property
    def length(self) -> int:
        """n: the length of a column of its weights, the power of two from K + 3."""
        return max(4, power_of_two(self.inputs + len(BIAS_CONSTANTS)))


@dataclass(frozen=True)
class VerificationKey:
    """What a proof is checked against. Equal bytes mean the same statement.

    rows: N of one proof. input_low, input_high: range of the quantised inputs, within int16.
    range_bits: R, |q| <= 2^R. roots: of the layers' weights, 32 bytes each. masks: m, how many of the rows, the
    last, are random and hide the others (0: none, the proof is not zero-knowledge).

    Raises ValueError where sizes are beyond the format's limits or something could wrap modulo p.
    """

    rows: int
    input_low: int
    input_high: int
    layers: tuple[Layer, ...]
    range_bits: int
    roots: tuple[bytes, ...]
    masks: int = 0

    def __post_init__(self) -> None:
        _need(type(self.layers) is tuple and type(self.roots) is tuple, "layers and roots are tuples")
        _need(all(type(layer) is Layer for layer in self.layers), "the layers are Layers")
        _need(1 <= len(self.layers) <= MOST_LAYERS,
              f"{len(self.layers)} layers; 1 to {MOST_LAYERS} are allowed")
        _need(all(type(root) is bytes and len(root) == 32 for root in self.roots), "a root is 32 bytes")
        _need(len(self.roots) == len(self.layers), f"{len(self.roots)} roots for {len(self.layers)} layers")
        # A bool, a float or numpy's integer would be equal to an int here and have other bytes, or none.
        numbers = [self.rows, self.input_low, self.input_high, self.range_bits, self.masks]
        for layer in self.layers:
            numbers += [layer.inputs, layer.outputs, layer.shift]
        _need(all(type(number) is int for number in numbers), "a size is not an integer")

        _need(4 <= self.rows <= MOST_ROWS and self.rows.bit_count() == 1,
              f"{_short(self.rows)} rows: a power of two, 4 to {MOST_ROWS}, is allowed")
        _need(-(2**15) <= self.input_low <= self.input_high < 2**15, "the inputs' range is not within int16")
        _need(0 <= self.range_bits <= MOST_RANGE_BITS,
              f"range bits are {_short(self.range_bits)}: 0 to {MOST_RANGE_BITS}")
        for number, layer in enumerate(self.layers, 1):
            _need(1 <= layer.inputs <= MOST_WIDTH and 1 <= layer.outputs <= MOST_WIDTH,
                  f"layer {number} has {_short(layer.inputs)} inputs and {_short(layer.outputs)} outputs: "
                  f"1 to {MOST_WIDTH} are allowed")
        for above, below in pairwise(self.layers):
            _need(above.outputs == below.inputs,
                  f"a layer has {above.outputs} outputs, the next {below.inputs} inputs")
        for number, layer in enumerate(self.layers, 1):
            _need(layer.inputs * 128 * self.largest_input(number) + 128 * sum(BIAS_CONSTANTS) < P // 2,
                  f"layer {number} could wrap modulo p: fewer inputs, or smaller ones")
            hidden = number < len(self.layers)
            _need(1 <= layer.shift <= MOST_SHIFT if hidden else layer.shift == 0,
                  f"layer {number} has the shift {_short(layer.shift)}: 1 to {MOST_SHIFT}, in the last layer 0")
            _need(not hidden or self.range_bits + layer.shift <= 29,
                  f"layer {number}: range bits + shift exceed 29")
        _need(self.masks == 0 or LEAST_MASKS <= self.masks <= self.rows // 2 and self.masks.bit_count() == 1,
              f"{_short(self.masks)} mask rows of {self.rows}: 0, or a power of two from {LEAST_MASKS} to half of the "
              "rows, is allowed")
        _need(self.masks == 0 or len(self.layers) > 1, "mask rows in a network without a hidden layer")
        _need(self.rows * max(self.width, self.outputs) <= MOST_VALUES,
              "too many inputs or outputs for one proof: fewer rows a proof")
        _need(sum(layer.length * layer.outputs for layer in self.layers) < P,
              "too many weights for one weights proof")
        _need(2 * self.rows * sum(layer.outputs for layer in self.hidden) < P,
              "too many lookups: fewer rows a proof")

    @property
    def real_rows(self) -> int:
        """The rows that the statement is about: the first, all where there are no masks."""
        return self.rows - self.masks

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """The layers before the last: those with an activation."""
        return self.layers[:-1]

    @property
    def width(self) -> int:
        """Inputs of a row."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """D: outputs of a row."""
        return self.layers[-1].outputs

    @property
    def shifts(self) -> tuple[int, ...]:
        """The different shifts of hidden layers, ascending: one table of remainders each."""
        return tuple(sorted({layer.shift for layer in self.hidden}))

    def largest_input(self, number: int) -> int:
        """The largest magnitude that layer ``number`` (from 1) can be given."""
        return max(abs(self.input_low), abs(self.input_high)) if number == 1 else ACTIVATION_MAX

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        masks = {"masks": self.masks} if self.masks else {}
        return json.dumps({
            **masks,
            "format": _FORMAT, "rows": self.rows, "input": [self.input_low, self.input_high],
            "range_bits": self.range_bits,
            "layers": [[layer.inputs, layer.outputs, layer.shift] for layer in self.layers],
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
            layers = tuple(Layer(*layer) for layer in given["layers"])
            key = cls(given["rows"], low, high, layers, given["range_bits"],
                      tuple(bytes.fromhex(root) for root in given["roots"]), given.get("masks", 0))
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


def table_shape(entries: int) -> tuple[int, int]:
    """n_r, c_T: the rows and columns in which a masked proof commits the multiplicities of a table's entries."""
    rows = max(LEAST_TABLE_ROWS, 2 ** -(-bits(entries) // 2))
    return rows, max(1, power_of_two(entries) // rows)


def _short(number: int) -> str:
    """A number for a message: the digits of one that nobody could read are left out."""
    return str(number) if abs(number) < 10**12 else f"a number of {number.bit_length()} bits"


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(text)


#: Bits of soundness that the query phase of one opening gives.
QUERY_BITS = -QUERIES * math.log2(5 / 8)
