"""The batch protocol's format: its constants, layers, and the verification key (PROTOCOL.md, "Statement").

Prover and verifier share this module, ``layer`` and ``constants``, which it passes on, and nothing else. No JAX here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from enclaveml.zk.batch.constants import (
    ACTIVATION_MAX,
    BIAS_CONSTANTS,
    BLOWUP,
    DEGREE,
    DOMAIN,
    GENERATOR,
    LEAST_TABLE_BITS,
    MOST_ENTRIES,
    MOST_LAYERS,
    MOST_RANGE_BITS,
    MOST_READS,
    MOST_ROWS,
    MOST_SHIFT,
    MOST_TABLE_BITS,
    MOST_TABLE_NUMBERS,
    MOST_VALUES,
    MOST_WEIGHT_ROWS,
    MOST_WIDTH,
    MOST_WIRINGS,
    P,
    QUERIES,
    RESIDUE,
    TABLE_TAG,
    WEIGHT_HIGH,
    WEIGHT_LOW,
    bits,
    need,
    power_of_two,
    short,
)
from enclaveml.zk.batch.layer import Layer, Wiring

__all__ = [
    "ACTIVATION_MAX",
    "BIAS_CONSTANTS",
    "BLOWUP",
    "DEGREE",
    "DIGEST_DOMAIN",
    "DOMAIN",
    "GENERATOR",
    "INPUTS_DOMAIN",
    "INPUT_KEY",
    "INPUT_SALT",
    "LEAST_MASKS",
    "LEAST_TABLE_BITS",
    "LEAST_TABLE_ROWS",
    "Layer",
    "MASKS_DOMAIN",
    "MOST_ENTRIES",
    "MOST_LAYERS",
    "MOST_RANGE_BITS",
    "MOST_READS",
    "MOST_ROWS",
    "MOST_SHIFT",
    "MOST_TABLE_BITS",
    "MOST_TABLE_NUMBERS",
    "MOST_VALUES",
    "MOST_WEIGHT_ROWS",
    "MOST_WIDTH",
    "MOST_WIRINGS",
    "P",
    "PADS",
    "QUERIES",
    "RESIDUE",
    "ROUND_MASKS",
    "SALT",
    "TABLE_TAG",
    "VerificationKey",
    "WEIGHTS_DOMAIN",
    "WEIGHT_HIGH",
    "WEIGHT_LOW",
    "WEIGHT_SEED",
    "Wiring",
    "bits",
    "power_of_two",
    "round_masks",
    "table_shape",
]

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

#: First bytes of what the masks of registered weights are derived from, and the length of the weights seed.
WEIGHTS_DOMAIN = b"enclaveml-batch-weights"
WEIGHT_SEED = 32

#: First bytes of what a masked proof says of its inputs and their key.
DIGEST_DOMAIN = b"enclaveml-batch-input-digest"

_FORMAT = "enclaveml-batch-key-1"
#: More than any key takes.
_MOST_BYTES = 2**17


@dataclass(frozen=True)
class VerificationKey:
    """What a proof is checked against. Equal bytes mean the same statement.

    rows: N of one proof. input_low, input_high: range of the quantised inputs, within int16.
    range_bits: R, |q| <= 2^R. roots: of the layers' weights, 32 bytes each. masks: m, how many of the rows, the
    last, are random and hide the others (0: none, the proof is not zero-knowledge). tables: activations other than ReLU, each 2^b whole
    numbers, what q = -2^(b-1) .. 2^(b-1) - 1 become; quotients beyond become what the nearest of these does. weight_rows: n_w, the length of
    the weights' columns where they are hidden, one root is of all layers' (0: proofs show them).

    Raises ValueError where sizes are beyond the format's limits or something could wrap modulo p.
    """

    rows: int
    input_low: int
    input_high: int
    layers: tuple[Layer, ...]
    range_bits: int
    roots: tuple[bytes, ...]
    masks: int = 0
    tables: tuple[tuple[int, ...], ...] = ()
    weight_rows: int = 0

    def __post_init__(self) -> None:
        need(type(self.layers) is tuple and type(self.roots) is tuple, "layers and roots are tuples")
        need(all(type(layer) is Layer for layer in self.layers), "the layers are Layers")
        need(1 <= len(self.layers) <= MOST_LAYERS,
              f"{len(self.layers)} layers; 1 to {MOST_LAYERS} are allowed")
        need(all(type(root) is bytes and len(root) == 32 for root in self.roots), "a root is 32 bytes")
        need(len(self.roots) == (1 if self.weight_rows else len(self.layers)),
             f"{len(self.roots)} roots for {len(self.layers)} layers" + ", whose weights are hidden under one" * bool(self.weight_rows))
        # A bool, a float or numpy's integer would be equal to an int here and have other bytes, or none.
        need(all(type(number) is int for number in (
            self.rows, self.input_low, self.input_high, self.range_bits, self.masks, self.weight_rows)),
              "a size is not an integer")
        need(4 <= self.rows <= MOST_ROWS and self.rows.bit_count() == 1,
              f"{short(self.rows)} rows: a power of two, 4 to {MOST_ROWS}, is allowed")
        need(-(2**15) <= self.input_low <= self.input_high < 2**15, "the inputs' range is not within int16")
        need(0 <= self.range_bits <= MOST_RANGE_BITS,
              f"range bits are {short(self.range_bits)}: 0 to {MOST_RANGE_BITS}")
        for number, layer in enumerate(self.layers, 1):
            layer.check(number, number == len(self.layers))
        self._check_tables()
        for number, layer in enumerate(self.layers, 1):
            self._check_reads(number, layer)
            need(not layer.shift or self.range_bits + layer.shift <= 29, f"layer {number}: range bits + shift exceed 29")
        read = {array for number, layer in enumerate(self.layers, 1) for array in self._arrays(number)}
        for number in range(1, len(self.layers)):
            need(number in read, f"layer {number} is read by none")
        need(self.masks == 0 or LEAST_MASKS <= self.masks <= self.rows // 2 and self.masks.bit_count() == 1,
             f"{short(self.masks)} mask rows of {self.rows}: 0, or a power of two from {LEAST_MASKS} to half of the "
             "rows, is allowed")
        need(self.masks == 0 or len(self.layers) > 1, "mask rows in a network without a hidden layer")
        need(self.rows * max(self.width, self.outputs) <= MOST_VALUES,
              "too many inputs or outputs for one proof: fewer rows a proof")
        need(sum(layer.length * layer.outputs for layer in self.layers) < P,
              "too many weights for one weights proof")
        need(2 * self.rows * self.units < P, "too many lookups: fewer rows a proof")
        if self.weight_rows:
            self._check_hidden_weights()

    def _check_hidden_weights(self) -> None:
        need(self.masks > 0, "hidden weights without mask rows: activations would show them")
        least = max(2 * self.cell_rows, self.helper_rows, power_of_two(self.cell_rows + 2 * QUERIES))
        need(least <= self.weight_rows <= MOST_WEIGHT_ROWS and self.weight_rows.bit_count() == 1,
             f"{short(self.weight_rows)} rows of weights: a power of two, {least} to {MOST_WEIGHT_ROWS}, hides these")
        need(self.cell_rows * self.weight_columns < P, "too many weights for one weights proof")
        need(self.weight_rows * (self.weight_columns + PADS) <= MOST_VALUES and DEGREE * self.weight_columns * self.helper_rows <= 4 * MOST_VALUES,
             "too many weights to be hidden: fewer of their rows, or a smaller model")

    def _check_tables(self) -> None:
        need(type(self.tables) is tuple and all(type(table) is tuple for table in self.tables), "the tables are tuples")
        sizes = [2**size for size in range(LEAST_TABLE_BITS, MOST_TABLE_BITS + 1)]
        for number, table in enumerate(self.tables, 1):
            need(len(table) in sizes, f"table {number} has {len(table)} numbers: a power of two, {sizes[0]} to {sizes[-1]}, is allowed")
            need(len(table) <= 2 ** (self.range_bits + 1), f"table {number} has numbers for quotients beyond 2^{self.range_bits}")
            need(all(type(value) is int and abs(value) <= ACTIVATION_MAX for value in table),
                 f"table {number}: a number is not a whole one from -{ACTIVATION_MAX} to {ACTIVATION_MAX}")
        need(sum(map(len, self.tables)) <= MOST_TABLE_NUMBERS, f"the tables have more than {MOST_TABLE_NUMBERS} numbers")
        need(len(set(self.tables)) == len(self.tables), "two tables are the same")
        need({layer.table for layer in self.layers} - {0} == set(range(1, len(self.tables) + 1)),
             f"the layers use other tables than the {len(self.tables)} that there are, each of them")
        need(self.entries <= MOST_ENTRIES, f"the lookups' tables have {self.entries} entries: {MOST_ENTRIES} are allowed")

    def _arrays(self, number: int) -> list[int]:
        """The arrays that layer ``number`` reads or adds."""
        residual = self.layers[number - 1].residual
        return [wiring.source for wiring in self.wirings(number)] + ([residual[0]] if residual else [])

    def _check_reads(self, number: int, layer: Layer) -> None:
        if not layer.wirings and number > 1:
            above = self.layers[number - 2].features
            need(above == layer.inputs, f"a layer has {above} outputs, the next {layer.inputs} inputs")
        largest = 128 * sum(BIAS_CONSTANTS)
        for wiring in self.wirings(number):
            need(wiring.features == self.features(wiring.source),
                  f"layer {number} reads {wiring.features} features of array {wiring.source}, which has {self.features(wiring.source)}")
            largest += wiring.inputs * wiring.window * 128 * self.largest(wiring.source)
        if layer.residual is not None:
            source, exponent = layer.residual
            need(self.features(source) == layer.features,
                  f"layer {number} has {layer.features} features, array {source}, which is added, {self.features(source)}")
            largest += self.largest(source) << exponent
        need(largest < P // 2, f"layer {number} could wrap modulo p: fewer inputs, or smaller ones")

    @property
    def real_rows(self) -> int:
        """The rows that the statement is about: the first, all where there are no masks."""
        return self.rows - self.masks

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
    def cell_rows(self) -> int:
        """n_c: rows of the hidden weights' columns that hold weights, or zeros below them; the others are uniform."""
        return max(layer.length for layer in self.layers)

    @property
    def helper_rows(self) -> int:
        """n_g: rows of the helpers of hidden weights' proof: those of cells, and those that mask them."""
        return power_of_two(self.cell_rows + LEAST_MASKS)

    @property
    def weight_columns(self) -> int:
        """C: columns of all layers' weights."""
        return sum(layer.outputs for layer in self.layers)

    @property
    def weight_openings(self) -> int:
        """How often hidden weights may be opened, their weights proof included: each opening shows QUERIES symbols of a column, whose
        uniform rows make as many independent as there are of them."""
        return (self.weight_rows - self.cell_rows) // QUERIES if self.weight_rows else 0

    @property
    def shifts(self) -> tuple[int, ...]:
        """The different shifts of hidden layers, ascending: one table of remainders each."""
        return tuple(sorted({layer.shift for layer in self.hidden}))

    @property
    def entries(self) -> int:
        """T: entries of the lookups: for every q of ReLU and of each table, then the remainders of every different shift."""
        if not self.hidden:
            return 0
        return (1 + len(self.tables)) * 2 ** (self.range_bits + 1) + sum(2**shift for shift in self.shifts)

    def largest(self, array: int) -> int:
        """The largest magnitude of an array's values."""
        if not array:
            return max(abs(self.input_low), abs(self.input_high))
        table = self.layers[array - 1].table
        return max(map(abs, self.tables[table - 1])) if table else ACTIVATION_MAX

    @property
    def unregistered(self) -> VerificationKey:
        """This key with zeros for its root: what a registration of hidden weights is of."""
        return replace(self, roots=(bytes(32),))

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        masks = {"masks": self.masks} if self.masks else {}
        tables = {"tables": self.tables} if self.tables else {}
        weights = {"weights": self.weight_rows} if self.weight_rows else {}
        return json.dumps({
            **masks, **tables, **weights,
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
                      tuple(bytes.fromhex(root) for root in given["roots"]), given.get("masks", 0),
                      tuple(map(tuple, given.get("tables", ()))), given.get("weights", 0))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a batch verification key: {error}") from error
        if key.to_bytes() != data:
            raise ValueError("not a batch verification key: not its canonical encoding")
        return key


def table_shape(entries: int) -> tuple[int, int]:
    """n_r, c_T: the rows and columns in which a masked proof commits the multiplicities of a table's entries."""
    rows = max(LEAST_TABLE_ROWS, 2 ** -(-bits(entries) // 2))
    return rows, max(1, power_of_two(entries) // rows)


def round_masks(entries: int) -> int:
    """n_m: the length of the columns that hold so many masks of rounds and openings where weights are hidden."""
    return max(ROUND_MASKS, power_of_two(entries + LEAST_MASKS))
