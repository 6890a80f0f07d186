"""Proofs with hidden weights: agreement with the reference prover, keys, encodings, and provers that lie."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
from batch_reference import case as dense_case
from batch_reference import hidden_case as case
from batch_reference import masked_case
from batch_reference.hidden import HiddenProver, HiddenWeightsProver, Hiding, Registered, registered
from batch_reference.hidden_case import Careless, CarelessWeights
from batch_reference.masked import inner
from batch_reference.masks import SaltedTree
from batch_reference.network import Network, inputs
from batch_reference.numbers import F
from batch_reference.recording import Log, check_every_item, recording
from batch_reference.trees import codeword
from batch_reference.weights import WeightsProver
from test_batch_masked import LastRow, MaskRowsCount, Outputs, ShiftedQuotient, Wrapped, WrongActivation

from enclaveml.zk.batch.format import P, VerificationKey
from enclaveml.zk.batch.verify import api, hidden, hidden_weights, layers, masked, opening
from enclaveml.zk.batch.verify.api import Rejected

EVALUATION = "{}'s opening: the evaluation is not the claim"
EVALUATION_LEAF = "{}'s opening: a leaf is not on the evaluation combination"
PROXIMITY_LEAF = "{}'s opening: a leaf is not on the proximity combination"
ROUNDS = EVALUATION.format("round masks")
ROUNDS_LEAF = EVALUATION_LEAF.format("round masks")
OTHERS = "inputs: the proof is not of these, or not under this input key"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    case.small_sizes(monkeypatch, 24)


def key_of(network: Network | None = None) -> tuple[VerificationKey, Registered]:
    return case.key_of(network or masked_case.network(), weight_rows=64)


def made(kind: type[HiddenProver] = Careless, **attributes: object) -> HiddenProver:
    """A prover of the small case that has proved, with these attributes."""
    key, behind = key_of()
    prover = kind(masked_case.network(), key, behind, case.NONCE, masked_case.rows_of(key), case.INPUT_KEY, case.SEED)
    for name, value in attributes.items():
        setattr(prover, name, value)
    prover.prove()
    return prover


def made_weights(kind: type[HiddenWeightsProver] = CarelessWeights, **attributes: object) -> HiddenWeightsProver:
    prover = kind(*key_of(), case.SEED)
    for name, value in attributes.items():
        setattr(prover, name, value)
    prover.prove()
    return prover


def refused(prover: Hiding, reason: str, proof: bytes | None = None, known: bool = False) -> None:
    with pytest.raises(Rejected, match=f"^{reason if '.*' in reason else re.escape(reason)}$"):
        if isinstance(prover, HiddenWeightsProver):
            api.verify_weights(prover.key, prover.proof if proof is None else proof)
        else:
            case.verify(prover, proof, known)


class Fitted:
    """Lies, and with ``fit`` makes every combination e what was claimed of it."""

    fit = False

    def say(self, label: str, values: list[F]) -> list[F]:
        if label == "evaluation" and self.fit and self.weights:
            return [values[0] + (self.goal - inner(self.weights, values)) * self.weights[0].inverse(), *values[1:]]
        return values


# Honest proofs.

#: Beginnings of the SHA-256 of whole proofs of the key below: the format can't change by accident.
ROWS_DIGEST, WEIGHTS_DIGEST = "b47d5926d08fae62", "593e0ba403b40a35"


@cache
def whole() -> tuple[HiddenProver, HiddenWeightsProver]:
    """Of the fewest rows that the format allows, by provers that check that they hide."""
    network = masked_case.network((10, 3, 2), 6, 1)
    key, behind = registered(network, masked_case.key_of(network, 512, 256), 512, case.WEIGHT_SEED)
    rows = HiddenProver(network, key, behind, case.NONCE, masked_case.rows_of(key), case.INPUT_KEY, case.SEED)
    weights = HiddenWeightsProver(key, behind, case.SEED)
    rows.prove(), weights.prove()
    return rows, weights


def test_whole_proofs_of_512_rows() -> None:
    rows, weights = whole()
    case.verify(rows)
    case.verify(rows, known=True)
    api.verify_weights(weights.key, weights.proof)
    assert (len(rows.proof), len(weights.proof)) == (api.proof_bytes(rows.key), api.weights_proof_bytes(rows.key))
    digests = [sha256(each.proof).hexdigest()[:16] for each in (rows, weights)]
    assert digests == [ROWS_DIGEST, WEIGHTS_DIGEST]


def test_no_weight_stands_in_the_proofs() -> None:
    """No five weights of a column or a row, nor how often each is one, in any integer's bytes; in a proof that does not hide them they are."""
    rows, weights = whole()
    network = rows.network
    runs = [list(column[:10]) for number in range(2) for column in network.columns(number)]
    runs += [row for matrix in network.weights for row in matrix] + [[v for row in network.weights[0] for v in row]]
    counts = WeightsProver(network, network.key(512, -8, 7, 5)).multiplicities()

    def found(proof: bytes, values: list[int]) -> bool:
        numbers = np.array(values, np.int64)
        coded = [numbers.astype(dtype).tobytes() for dtype in ("u1", "<i2", "<u2", "<i4", ">i4", "<i8", "<f4", "<f8")]
        return any(data in proof for data in [*coded, (numbers % P).astype("<u4").tobytes()])

    for run in runs:
        if len(run) > 2 and len(set(run)) > 2:  # a run of zeros may stand anywhere
            assert not any(found(made.proof, run) for made in (rows, weights))
    assert not any(found(made.proof, counts) for made in (rows, weights))
    shown = WeightsProver(network, network.key(512, -8, 7, 5))
    assert found(shown.prove(), counts)


@pytest.mark.parametrize(("widths", "rows", "masks"), [((2, 3, 2), 16, 8), ((1, 1, 1), 32, 16), ((3, 2, 4, 1), 64, 8)])
def test_honest_proofs_hold(small: None, widths: tuple[int, ...], rows: int, masks: int) -> None:
    network = masked_case.network(widths)
    key, behind = case.key_of(network, rows, masks, 8, 64)
    prover = Careless(network, key, behind, b"", masked_case.rows_of(key), case.INPUT_KEY, case.SEED)
    assert len(prover.prove()) == api.proof_bytes(key)
    case.verify(prover)
    case.verify(prover, known=True)
    weights = CarelessWeights(key, behind, case.SEED)
    assert len(weights.prove()) == api.weights_proof_bytes(key)
    api.verify_weights(key, weights.proof)


@pytest.mark.parametrize("network", [dense_case.wired(), dense_case.tabled()])
def test_layers_of_every_kind(small: None, network: Network) -> None:
    """Wired to maps and several arrays; with residuals; with activations by table."""
    key, behind = registered(network, replace(network.key(16, range_bits=11), masks=8), 128, case.WEIGHT_SEED)
    prover = Careless(network, key, behind, b"", inputs(8, key.width), case.INPUT_KEY, case.SEED)
    assert len(prover.prove()) == api.proof_bytes(key)
    case.verify(prover)
    case.verify(prover, known=True)
    prover.x[7][2] ^= 1
    refused(prover, OTHERS, known=True)
    prover.y[7][1] += 1
    refused(prover, ".*")


# Keys and registrations.


def test_how_often_weights_may_be_opened() -> None:
    """155 symbols of each column an opening, and as many uniform rows: not one opening more."""
    network = masked_case.network((64, 32, 10))
    key = replace(masked_case.key_of(network, 16384, 256), weight_rows=2**14, roots=(bytes(32),))
    assert (key.cell_rows, key.weight_columns, key.helper_rows) == (128, 42, 512)
    assert key.weight_openings == (2**14 - 128) // 155 == 104
    assert replace(key, weight_rows=512).weight_openings == 2
    assert masked_case.key_of(network, 16384, 256).weight_openings == 0


@pytest.mark.parametrize(("change", "reason"), [
    ({"masks": 0}, "hidden weights without mask rows: activations would show them"),
    ({"weight_rows": 256}, "256 rows of weights: a power of two, 512 to 1048576, hides these"),
    ({"weight_rows": 2**21}, "2097152 rows of weights: a power of two, 512 to 1048576, hides these"),
    ({"weight_rows": 1000}, "1000 rows of weights: a power of two, 512 to 1048576, hides these"),
    ({"weight_rows": -512}, "-512 rows of weights: a power of two, 512 to 1048576, hides these"),
    ({"weight_rows": True}, "a size is not an integer"),
    ({"weight_rows": 0}, "1 roots for 2 layers"),
    ({"roots": (bytes(32), bytes(32))}, "2 roots for 2 layers, whose weights are hidden under one")])
def test_keys_that_hide_no_weights(change: dict, reason: str) -> None:
    network = masked_case.network()
    key = replace(masked_case.key_of(network, 512, 256), weight_rows=512, roots=(bytes(32),))
    assert VerificationKey.from_bytes(key.to_bytes()) == key and b'"weights":512' in key.to_bytes()
    with pytest.raises(ValueError, match=f"^{reason}$"):
        replace(key, **change)


def test_a_key_without_hidden_weights_is_written_as_before() -> None:
    key = masked_case.key_of(masked_case.network(), 512, 256)
    assert b"weights" not in key.to_bytes()
    with pytest.raises(ValueError, match="not its canonical encoding"):
        VerificationKey.from_bytes(key.to_bytes().replace(b'"rows":512', b'"rows":512,"weights":0'))


def test_a_seed_that_is_used_again_hides_by_other_numbers(small: None) -> None:
    """For other weights, and for the same under another key."""
    network = masked_case.network()
    key, behind = key_of()
    weights = [[list(row) for row in matrix] for matrix in network.weights]
    weights[0][0][0] += 1
    others = [registered(Network(weights, network.shifts), masked_case.key_of(network), 64, case.WEIGHT_SEED),
              registered(network, masked_case.key_of(network, 32), 64, case.WEIGHT_SEED),
              registered(network, masked_case.key_of(network), 128, case.WEIGHT_SEED)]
    mine = {value for column in behind.columns for value in column[key.cell_rows:]}
    for other, tree in others:
        assert not mine & {value for column in tree.columns for value in column[other.cell_rows:]}
        assert other.roots != key.roots and not set(behind.salts) & set(tree.salts)
    assert registered(network, masked_case.key_of(network), 64, case.WEIGHT_SEED)[0] == key


# Provers that lie about rows.


def lie(kind: type) -> type[HiddenProver]:
    """A lie of masked proofs, told in a proof with hidden weights."""
    return type(f"Hidden{kind.__name__}", (Fitted, kind, HiddenProver), {})


@pytest.mark.parametrize("kind", [WrongActivation, ShiftedQuotient, Wrapped, LastRow, Outputs])
@pytest.mark.parametrize(("fit", "reason"), [(False, ROUNDS), (True, ROUNDS_LEAF)])
def test_false_activations_and_outputs(small: None, kind: type, fit: bool, reason: str) -> None:
    refused(made(lie(kind), fit=fit), reason)


class Forged(Fitted, Careless):
    """A multiplicity that is not the truth."""

    def multiplicities(self) -> list[int]:
        counts = super().multiplicities()
        counts[3] += 1
        return counts


@pytest.mark.parametrize("kind", [Forged, lie(MaskRowsCount)])
@pytest.mark.parametrize(("fit", "reason"), [(False, ROUNDS), (True, ROUNDS_LEAF)])
def test_forged_multiplicities(small: None, kind: type, fit: bool, reason: str) -> None:
    refused(made(kind, fit=fit), reason)


class OtherWeights(Fitted, Careless):
    """The products of layer ``number`` are of other weights than those that are registered."""

    number = 1

    def matrix(self, number: int) -> list[list[int]]:
        columns = [list(column) for column in super().matrix(number)]
        if number == self.number:
            columns[0][0] += 1
        return columns


class OtherWeightsThroughout(OtherWeights):
    """And everything before them, the outputs too, is what these give."""

    def infer(self) -> list:
        shapes = [(len(matrix), len(matrix[0])) for matrix in self.network.weights]
        weights = [[[column[k] for column in self.matrix(number)] for k in range(rows)] for number, (rows, _) in enumerate(shapes, 1)]
        self.true = self.network
        self.network = Network(weights, self.network.shifts)
        found = self.network.run(self.x)
        self.network, self.lying = self.true, self.network
        return found

    def prove(self) -> bytes:
        self.network, self.number = self.lying, 0
        return super().prove()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kind", [OtherWeights, OtherWeightsThroughout])
@pytest.mark.parametrize(("fit", "reason"), [(False, ROUNDS), (True, ROUNDS_LEAF)])
def test_weights_that_are_not_the_registered_ones(small: None, kind: type, number: int, fit: bool, reason: str) -> None:
    refused(made(type("Lying", (kind,), {"number": number}), fit=fit), reason)


def test_columns_that_are_not_the_registered_ones(small: None) -> None:
    """Weights changed everywhere, the opening's combinations too: the leaves are the registered ones."""

    class Lying(OtherWeightsThroughout):
        def open_registered(self, weights: list[F], theta: list[F], single: int) -> tuple[F, F, F]:
            columns = [column for number in (1, 2) for column in self.network.columns(number - 1)]
            length = self.key.cell_rows
            changed = [[*column, *[0] * (length - len(column)), *old[length:]] for column, old in zip(columns, self.registered.columns)]
            return self.open_hidden([self.registered.tree, self.pad_tree], changed + self.pad_columns, weights, theta, single)

    refused(made(type("Lying", (Lying,), {"number": 1})), PROXIMITY_LEAF.format("weights"))

    class Committed(Lying):
        def open_hidden(self, trees, *others) -> tuple[F, F, F]:
            if len(trees) == 2:
                trees = [case.key_of(self.network, weight_rows=64)[1].tree, trees[1]]
            return super().open_hidden(trees, *others)

    refused(made(type("Lying", (Committed,), {"number": 1})), "weights's opening: the path of leaf .* does not lead to the root")


@pytest.mark.parametrize("which", ["of_rows", "of_table", "of_features", "of_products", "of_weights"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("fit", "reason"), [(False, ROUNDS), (True, ROUNDS_LEAF)])
def test_rounds_masked_by_other_polynomials(small: None, which: str, last: bool, fit: bool, reason: str) -> None:
    class Lying(Fitted, Careless):
        def round_masks(self) -> list[F]:
            found = super().round_masks()
            where = getattr(self, which)
            where = where[-1] if isinstance(where, list) else where
            at = where.end - 1 if last else where.start
            found[at] = found[at] + F(0, 0, 1)
            return found

    refused(made(Lying, fit=fit), reason)


@pytest.mark.parametrize("single", [0, 1])
def test_pads_masked_by_other_numbers(small: None, single: int) -> None:
    class Lying(Fitted, Careless):
        def round_masks(self) -> list[F]:
            found = super().round_masks()
            found[self.single + single] = found[self.single + single] + 1
            return found

    refused(made(Lying), ROUNDS)


def test_a_pad_that_makes_up_for_a_false_claim(small: None) -> None:
    """A product's sum that is not the truth: what it leads to is made up for in the pad, as if xi were 1."""

    class Lying(Fitted, Careless):
        def say(self, label: str, values: list[F]) -> list[F]:
            if label == "weights sum":
                return [values[0] + 5]
            if label == "pad" and self.drawn[-1][0] == "positions" and sum(name == "positions" for name, _ in self.drawn) == 3:
                return [values[0] - 5]
            return super().say(label, values)

    refused(made(Lying), ROUNDS)


MESSAGES = [("sums", 0), ("sums", 0), ("rows", 0), ("rows", 3), ("table", 0), ("table", 7), ("layers", 0), ("features", 0), ("features", 1),
            ("product sum", 0), ("product sum", 1), ("product", 0), ("product", 3), ("product claims", 0), ("product claims", 1), ("weights sum", 0),
            ("weights", 0), ("weights", 2), ("claims", 0), ("pad", 1), ("pad", 3)]


def lying_once(kind: type, label: str, which: int, place: int = 0) -> type:
    class Lying(Fitted, kind):
        seen = 0

        def say(self, told: str, values: list[F]) -> list[F]:
            values = super().say(told, values)
            if told == label:
                self.seen += 1
                if self.seen == which + 1:
                    values = [*values[:place], values[place] + F(0, 0, 1), *values[place + 1:]]
            return values

    return Lying


@pytest.mark.parametrize(("label", "which"), MESSAGES)
def test_one_false_message(small: None, label: str, which: int) -> None:
    """Claims of columns are refused by their opening; everything else is in an equation."""
    lying = made(lying_once(Careless, label, which))
    assert lying.seen > which
    refused(lying, EVALUATION.format("columns") if label in ("claims", "product claims") else ROUNDS)


@pytest.mark.parametrize(("label", "which", "reason"), [
    ("multiplicity", 0, EVALUATION.format("multiplicities")), ("sums", 1, ROUNDS),
    *((label, which, reason.format(what)) for which, what in ((0, "columns"), (2, "multiplicities"), (4, "round masks"))
      for label, reason in (("pad", EVALUATION), ("proximity", PROXIMITY_LEAF), ("evaluation", EVALUATION))),
    *((label, which, reason.format(what)) for which, what in ((1, "outputs"), (3, "weights"))
      for label, reason in (("proximity", PROXIMITY_LEAF), ("evaluation", EVALUATION_LEAF)))])
def test_one_false_message_that_is_checked_at_once(small: None, label: str, which: int, reason: str) -> None:
    place = 1 if label == "sums" else 0
    refused(made(lying_once(Careless, label, 0 if label == "sums" else which, place)), reason)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_false_claim_of_an_activation_carried_on(small: None, place: int) -> None:
    """q, a or h at the point, and the columns' combination made to fit: the leaves say otherwise."""
    refused(made(lying_once(Careless, "claims", 0, place), fit=True), EVALUATION_LEAF.format("columns"))


def test_outputs_changed_after_the_proof(small: None) -> None:
    prover = made()
    for i, j, by in ((0, 0, 1), (7, 1, -1)):
        prover.y[i][j] += by
        refused(prover, ".*")
        prover.y[i][j] -= by
    prover.y = prover.y[::-1]
    refused(prover, ".*")


# Provers that lie about weights.


def beyond(value: int, row: int, column: int) -> tuple[VerificationKey, Registered]:
    """A registration of weights of which one is another number."""
    network = masked_case.network()
    key, behind = registered(network, masked_case.key_of(network), 64, case.WEIGHT_SEED)
    columns = [list(each) for each in behind.columns]
    columns[column][row] = value % P
    behind.columns, behind.tree = columns, SaltedTree([codeword(each) for each in columns], behind.salts)
    return replace(key, roots=(behind.tree.root,)), behind


class Beyond(Fitted, CarelessWeights):
    """Counts what is no int8 as something that is; ``forged``: what is added to multiplicities."""

    forged: dict[int, int] = {}

    def multiplicities(self) -> list[int]:
        found = super().multiplicities()
        for value, by in self.forged.items():
            found[value + 128] = (found[value + 128] + by) % P
        return found


@pytest.mark.parametrize(("value", "row", "column"), [(128, 0, 0), (-129, 4, 4), (2**20, 2, 1), (5000, 7, 3)])
@pytest.mark.parametrize(("fit", "reason"), [(False, ROUNDS), (True, ROUNDS_LEAF)])
def test_weights_that_are_no_int8(small: None, value: int, row: int, column: int, fit: bool, reason: str) -> None:
    """In a weight, a bias, and a row that belongs to no weight of this layer."""
    for forged in ({}, {127: 1}):
        prover = Beyond(*beyond(value, row, column), case.SEED)
        prover.fit, prover.forged = fit, forged
        prover.prove()
        refused(prover, reason)


def test_uniform_rows_are_not_held_to_int8(small: None) -> None:
    key, behind = key_of()
    assert any(128 <= value < P - 128 for column in behind.columns for value in column[key.cell_rows:])
    prover = made_weights()
    api.verify_weights(key, prover.proof)


class MadeUp(Beyond):
    """A cell's helper is left out of what is added up, and made up for in a uniform row, which is added up too."""

    def commit_helpers(self) -> None:
        sent, state, proof = list(self.sent), self.state, self.proof
        super().commit_helpers()
        self.sent, self.state, self.proof = sent, state, proof
        self.missing = inner([(self.alpha - w).inverse() for w in range(-128, 128)], self.multiplicities()) - sum(
            (value for column in self.g for value in column), F(0))
        super().commit_helpers()

    missing = None

    def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
        found = super().masks(label, rows, columns)
        if label == "helpers" and self.missing is not None:
            found[0][:5] = [(a + b) % P for a, b in zip(found[0], self.missing.c)]
        return found


@pytest.mark.parametrize(("fit", "reason"), [(False, ROUNDS), (True, ROUNDS_LEAF)])
def test_uniform_rows_do_not_make_up_for_a_multiplicity(small: None, fit: bool, reason: str) -> None:
    prover = MadeUp(*beyond(200, 0, 0), case.SEED)
    prover.fit = fit
    prover.prove()
    total = inner([(prover.alpha - w).inverse() for w in range(-128, 128)], prover.multiplicities())
    assert total == sum((value for column in prover.g for value in column), F(0))
    refused(prover, reason)


@pytest.mark.parametrize(("label", "which", "reason"), [
    ("sums", 0, ROUNDS), ("range", 0, ROUNDS), ("range", 6, ROUNDS), ("table", 0, ROUNDS), ("table", 8, ROUNDS),
    ("multiplicity", 0, EVALUATION.format("multiplicities")), ("claims", 0, EVALUATION.format("helpers")), ("pad", 2, ROUNDS),
    *((label, which, reason.format(what)) for which, what in ((0, "helpers"), (1, "multiplicities"), (3, "round masks"))
      for label, reason in (("pad", EVALUATION), ("proximity", PROXIMITY_LEAF), ("evaluation", EVALUATION))),
    ("proximity", 2, PROXIMITY_LEAF.format("weights")), ("evaluation", 2, EVALUATION_LEAF.format("weights"))])
def test_one_false_message_about_weights(small: None, label: str, which: int, reason: str) -> None:
    lying = made_weights(lying_once(CarelessWeights, label, which))
    assert lying.seen > which
    refused(lying, reason)


# Other statements and kinds.


def test_proofs_of_other_kinds_and_statements(small: None) -> None:
    prover, weights = made(), made_weights()
    network = masked_case.network()
    other = masked_case.made(masked_case.Careless)
    for proof in (other.proof, weights.proof):
        refused(prover, "(length|encoding).*", proof)
        refused(prover, ".*", proof.ljust(len(prover.proof), b"\0")[:len(prover.proof)])
    refused(weights, "length.*", WeightsProver(network, network.key(16, -8, 7, 5)).prove())
    with pytest.raises(Rejected, match="^length"):
        api.verify_masked(other.key, other.nonce, np.array(other.y), prover.proof)
    with pytest.raises(Rejected, match="^inputs: the key's are committed, and the proof a masked one$"):
        api.verify(prover.key, prover.nonce, np.array(prover.x), np.array(prover.y), prover.proof)
    key, behind = registered(network, masked_case.key_of(network), 64, bytes(32))
    for change in ({"nonce": b"another"}, {"key": key, "registered": behind}):
        lying = made(type("Other", (Careless,), {}), **change)
        refused(prover, ".*", lying.proof)
    again = CarelessWeights(key, behind, case.SEED)
    again.prove()
    refused(weights, "weights's opening: the path of leaf .* does not lead to the root|.*", again.proof)


def test_inputs_that_are_others(small: None) -> None:
    class OtherMasks(Careless):
        def input_masks(self) -> list[list[int]]:
            return self.masks("another", self.key.masks, self.key.width)

    prover = made(OtherMasks)
    case.verify(prover)
    refused(prover, "inputs: they are not what the proof commits to", known=True)


# Encodings and the transcript.


@pytest.mark.parametrize("make", [made, made_weights])
def test_encodings(small: None, make) -> None:
    prover = make()
    seen, draw = set(), np.random.default_rng(0)
    for label, begin, end in prover.sent:
        if end - begin == 32 or label == "leaves":
            continue
        seen.add(label)
        for at in (begin, end - 4):
            number = int.from_bytes(prover.proof[at:at + 4], "little") + P
            refused(prover, "encoding: a number of the .* is not below p", prover.proof[:at] + number.to_bytes(4, "little") + prover.proof[at + 4:])
    assert len(seen) == (15 if make is made else 8)
    proof = prover.proof
    for other in (b"", proof[:-1], proof[4:], proof + b"\0", proof * 2):
        refused(prover, "length: .* bytes where a proof of this key has .*", other)
    for _ in range(12):
        changed = bytearray(proof)
        at, size = int(draw.integers(len(proof))), int(draw.integers(1, 64))
        changed[at:at + size] = draw.bytes(len(changed[at:at + size]))
        refused(prover, ".*", bytes(changed))


@pytest.mark.parametrize("label", ["weight pads", "masks", "columns"])
def test_leaves_that_are_not_canonical(small: None, label: str) -> None:
    class Lying(Careless):
        def spoil(self, told: str, codewords: list[list[int]]) -> list[list[int]]:
            return [[v + P for v in word] for word in codewords] if told == label else codewords

    refused(made(Lying), "encoding: a number of the .*'s leaves is not below p")


MASKED = {"kind", "nonce", "input salt", "inputs", "columns", "multiplicities", "helpers", "rows", "table", "features", "proximity", "evaluation"}


@pytest.mark.parametrize("rows", [True, False])
def test_a_prover_that_leaves_out_an_item_is_refused(small: None, rows: bool) -> None:
    count: list[str] = []

    class Counting:
        skip = None

        def absorb(self, label: str, data: bytes) -> None:
            count.append(label)
            if len(count) - 1 != self.skip:
                super().absorb(label, data)

    make, base = (made, Careless) if rows else (made_weights, CarelessWeights)
    kind = type("Counting", (Counting, base), {})
    make(kind)
    labels = list(count)
    for skip in range(len(labels) - 1):  # after the last, leaves, nothing is drawn
        if labels[skip] in labels[:skip] or rows and labels[skip] in MASKED:
            continue  # one of each kind, and of those that masked proofs have too none
        count.clear()
        refused(make(kind, skip=skip), ".*")


ROWS_ITEMS = {"kind", "key", "nonce", "outputs", "input salt", "inputs", "columns", "multiplicities", "masks", "weight pads", "helpers", "sums",
              "rows", "table", "multiplicity", "layers", "features", "claims", "product sum", "product", "product claims", "weights sum", "weights",
              "pad", "proximity", "evaluation", "leaves"}
WEIGHTS_ITEMS = {"kind", "key", "multiplicities", "masks", "weight pads", "helpers", "sums", "range", "table", "multiplicity", "claims", "pad",
                 "proximity", "evaluation", "leaves"}


@pytest.mark.parametrize("rows", [True, False])
def test_every_item_changes_every_later_challenge(small: None, monkeypatch: pytest.MonkeyPatch, rows: bool) -> None:
    """In the verifier."""
    log: Log = []
    module = hidden if rows else hidden_weights
    recorded = recording(module.Transcript, log)
    for each in (masked, layers, opening):
        monkeypatch.setattr(each, "demand", lambda holds, reason: None)
    monkeypatch.setattr(module, "Transcript", recorded)
    if rows:
        prover = made()
        check_every_item(lambda: hidden.check_hidden(prover.key, prover.nonce, np.array(prover.y), prover.proof, None), recorded, log, ROWS_ITEMS)
    else:
        weights = made_weights()
        check_every_item(lambda: hidden_weights.check_hidden_weights(weights.key, weights.proof), recorded, log, WEIGHTS_ITEMS)
