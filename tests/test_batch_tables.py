"""Activations by table: what a key may say, the prover against the reference, and provers that look up something else."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from batch_reference import case, masked_case
from batch_reference.case import STEPS, TANH, Carried
from batch_reference.network import Network, Step, fingerprints, inputs, looked_up
from batch_reference.numbers import F
from batch_reference.rows import RowsProver

from enclaveml.zk.batch.format import P, Layer, VerificationKey
from enclaveml.zk.batch.integer import IntegerLayer, IntegerModel
from enclaveml.zk.batch.prove import inference
from enclaveml.zk.batch.prove.api import BatchProver
from enclaveml.zk.batch.prove.memory import memory_bytes
from enclaveml.zk.batch.verify import api, field, lookups
from enclaveml.zk.batch.verify.api import Rejected
from enclaveml.zk.batch.verify.element import Element

LAYERS = "layers: their parts are not the rows' last claim"
ACTIVATION = "activation of layer {}: the claims are not what the rounds lead to"
EVALUATION = "{}'s opening: the evaluation is not the claim"
EVALUATION_LEAF = "{}'s opening: a leaf is not on the evaluation combination"


def weights(network: Network) -> list[np.ndarray]:
    return [np.array(layer, np.int32) for layer in network.weights]


def model(network: Network, key: VerificationKey) -> IntegerModel:
    layers = tuple(IntegerLayer(np.array(w, np.int8), shape.shift, shape.wirings, shape.residual, network.tables.get(number, ()))
                   for number, (w, shape) in enumerate(zip(network.weights, key.layers, strict=True), 1))
    return IntegerModel(layers, 0, 0, key.input_low, key.input_high)


def masked_network() -> Network:
    return replace(masked_case.network((2, 3, 2, 2)), tables={1: tuple(range(-16, 16)), 2: STEPS})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked proofs that are small, and hide nothing."""
    masked_case.small_sizes(monkeypatch)


#: Tables, mask rows, range bits, and MB at the peak that a process took more for 1,024 rows than with 11 range bits.
MEMORY = ((1, 0, 18, 24), (1, 256, 16, 213), (1, 256, 18, 953), (1, 0, 19, 48), (1, 256, 19, 2016))


# Keys.


def test_a_key_with_tables_has_one_encoding() -> None:
    key = case.tabled_key()
    assert VerificationKey.from_bytes(key.to_bytes()) == key
    told = json.loads(key.to_bytes())
    assert told["tables"] == [list(TANH), list(STEPS)]
    assert told["layers"] == [[3, 4, 7, {"residual": None, "table": 1, "wirings": []}],
                              [4, 4, 9, {"residual": [1, 4], "table": 2, "wirings": []}], [4, 2, 8],
                              [2, 3, 6, {"residual": None, "table": 1, "wirings": []}], [3, 2, 0]]
    assert key.entries == 3 * 2048 + 64 + 128 + 256 + 512
    assert [key.largest(array) for array in range(5)] == [128, 254, 255, 255, 254]

    def refused(change: Callable[[dict], None]) -> None:
        other = copy.deepcopy(told)
        change(other)
        with pytest.raises(ValueError, match="^not a batch verification key: "):
            VerificationKey.from_bytes(json.dumps(other, sort_keys=True, separators=(",", ":")).encode())

    refused(lambda key: key["layers"][2].append({"residual": None, "table": 0, "wirings": []}))
    refused(lambda key: key["layers"][0][3].update(table=True))
    refused(lambda key: key["layers"][0][3].update(table=None))
    refused(lambda key: key["tables"].append([]))
    refused(lambda key: key["tables"][1].__setitem__(0, -7.0))
    refused(lambda key: key["tables"][1].__setitem__(0, False))
    refused(lambda key: key["tables"].__setitem__(1, "0123"))
    refused(lambda key: key["tables"].__setitem__(1, [[0]] * 4))
    refused(lambda key: key.update(tables=None))
    refused(lambda key: key.update(tables={"0": 1}))
    refused(lambda key: key.pop("tables"))
    plain = json.loads(case.key().to_bytes()) | {"tables": []}
    with pytest.raises(ValueError, match="^not a batch verification key: not its canonical encoding$"):
        VerificationKey.from_bytes(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(("change", "reason"), [
    ({"tables": ()}, "the layers use other tables than the 0 that there are, each of them"),
    ({"tables": (TANH,)}, "the layers use other tables than the 1 that there are, each of them"),
    ({"tables": (TANH, STEPS, (0, 0, 0, 1))}, "the layers use other tables than the 3 that there are, each of them"),
    ({"tables": (TANH, TANH)}, "two tables are the same"),
    ({"tables": (TANH, (0, 1, 2))}, "table 2 has 3 numbers: a power of two, 4 to 4096, is allowed"),
    ({"tables": (TANH, (0, 1))}, "table 2 has 2 numbers: a power of two, 4 to 4096, is allowed"),
    ({"tables": (TANH, (0,) * 8192)}, "table 2 has 8192 numbers: a power of two, 4 to 4096, is allowed"),
    ({"tables": (TANH, (0, 1, 2, 256))}, "table 2: a number is not a whole one from -255 to 255"),
    ({"tables": (TANH, (0, 1, 2, -256))}, "table 2: a number is not a whole one from -255 to 255"),
    ({"tables": (TANH, (0, 1, 2, 10**5000))}, "table 2: a number is not a whole one from -255 to 255"),
    ({"tables": (TANH, [0, 1, 2, 3])}, "the tables are tuples"),
    ({"range_bits": 5}, "table 1 has numbers for quotients beyond 2^5"),
    ({"range_bits": 20, "layers": 1}, "the lookups' tables have 6292416 entries: 4194304 are allowed"),
])
def test_tables_that_no_key_has(change: dict, reason: str) -> None:
    key = case.tabled_key()
    if "layers" in change:
        change = change | {"layers": tuple(replace(layer, shift=min(layer.shift, 9)) for layer in key.layers)}
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        replace(key, **change)


def test_all_tables_together_are_bounded() -> None:
    def key(count: int) -> VerificationKey:
        layers = tuple(Layer(1, 1, 1, table=number) for number in range(1, count + 1)) + (Layer(1, 1, 0),)
        tables = tuple((number, *[0] * 4095) for number in range(count))
        return VerificationKey(4, -1, 1, layers, 11, (bytes(32),) * (count + 1), 0, tables)

    assert len(key(4).to_bytes()) < 2**17
    with pytest.raises(ValueError, match="^the tables have more than 16384 numbers$"):
        key(5)
    with pytest.raises(ValueError, match="^layer 2: the last layer has no activation, and no table of one$"):
        replace(key(1), layers=(Layer(1, 1, 1, table=1), Layer(1, 1, 0, table=1)))


def test_values_of_a_table_are_held_by_their_largest() -> None:
    layers = (Layer(1, 2**15, 1, table=1), Layer(2**15, 1, 0))
    key = VerificationKey(4, -1, 1, layers, 2, (bytes(32),) * 2, 0, ((0, 200, -237, 0),))
    with pytest.raises(ValueError, match="^layer 2 could wrap modulo p: fewer inputs, or smaller ones$"):
        replace(key, tables=((0, 200, -238, 0),))


def test_a_table_is_part_of_the_statement() -> None:
    """Another number of a table that no row looks up: another key, and no proof of it."""
    prover = RowsProver(case.tabled(), case.tabled_key(), case.NONCE, inputs(4, 3))
    prover.prove()
    case.verify(prover)
    unused = next(i for i in range(128) if i - 64 not in {q for number in (0, 3) for row in prover.steps[number].q for q in row})
    table = (*TANH[:unused], TANH[unused] - 1, *TANH[unused + 1:])
    prover.key = replace(prover.key, tables=(table, STEPS))
    with pytest.raises(Rejected, match="^layers: "):
        case.verify(prover)


# The same everywhere.


def test_a_proof_is_the_reference_s_byte_by_byte_and_holds() -> None:
    network, key = case.tabled(), case.tabled_key(8)
    x = np.array(inputs(8, 3), np.int32)
    y, proof = BatchProver(key, weights(network)).prove(x, case.NONCE)
    reference = RowsProver(network, key, case.NONCE, x.tolist())
    assert reference.prove() == proof and y.tolist() == reference.y
    assert len(proof) == api.proof_bytes(key)
    api.verify(key, case.NONCE, x, y, proof)
    with pytest.raises(Rejected):
        api.verify(key, case.NONCE, x, np.where(np.arange(y.size).reshape(y.shape) == 3, y + 1, y), proof)
    assert min(a for step in reference.steps[:1] for row in step.a for a in row) < 0  # signed values are among them


def test_what_large_tables_add_to_a_proof_is_foreseen() -> None:
    """To the byte; and what they add to memory, as it was measured (MB of a process that proves 1,024 rows, above that with R = 11)."""
    network, key = case.tabled(), case.tabled_key(8)
    x, sizes = np.array(inputs(8, 3), np.int32), {}
    for range_bits in (10, 15):
        large = replace(key, range_bits=range_bits)
        y, proof = BatchProver(large, weights(network)).prove(x, case.NONCE)
        api.verify(large, case.NONCE, x, y, proof)
        sizes[large.entries] = len(proof)
        assert len(proof) == api.proof_bytes(large)
    (few, short), (many, long) = sizes.items()
    assert many - few == 3 * (2**16 - 2**11) and long - short == 4 * (many - few)
    for tables, masks, range_bits, measured in MEMORY:
        layers = (*(Layer(4, 4, 8, table=number) for number in range(1, tables + 1)), Layer(4, 2, 0))
        of = VerificationKey(1024, -3, 3, layers, 11, (bytes(32),) * len(layers), masks, tuple((number, *STEPS[1:]) for number in range(tables)))
        added = memory_bytes(replace(of, range_bits=range_bits)) - memory_bytes(of)
        assert 0.9 * measured < added / 1e6 < 1.5 * measured


def test_quantiser_and_prover_compute_the_same() -> None:
    network, key = case.tabled(), case.tabled_key()
    x = np.array(inputs(4, 3), np.int32)
    found = model(network, key)
    truth = network.run(x.tolist())[-1].z
    assert found.run(x).tolist() == truth and inference.infer(key, weights(network), x).outputs.tolist() == truth
    theirs = found.key(key.rows, key.roots)
    assert theirs.layers == key.layers and theirs.tables == key.tables
    quotients = np.arange(-1024, 1024)
    for number, table in enumerate((None, TANH, STEPS)):
        assert inference.activated(key, number, quotients.astype(np.int32)).tolist() == [looked_up(table, q) for q in quotients.tolist()]


def test_range_bits_hold_every_input_and_every_number_of_a_table() -> None:
    found, draw = model(case.tabled(), case.tabled_key()), np.random.default_rng(3)
    arrays = [draw.choice([-128, 127], (2000, 3))]
    for number, each in enumerate(found.layers[:-1], 1):
        z = each.sums(number, arrays)
        least, most = each.extremes(number, [(-128, 127), *(layer.range for layer in found.layers[: number - 1])])
        assert least <= z.min() and z.max() <= most
        arrays.append(each.activated(z))
    narrow = IntegerModel((IntegerLayer(np.array([[1], [0], [0], [0]], np.int8), 1, table=TANH),
                           IntegerLayer(np.array([[1], [0], [0], [0]], np.int8), 0)), 0, 0, -1, 1)
    assert narrow.range_bits == 6 and narrow.key(4, (bytes(32),) * 2).tables == (TANH,)


# What is looked up.


def test_no_two_fingerprints_are_the_same() -> None:
    """Whatever table, or remainder, an entry is of: so an entry of one is none of another's."""
    layers = (*(Layer(1, 1, shift, table=number) for number, shift in enumerate((20, 1, 14, 19), 1)), Layer(1, 1, 0))
    key = VerificationKey(4, -1, 1, layers, 2, (bytes(32),) * 5, 0, tuple((number, 0, 0, 0) for number in range(4)))
    found = fingerprints(key)
    assert len(set(found)) == len(found) == key.entries
    assert {tag for _, _, tag in found} == {0, 21, 22, 23, 24, 20, 1, 14, 19}


def test_the_tables_sums() -> None:
    key = case.tabled_key()
    alpha, beta = (3, 1, 4, 1, 5), (9, 2, 6, 5, 3)
    counts = [(7 * i + 3) % 11 for i in range(key.entries)]
    prints = [F(first) + F(*beta) * second + F(*beta) * F(*beta) * third for first, second, third in fingerprints(key)]
    expected = sum(((F(*alpha) - entry).inverse() * count for entry, count in zip(prints, counts, strict=True)), F(0))
    assert lookups.rows_sum(key, field.small(np.array(counts)), Element(alpha), Element(beta)).c == expected.c
    for place in (2048, 2 * 2048 + 1024, 3 * 2048):  # the first of table 1, one in the midst of table 2, the first remainder
        with pytest.raises(Rejected, match="^lookups: a challenge is an entry of the table$"):
            lookups.rows_sum(key, np.array(counts), Element(prints[place].c), Element(beta))


def followed(network: Network, x: list[list[int]], first: Step) -> list[Step]:
    """The steps on x after a first one that is as it is."""
    steps, arrays = [first], [x, first.a]
    for number, shift in enumerate(network.shifts[1:], 2):
        z = network.sums(number, arrays)
        if not shift:
            return [*steps, Step(z)]
        half = 2 ** (shift - 1)
        q, r = ([[change(v + half) for v in row] for row in z] for change in (lambda v: v >> shift, lambda v: v % 2**shift))
        arrays.append([[network.activation(number, v) for v in row] for row in q])
        steps.append(Step(z, q, r, arrays[-1]))
    raise AssertionError("the last layer has no shift")


class OtherEntry(Carried):
    """One activation of the first layer is not what its quotient becomes, but what ``choose`` says."""

    choose: Callable[[int], int]

    def infer(self) -> list[Step]:
        first = self.network.run(self.x)[0]
        i, j = next((i, j) for i, row in enumerate(first.q) for j, q in enumerate(row) if 0 < q < 60)
        first.a[i][j] = type(self).choose(first.q[i][j])
        assert first.a[i][j] != looked_up(TANH, first.q[i][j])
        return followed(self.network, self.x, first)


@pytest.mark.parametrize("choose", [
    lambda q: looked_up(TANH, q + 1),
    lambda q: looked_up(STEPS, q),
    lambda q: looked_up(None, q),
    lambda q: -looked_up(TANH, q),
    lambda q: 150,
], ids=["the next number", "the other table's", "ReLU's", "the other sign", "any"])
@pytest.mark.parametrize(("depth", "reason"), [(0, LAYERS), (3, EVALUATION_LEAF.format("columns"))])
def test_an_entry_that_is_not_the_table_s(choose: Callable[[int], int], depth: int, reason: str) -> None:
    kind = type("Chosen", (OtherEntry,), {"choose": staticmethod(choose), "depth": depth})
    lying = kind(case.tabled(), case.tabled_key(), case.NONCE, inputs(4, 3))
    lying.prove()
    with pytest.raises(Rejected, match=f"^{re.escape(reason)}$"):
        case.verify(lying)


def test_tables_swapped() -> None:
    """The prover looks up the first and fourth layers in the second table, the second in the first: all consistent, but for the key."""
    class Swapped(Carried):
        def absorb(self, label: str, data: bytes) -> None:
            super().absorb(label, case.tabled_key().to_bytes() if label == "key" else data)

    network = replace(case.tabled(), tables={1: STEPS, 2: TANH, 4: STEPS})
    key = case.tabled_key()
    layers = tuple(replace(layer, table=(0, 2, 1)[layer.table]) for layer in key.layers)
    lying = Swapped(network, replace(key, layers=layers), case.NONCE, inputs(4, 3))
    lying.prove()
    lying.key = key
    with pytest.raises(Rejected, match=f"^{ACTIVATION.format(1)}$"):
        case.verify(lying)


@pytest.mark.parametrize("change", [
    {2048: 1, 2049: -1},  # another entry of table 1, used and not
    {2048 + 1024: -1, 1024: 1}, {2 * 2048 + 5: 1, 2048 + 5: -1},  # the same quotient of another table
    {3 * 2048 - 1: P - 5}, {3 * 2048: 1, 3 * 2048 - 1: -1},
])
@pytest.mark.parametrize(("depth", "reason"), [(0, LAYERS), (3, EVALUATION_LEAF.format("columns"))])
def test_forged_multiplicities_of_a_table(change: dict[int, int], depth: int, reason: str) -> None:
    lying = case.Forged(case.tabled(), case.tabled_key(), case.NONCE, inputs(4, 3))
    lying.change, lying.depth = change, depth
    lying.prove()
    with pytest.raises(Rejected, match=f"^{re.escape(reason)}$"):
        case.verify(lying)


# With mask rows.


@pytest.mark.parametrize(("depth", "reason"), [
    (0, EVALUATION.format("round masks")), (1, ACTIVATION.format(1)), (2, EVALUATION.format("columns"))])
@pytest.mark.parametrize("table", [1, 2])
def test_an_entry_that_is_not_the_table_s_behind_masks(small: None, table: int, depth: int, reason: str) -> None:
    class Other(masked_case.Carried):
        def infer(self) -> list[Step]:
            first = self.network.run(self.x)[0]
            first.a[0][0] = looked_up(STEPS, first.q[0][0]) if table == 2 else first.a[0][0] + 1
            return followed(self.network, self.x, first)

    key = masked_case.key_of(masked_network())
    lying = Other(masked_network(), key, masked_case.NONCE, masked_case.rows_of(key), masked_case.INPUT_KEY, masked_case.SEED)
    lying.depth = depth
    lying.prove()
    with pytest.raises(Rejected, match=f"^{re.escape(reason)}$"):
        masked_case.verify(lying)


def test_a_masked_proof_holds(small: None) -> None:
    key = masked_case.key_of(masked_network())
    prover = masked_case.Careless(masked_network(), key, masked_case.NONCE, masked_case.rows_of(key), masked_case.INPUT_KEY, masked_case.SEED)
    prover.prove()
    masked_case.verify(prover)
    masked_case.verify(prover, known=True)
    prover.key = replace(key, tables=(key.tables[0], (*STEPS[:3], -254)))
    with pytest.raises(Rejected):
        masked_case.verify(prover)


# Fixed vectors.


def test_the_proof_of_a_fixed_statement() -> None:
    prover = RowsProver(case.tabled(), case.tabled_key(), case.NONCE, inputs(4, 3))
    found = [sha256(data).hexdigest()[:16] for data in (prover.key.to_bytes(), prover.prove())]
    assert found == ["16c4eb3d91b5e94c", "233d0a179a9d2683"]
