"""Dishonest provers of the batch protocol: every step at which each is found out."""

from __future__ import annotations

import copy
import random
import re

import numpy as np
import pytest
from batch_reference import case, messages, numbers
from batch_reference.case import Carried, CarriedWeights
from batch_reference.network import Network, Step, inputs
from batch_reference.recording import Log, check_every_item, recording
from batch_reference.rows import RowsProver
from batch_reference.trees import Tree, codeword

from enclaveml.zk.batch.format import P
from enclaveml.zk.batch.verify import api, layers, opening, rows, weights
from enclaveml.zk.batch.verify.api import Rejected

LAYERS = "layers: their parts are not the rows' last claim"
ACTIVATION = "activation of layer 1: the claims are not what the rounds lead to"
EVALUATION = "{}'s opening: the evaluation is not the claim"
PROXIMITY_LEAF = "{}'s opening: a leaf is not on the proximity combination"
EVALUATION_LEAF = "{}'s opening: a leaf is not on the evaluation combination"
PRODUCT = "product of layer {}: the claims are not what the rounds lead to"


def refused(prover: RowsProver, reason: str, proof: bytes | None = None) -> None:
    with pytest.raises(Rejected, match=f"^{reason if '.*' in reason else re.escape(reason)}$"):
        case.verify(prover, proof)


# False activations, carried on to the end.


class WrongActivation(Carried):
    """The first negative sum is let through as -q: a looks like an activation, and belongs to another q."""

    def infer(self) -> list[Step]:
        steps = self.network.run(self.x)
        i, j = next((i, j) for i, row in enumerate(steps[0].q) for j, q in enumerate(row) if -255 <= q < 0)
        steps[0].a[i][j] = -steps[0].q[i][j]
        return self.follow(steps)

    def follow(self, steps: list[Step]) -> list[Step]:
        """The last layer on the false activations."""
        matrix = self.network.weights[1]
        steps[1].z = [[sum(v * matrix[k][j] for k, v in enumerate([*row, 1, 2**8, 2**16])) for j in range(2)]
                      for row in steps[0].a]
        return steps


class NotClipped(WrongActivation):
    """An activation above 255."""

    def infer(self) -> list[Step]:
        steps = self.network.run(self.x)
        i, j = next((i, j) for i, row in enumerate(steps[0].q) for j, q in enumerate(row) if q > 255)
        steps[0].a[i][j] = steps[0].q[i][j]
        return self.follow(steps)


class ShiftedQuotient(WrongActivation):
    """The quotient one more, the remainder 2^s less: the same sum, and a negative remainder."""

    def infer(self) -> list[Step]:
        steps = self.network.run(self.x)
        i, j = next((i, j) for i, row in enumerate(steps[0].q) for j, q in enumerate(row) if 0 <= q < 255)
        steps[0].q[i][j] += 1
        steps[0].a[i][j] += 1
        steps[0].r[i][j] -= 2**self.key.layers[0].shift
        return self.follow(steps)


class Wrapped(WrongActivation):
    """Another remainder in the range, and the quotient that modulo p gives the same sum: far outside its range."""

    def infer(self) -> list[Step]:
        steps = self.network.run(self.x)
        shift = self.key.layers[0].shift
        step = steps[0]
        step.r[0][0] = (step.r[0][0] + 1) % 2**shift
        step.q[0][0] = (step.z[0][0] + 2 ** (shift - 1) - step.r[0][0]) * pow(2**shift, -1, P) % P
        step.a[0][0] = 255
        return self.follow(steps)


class WrongQuotient(WrongActivation):
    """Quotient, remainder and activation are those of another sum: lookups hold, the product does not."""

    def infer(self) -> list[Step]:
        steps = self.network.run(self.x)
        i, j = next((i, j) for i, row in enumerate(steps[0].q) for j, q in enumerate(row) if 0 <= q < 255)
        steps[0].q[i][j] += 1
        steps[0].a[i][j] += 1
        return self.follow(steps)


@pytest.mark.parametrize("prover", [WrongActivation, NotClipped, ShiftedQuotient, Wrapped])
@pytest.mark.parametrize(("depth", "reason"), [
    (0, LAYERS), (1, ACTIVATION), (2, EVALUATION.format("columns")), (3, EVALUATION_LEAF.format("columns"))])
def test_a_false_activation(prover: type[Carried], depth: int, reason: str) -> None:
    lying = prover(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.depth = depth
    lying.prove()
    refused(lying, reason)


@pytest.mark.parametrize(("depth", "reason"), [
    (1, PRODUCT.format(1)), (2, EVALUATION.format("weights of layer 1")),
    (3, EVALUATION_LEAF.format("weights of layer 1"))])
def test_a_quotient_of_another_sum(depth: int, reason: str) -> None:
    lying = WrongQuotient(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.depth = depth
    lying.prove()
    refused(lying, reason)


# Multiplicities.


@pytest.mark.parametrize("change", [
    {0: 1}, {0: 1, 1: -1}, {1023: 1, 1024: -1}, {2047: -1, 2048: 1}, {2048: 1, 2049: -1}, {2111: P - 5}])
@pytest.mark.parametrize(("depth", "reason"), [(0, LAYERS), (3, EVALUATION_LEAF.format("columns"))])
def test_forged_multiplicities(change: dict[int, int], depth: int, reason: str) -> None:
    lying = case.Forged(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.change, lying.depth = change, depth
    lying.prove()
    refused(lying, reason)


# Outputs.


@pytest.mark.parametrize(("depth", "reason"), [
    (0, PRODUCT.format(2)), (2, EVALUATION.format("weights of layer 2")),
    (3, EVALUATION_LEAF.format("weights of layer 2"))])
def test_outputs_changed_before_the_proof(depth: int, reason: str) -> None:
    lying = Carried(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.y = copy.deepcopy(lying.y)
    lying.y[3][1] += 1
    lying.depth = depth
    lying.prove()
    refused(lying, reason)


def test_outputs_changed_before_the_proof_and_the_lie_told_of_the_activations() -> None:
    class Lying(Carried):
        depth = 1

        def say(self, label: str, values: list[numbers.F]) -> list[numbers.F]:
            if label == "product claims" and self.number == 2:
                a, w = values
                return [a + self.claim * w.inverse() - self.inner, w]
            return super().say(label, values)

    lying = Lying(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.y = [[v + 256 for v in row] for row in lying.y]
    lying.prove()
    refused(lying, EVALUATION.format("columns"))


def test_outputs_changed_after_the_proof() -> None:
    prover = case.honest()
    for i, j, by in ((0, 0, 1), (3, 1, -1), (2, 0, 2**16)):
        y = np.array(prover.y)
        y[i, j] += by
        with pytest.raises(Rejected, match=f"^{LAYERS}$"):
            api.verify(prover.key, prover.nonce, np.array(prover.x), y, prover.proof)
    y = np.array(prover.y)[::-1]
    with pytest.raises(Rejected, match=f"^{LAYERS}$"):
        api.verify(prover.key, prover.nonce, np.array(prover.x), y, prover.proof)


def test_outputs_congruent_modulo_p() -> None:
    class Congruent(RowsProver):
        def statement(self) -> list[tuple[str, bytes]]:
            self.y = copy.deepcopy(self.y)
            self.y[0][0] += P if self.y[0][0] < 0 else -P
            return super().statement()

    lying = Congruent(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.prove()
    assert -(2**31) <= lying.y[0][0] < 2**31  # an int32 holds it, and in the field it is right
    refused(lying, "outputs: from .*, beyond -1006632960 to 1006632960")


# Another statement's proof.


def test_another_statements_proof() -> None:
    prover = case.honest()
    case.verify(prover)
    refused(prover, LAYERS, case.honest(seed=2).proof)
    refused(prover, LAYERS, case.honest(nonce=case.NONCE + b"1").proof)
    refused(prover, LAYERS, case.honest(nonce=b"").proof)
    other = case.network(seed=9)
    theirs = RowsProver(other, other.key(4), case.NONCE, prover.x)
    theirs.prove()
    refused(prover, LAYERS, theirs.proof)
    theirs.key = prover.key
    refused(theirs, LAYERS)  # their outputs and proof under this key


def test_another_models_key_with_equal_shapes_and_roots() -> None:
    prover = case.honest()
    for change in ({"input_low": -129}, {"range_bits": 11}, {"rows": 8}):
        key = copy.copy(prover.key)
        for name, value in change.items():
            object.__setattr__(key, name, value)
        with pytest.raises(Rejected, match="^(layers|length|inputs): "):
            api.verify(key, prover.nonce, np.array(prover.x), np.array(prover.y), prover.proof)


# Weights.


class OtherWeights(RowsProver):
    """Computes with another network's weights, consistently everywhere, under this key."""

    opened = "theirs"

    def weights_tree(self, number: int, matrix: list[list[int]]) -> Tree:
        if self.opened == "theirs":
            return super().weights_tree(number, matrix)
        return Tree([codeword(column) for column in case.network().columns(number - 1)])

    def open(self, trees: list, columns: list, t: list, theta: list) -> None:
        if self.opened == "proximity" and len(columns) in (2, 4) and len(trees) == 1:
            number = 1 if len(columns) == 4 else 2
            self.mine = case.network().columns(number - 1)
        elif self.opened == "both" and len(trees) == 1:
            columns = case.network().columns(0 if len(columns) == 4 else 1)
        super().open(trees, columns, t, theta)
        self.mine = None

    mine = None

    def say(self, label: str, values: list) -> list:
        if label == "proximity" and self.mine:
            gamma = self.drawn[-1][1]
            return [sum((g * column[i] for g, column in zip(gamma, self.mine)), numbers.F(0))
                    for i in range(len(values))]
        return values


@pytest.mark.parametrize(("opened", "reason"), [
    ("theirs", "weights of layer 1's opening: the path of leaf .* does not lead to the root"),
    ("this key's", PROXIMITY_LEAF.format("weights of layer 1")),
    ("proximity", EVALUATION_LEAF.format("weights of layer 1")),
    ("both", EVALUATION.format("weights of layer 1"))])
def test_other_weights_everywhere(opened: str, reason: str) -> None:
    lying = OtherWeights(case.network(seed=9), case.key(), case.NONCE, inputs(4, 3))
    lying.opened = opened
    lying.prove()
    refused(lying, reason)


def _wide(number: int, k: int, value: int) -> Network:
    weights = copy.deepcopy(case.network().weights)
    weights[number][k][0] = value
    return Network(weights, case.network().shifts)


@pytest.mark.parametrize("network", [
    _wide(0, 1, 128), _wide(0, 0, -129), _wide(1, 6, 200), _wide(1, 0, P // 2), _wide(0, 0, 128 * pow(3, -1, P) % P)])
@pytest.mark.parametrize(("depth", "reason"), [
    (0, "sums: they do not add up to the table's"),
    (1, "range of layer .: the claims are not what the rounds lead to.*"),
    (2, "weights of layer .'s opening: the evaluation is not the claim.*"),
    (3, "weights of layer .'s opening: a leaf is not on the evaluation combination.*")])
def test_weights_outside_int8(network: Network, depth: int, reason: str) -> None:
    lying = CarriedWeights(network, network.key(4))
    lying.depth = depth
    with pytest.raises(Rejected, match=f"^{reason}$"):
        api.verify_weights(lying.key, lying.prove())


def test_cells_below_the_weights_are_int8_too() -> None:
    class Below(Network):
        def columns(self, number: int) -> list[list[int]]:
            columns = super().columns(number)
            columns[0][-1] = 1000
            return columns

    network = Below(case.network().weights, case.network().shifts)
    with pytest.raises(Rejected, match="^sums: "):
        api.verify_weights(network.key(4), CarriedWeights(network, network.key(4)).prove())


def test_rows_under_a_wide_weight_are_proved_and_only_the_weights_proof_refuses_it() -> None:
    network = _wide(0, 1, 130)
    prover = RowsProver(network, network.key(4), case.NONCE, inputs(4, 3))
    prover.prove()
    case.verify(prover)


def test_another_models_weights_proof() -> None:
    proof = CarriedWeights(case.network(), case.key()).prove()
    api.verify_weights(case.key(), proof)
    with pytest.raises(Rejected, match="^sums: "):
        api.verify_weights(case.network(seed=9).key(4), proof)
    with pytest.raises(Rejected, match="^sums: "):
        api.verify_weights(case.key(8), proof)


# One false message at a time.


@pytest.mark.parametrize(("label", "which", "reason"), [
    ("rows", 0, LAYERS), ("rows", 1, LAYERS), ("layers", 0, LAYERS), ("features", 0, ACTIVATION),
    ("features", 1, ACTIVATION), ("claims", 0, ACTIVATION), ("product", 0, PRODUCT.format(2)),
    ("product", 3, PRODUCT.format(1)), ("product claims", 0, PRODUCT.format(2)),
    ("product claims", 1, PRODUCT.format(1)), ("proximity", 0, PROXIMITY_LEAF.format("columns")),
    ("evaluation", 0, EVALUATION.format("columns")), ("proximity", 1, PROXIMITY_LEAF.format("weights of layer 1")),
    ("evaluation", 2, EVALUATION.format("weights of layer 2"))])
@pytest.mark.parametrize("element", [0, -1])
def test_one_false_message(label: str, which: int, reason: str, element: int) -> None:
    class Lying(RowsProver):
        seen = 0

        def say(self, told: str, values: list[numbers.F]) -> list[numbers.F]:
            if told != label:
                return values
            self.seen += 1
            if self.seen != which + 1:
                return values
            values = list(values)
            values[element] = values[element] + numbers.F(0, 0, 1)
            return values

    lying = Lying(case.network(), case.key(), case.NONCE, inputs(4, 3))
    lying.prove()
    assert lying.seen > which
    refused(lying, reason)


def test_false_leaves() -> None:
    prover = case.honest()
    spans = [(begin, end) for label, begin, end in prover.sent if label == "leaves"]
    for (begin, end), what in zip(spans, ("columns", "weights of layer 1", "weights of layer 2"), strict=True):
        for at in (begin, (begin + end) // 2, end - 1):
            proof = bytearray(prover.proof)
            proof[at] ^= 1
            refused(prover, f"{what}'s opening: the path of leaf .* does not lead to the root", bytes(proof))
    begin, end = spans[0]
    half = (end - begin) // messages.QUERIES
    proof = prover.proof[:begin] + prover.proof[begin + half:end] + prover.proof[begin:begin + half] + prover.proof[end:]
    refused(prover, "columns's opening: the path of leaf .* does not lead to the root", proof)


# Spoilt codewords.


class Spoilt(RowsProver):
    """Commits words that are off their codewords at some positions."""

    where: tuple[int, ...] = ()

    def spoil(self, label: str, codewords: list[list[int]]) -> list[list[int]]:
        if label == "columns":
            for position in self.where:
                codewords[0][position] = (codewords[0][position] + 1) % P
        return codewords


def _tiny(rows: int, where: tuple[int, ...], nonce: bytes) -> Spoilt:
    network = case.network((1, 1, 1), (6,))
    prover = Spoilt(network, network.key(rows), nonce, inputs(rows, 1))
    prover.where = where
    prover.prove()
    return prover


def _positions(prover: Spoilt) -> set[int]:
    return set(next(drawn for label, drawn in prover.drawn if label == "positions"))


def test_a_spoilt_symbol_matters_only_where_it_is_opened() -> None:
    seen = set()
    for position in range(0, 128, 11):
        prover = _tiny(32, (position,), b"")
        hit = position in _positions(prover)
        seen.add(hit)
        if hit:
            refused(prover, PROXIMITY_LEAF.format("columns"))
        else:
            case.verify(prover)  # rightly: what is decoded is the true statement
    assert seen == {True, False}


def test_just_inside_the_decoding_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    """3n/2 of 4n symbols spoilt, two positions opened: a true statement passes where neither is hit, and only there."""
    monkeypatch.setattr(opening, "QUERIES", 2)
    monkeypatch.setattr(messages, "QUERIES", 2)
    spoilt = tuple(random.Random(0).sample(range(32), 12))
    seen = set()
    for nonce in range(12):
        prover = _tiny(8, spoilt, bytes([nonce]))
        hit = bool(_positions(prover) & set(spoilt))
        seen.add(hit)
        if hit:
            refused(prover, PROXIMITY_LEAF.format("columns"))
        else:
            case.verify(prover)
    assert seen == {True, False}


def test_just_inside_the_radius_155_positions_find_it() -> None:
    refused(_tiny(8, tuple(range(0, 24, 2)), b""), PROXIMITY_LEAF.format("columns"))


class Between(Carried):
    """Commits words between the true columns and false ones, and says of them what is true of the false ones.

    The two differ by a polynomial with n - 1 roots on the domain, so that they agree there; of the other 3n + 1
    symbols the ``false`` first are the false columns'. Everything said is consistent with the false columns.
    """

    false = 0

    def infer(self) -> list[Step]:
        steps = self.network.run(self.x)
        n = self.key.rows
        word = [1]
        w = pow(31, (P - 1) // (4 * n), P)
        for i in range(n - 1):  # the product of X - w^i
            root = pow(w, i, P)
            word = [((word[k - 1] if k else 0) - (root * word[k] if k < len(word) else 0)) % P
                    for k in range(len(word) + 1)]
        self.change = word
        for i in range(n):
            steps[0].a[i][0] = (steps[0].a[i][0] + word[i]) % P
        matrix = self.network.weights[1]
        steps[1].z = [[sum(v * matrix[k][0] for k, v in enumerate([*row, 1, 2**8, 2**16]))] for row in steps[0].a]
        steps[1].z = [[(v + P // 2) % P - P // 2 for v in row] for row in steps[1].z]
        return steps

    def spoil(self, label: str, codewords: list[list[int]]) -> list[list[int]]:
        if label == "columns":
            change, n = codeword(self.change), self.key.rows
            assert change[:n - 1] == [0] * (n - 1) and 0 not in change[n - 1:]
            for position in range(n - 1 + self.false, 4 * n):
                codewords[1][position] = (codewords[1][position] - change[position]) % P
        return codewords


@pytest.mark.parametrize("false", [0, 12, 13, 24])
def test_a_word_between_two_statements(false: int) -> None:
    """n = 8: 12 of 32 symbols are the radius. Up to there the word decodes to the truth, and the false statement agrees
    with it on no more than (7 + 13) / 32 = 5/8 of the positions: what the table of errors counts with."""
    network = case.network((1, 1, 1), (6,))
    lying = Between(network, network.key(8), b"", inputs(8, 1))
    lying.depth, lying.false = 3, false
    lying.prove()
    agree = sum(a == b for a, b in zip(codeword(lying.columns[1]), _committed(lying), strict=True))
    assert agree == 7 + false and (false > 13 or agree <= 5 * 32 // 8)
    refused(lying, PROXIMITY_LEAF.format("columns"))


def _committed(prover: Between) -> list[int]:
    return [int.from_bytes(leaf[4:8], "little") for leaf in prover.trees[0].leaves]


def test_a_false_word_on_its_own_codeword_falls_by_its_activations() -> None:
    network = case.network((1, 1, 1), (6,))
    lying = Between(network, network.key(8), b"", inputs(8, 1))
    lying.depth, lying.false = 3, 25
    lying.prove()
    refused(lying, EVALUATION_LEAF.format("columns"))


# The transcript.


def test_a_prover_that_leaves_out_an_item_is_refused() -> None:
    count = []

    class Counting(RowsProver):
        skip = None

        def absorb(self, label: str, data: bytes) -> None:
            count.append(label)
            if len(count) - 1 != self.skip:
                super().absorb(label, data)

    network = case.network((1, 2, 1), (6,))
    key, x = network.key(4), inputs(4, 1)
    whole = Counting(network, key, case.NONCE, x)
    whole.prove()
    case.verify(whole)
    labels = list(count)
    assert labels[:7] == ["kind", "key", "nonce", "inputs", "outputs", "columns", "multiplicities"]
    for skip in range(len(labels) - 1):  # after the last, leaves, nothing is drawn
        count.clear()
        lying = Counting(network, key, case.NONCE, x)
        lying.skip = skip
        lying.prove()
        with pytest.raises(Rejected):
            case.verify(lying)


ITEMS = {
    "rows": {"kind", "key", "nonce", "inputs", "outputs", "columns", "multiplicities", "helpers", "rows", "layers",
             "features", "claims", "product", "product claims", "proximity", "evaluation", "leaves"},
    "weights": {"kind", "key", "multiplicities", "helpers", "sums", "range", "claims", "proximity", "evaluation",
                "leaves"},
}


@pytest.mark.parametrize("kind", ["rows", "weights"])
def test_every_item_changes_every_later_challenge(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the verifier."""
    log: Log = []
    recorded = recording(rows.Transcript, log)
    for module in (rows, layers, weights, opening):
        monkeypatch.setattr(module, "demand", lambda holds, reason: None)
    for module in (rows, weights):
        monkeypatch.setattr(module, "Transcript", recorded)
    network = case.network((1, 2, 1), (6,))
    prover = RowsProver(network, network.key(4), case.NONCE, inputs(4, 1))
    proof = prover.prove() if kind == "rows" else CarriedWeights(network, prover.key).prove()

    def verify() -> None:
        if kind == "rows":
            rows.check_rows(prover.key, prover.nonce, np.array(prover.x), np.array(prover.y), proof)
        else:
            weights.check_weights(prover.key, proof)

    check_every_item(verify, recorded, log, ITEMS[kind])
