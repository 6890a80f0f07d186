"""Masked proofs: agreement with the reference prover, with known inputs and without, encodings, and provers that lie."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
from batch_reference import case as dense_case
from batch_reference import masked_case as case
from batch_reference.masked import MaskedProver, combination, inner, transposed, vector
from batch_reference.masked_case import Careless, Carried
from batch_reference.masks import field_elements
from batch_reference.network import Step, inputs
from batch_reference.numbers import F, eqs
from batch_reference.recording import Log, check_every_item, recording
from batch_reference.rows import RowsProver

from enclaveml.zk.batch.format import QUERIES, P
from enclaveml.zk.batch.verify import api, known_inputs, layers, masked, opening
from enclaveml.zk.batch.verify.api import Rejected

ACTIVATION = "activation of layer 1: the claims are not what the rounds lead to"
PRODUCT = "product of layer {}: the claims are not what the rounds lead to"
EVALUATION = "{}'s opening: the evaluation is not the claim"
EVALUATION_LEAF = "{}'s opening: a leaf is not on the evaluation combination"
PROXIMITY_LEAF = "{}'s opening: a leaf is not on the proximity combination"
INPUTS = "inputs: they are not what the proof commits to"
OTHERS = "inputs: the proof is not of these, or not under this input key"
ROUNDS = EVALUATION.format("round masks")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    case.small_sizes(monkeypatch)


def refused(prover: MaskedProver, reason: str, proof: bytes | None = None, known: bool = False) -> None:
    with pytest.raises(Rejected, match=f"^{reason if '.*' in reason else re.escape(reason)}$"):
        case.verify(prover, proof, known)


# Honest proofs.

#: Beginning of the SHA-256 of the whole proof of 512 rows below: the format can't change by accident.
DIGEST = "4c58ea18f4737b8b"


@cache
def whole() -> MaskedProver:
    """A proof of the fewest rows that the format allows, by a prover that checks that it hides."""
    found = case.network()
    key = case.key_of(found, 512, 256)
    prover = MaskedProver(found, key, case.NONCE, case.rows_of(key), case.INPUT_KEY, case.SEED)
    prover.prove()
    return prover


def test_a_whole_proof_of_512_rows() -> None:
    prover = whole()
    assert len(prover.proof) == api.proof_bytes(prover.key)
    case.verify(prover)
    case.verify(prover, known=True)
    assert sha256(prover.proof).hexdigest()[:16] == DIGEST


def test_no_value_stands_in_the_proof() -> None:
    """No eight rows of a column, nor the table's multiplicities, in any integer's bytes; what is public is found."""
    prover = whole()
    real, last = prover.steps[0], prover.full[-1]
    arrays = {"x": prover.x, "q": real.q, "a": real.a, "r": real.r, "z": real.z, "mask rows": last.z[-256:]}
    columns = {name: transposed(rows) for name, rows in arrays.items()}
    columns["multiplicities"] = [prover.multiplicities()]

    def found(proof: bytes, values: list[int]) -> bool:
        numbers = np.array(values, np.int64)
        coded = [numbers.astype(dtype).tobytes() for dtype in ("u1", "<i2", "<u2", "<i4", ">i4", "<i8")]
        return any(data in proof for data in [*coded, (numbers % P).astype("<u4").tobytes()])

    for name, parts in columns.items():
        for column in parts:
            for at in range(0, len(column) - 8, 8):
                run = column[at:at + 8]
                if len(set(run)) > 3:  # a run of zeros may stand anywhere
                    assert not found(prover.proof, run), name
    public = RowsProver(prover.network, case.network().key(16, -8, 7, 5), b"", prover.x[:16])
    counts = public.multiplicities()
    assert found(public.prove(), counts) and not found(prover.proof, counts)


@pytest.mark.parametrize(("widths", "rows", "masks"), [
    ((2, 3, 2), 16, 8), ((1, 1, 1), 32, 16), ((3, 2, 4, 1), 64, 8), ((2, 1, 2, 1, 3), 16, 8)])
def test_honest_proofs_hold(small: None, widths: tuple[int, ...], rows: int, masks: int) -> None:
    found = case.network(widths)
    key = case.key_of(found, rows, masks, 8)
    prover = Careless(found, key, b"", case.rows_of(key), case.INPUT_KEY, case.SEED)
    assert len(prover.prove()) == api.proof_bytes(key)
    case.verify(prover)
    case.verify(prover, known=True)


def test_layers_that_are_wired_to_maps_and_several_arrays(small: None) -> None:
    """Of which the third reads inputs beside activations, and the second adds inputs: a claim of the inputs each."""
    key = replace(dense_case.wired().key(16, range_bits=11), masks=8)
    prover = Careless(dense_case.wired(), key, b"", inputs(8, 18), case.INPUT_KEY, case.SEED)
    assert len(prover.prove()) == api.proof_bytes(key)
    assert sum(label == "residual" for label, *_ in prover.sent) == 2
    case.verify(prover)
    case.verify(prover, known=True)
    for row, place in ((0, 0), (7, 17), (3, 7)):
        prover.x[row][place] ^= 1
        refused(prover, OTHERS, known=True)
        prover.x[row][place] ^= 1
    prover.y[7][1] += 1
    refused(prover, ".*")


@pytest.mark.parametrize("which", [0, 1])
def test_a_false_claim_of_what_is_added(small: None, which: int) -> None:
    class Lying(Careless):
        said = 0

        def say(self, label: str, values: list[F]) -> list[F]:
            if label != "residual":
                return values
            self.said += 1
            return [values[0] + 1] if self.said == which + 1 else values

    key = replace(dense_case.wired().key(16, range_bits=11), masks=8)
    prover = Lying(dense_case.wired(), key, b"", inputs(8, 18), case.INPUT_KEY, case.SEED)
    prover.prove()
    refused(prover, PRODUCT.format(3 - which))


def test_a_prover_whose_masks_do_not_hide_starts_anew(small: None) -> None:
    """155 positions show 64 symbols of each column, and there are 8 mask rows: no masks hide that."""

    class Stubborn(MaskedProver):
        tried = 0

        def hidden_enough(self) -> bool:
            self.tried += 1
            assert not super().hidden_enough()
            return self.tried == 3

    prover, first = case.made(Stubborn), case.made(Careless)
    assert prover.tried == 3
    case.verify(prover, known=True)
    assert prover.seed == sha256(sha256(case.SEED).digest()).digest()
    assert prover.proof[:32] != first.proof[:32]


def test_the_streams_are_the_same() -> None:
    found = known_inputs.stream(b"s" * 32, "inputs", 3000)
    assert found.tolist() == [value for row in field_elements(b"s" * 32, "inputs", 1000, 3) for value in row]
    assert found.max() < P and known_inputs.stream(b"s" * 32, "inputs", 1).tolist() == found[:1].tolist()
    assert known_inputs.stream(b"s" * 32, "input", 1).tolist() != found[:1].tolist()


# The inputs.


def test_known_inputs_that_are_others(small: None) -> None:
    prover = case.made(Careless)
    case.verify(prover, known=True)
    x, y = np.array(prover.x), np.array(prover.y)

    def known(x: object, key: object = case.INPUT_KEY) -> None:
        api.verify_masked(prover.key, prover.nonce, y, prover.proof, api.KnownInputs(x, key))

    for i, j in ((0, 0), (7, 1), (3, 0)):
        other = x.copy()
        other[i, j] += 1 if other[i, j] < 7 else -1
        with pytest.raises(Rejected, match=f"^{OTHERS}$"):
            known(other)
    with pytest.raises(Rejected, match=f"^{OTHERS}$"):
        known(x, bytes(32))
    for key in (b"", bytes(31), bytes(33), "k" * 32, bytearray(32), None):
        with pytest.raises(Rejected, match="^inputs: their key is not 32 bytes$"):
            known(x, key)
    with pytest.raises(Rejected, match=r"^inputs: the shape is \(16, 2\) where the key's is \(8, 2\)$"):
        known(np.array(prover.inputs))
    with pytest.raises(Rejected, match="^inputs: from .* to 8, beyond -8 to 7$"):
        known(np.where(np.arange(16).reshape(8, 2) == 5, 8, x))
    for other in (None, x.tolist(), x.astype(float)):
        with pytest.raises(Rejected, match="^inputs: not an array of integers$"):
            known(other)


def test_inputs_that_are_not_rank_0s(small: None) -> None:
    """A worker that proves of other inputs, or with mask rows of its own: true of what it commits to, and refused by who knows."""

    class OtherMasks(Careless):
        def input_masks(self) -> list[list[int]]:
            return self.masks("another", self.key.masks, self.key.width)

    prover = case.made(OtherMasks)
    case.verify(prover)
    refused(prover, INPUTS, known=True)

    class OtherInputs(Careless):
        def mask_rows(self) -> None:
            self.x = [list(row[::-1]) for row in self.x]
            self.steps = self.infer()
            super().mask_rows()

    prover = case.made(OtherInputs)
    prover.x, theirs = case.rows_of(prover.key), prover.x
    prover.y = case.network().run(prover.x)[-1].z
    refused(prover, ".*", known=True)
    assert prover.x != theirs


def test_inputs_that_are_committed_to_and_others_that_are_said(small: None) -> None:
    """Says the digest of rank 0's inputs, and proves of others with the same outputs: found at the point."""

    class Lying(Careless):
        def mask_rows(self) -> None:
            super().mask_rows()
            self.inputs = [list(row) for row in self.inputs]
            self.inputs[-1][0] += 1  # a mask row: real rows, sums and outputs as they should be
            z = self.network.sums(1, [self.inputs[-8:]])
            step = self.full[0]
            step.z[-8:] = [[v % P for v in row] for row in z]
            step.r[-8:] = [[(u + 4 - 8 * v) % P for u, v in zip(us, vs)] for us, vs in zip(z, step.q[-8:])]

    lying = case.made(Lying)
    case.verify(lying)
    refused(lying, INPUTS, known=True)


def test_a_false_claim_of_the_inputs(small: None) -> None:
    """Committed to other inputs' columns, and says at the point what rank 0 knows."""

    class Lying(Carried):
        depth = 0

        def mask_rows(self) -> None:
            super().mask_rows()
            self.committed = copy.deepcopy(self.inputs)
            self.committed[2][0] += 1

        def commit(self, label: str, columns: list[list[int]]):
            if label == "columns":
                self.columns[:2] = transposed(self.committed)
            return super().commit(label, self.columns if label == "columns" else columns)

    for depth, reason in ((0, EVALUATION), (3, EVALUATION_LEAF)):
        lying = case.made(Lying, depth=depth)
        refused(lying, reason.format("columns"), known=True)
        refused(lying, reason.format("columns"))


# False activations on real rows, carried on to the end.


class WrongActivation(Carried):
    """The first negative quotient is let through: an activation that belongs to another."""

    def infer(self) -> list[Step]:
        steps = super().infer()
        i, j = next((i, j) for i, row in enumerate(steps[0].q) for j, q in enumerate(row) if q < 0)
        steps[0].a[i][j] = -steps[0].q[i][j]
        return self.follow(steps)

    def follow(self, steps: list[Step]) -> list[Step]:
        columns = transposed(self.network.weights[1])
        steps[1].z = [[sum(v * w for v, w in zip([*row, 1, 2**8, 2**16], column)) for column in columns]
                      for row in steps[0].a]
        return steps


class ShiftedQuotient(WrongActivation):
    """The quotient one more, the remainder 2^s less: the same sum, and a negative remainder."""

    def infer(self) -> list[Step]:
        steps = super(WrongActivation, self).infer()
        i, j = next((i, j) for i, row in enumerate(steps[0].q) for j, q in enumerate(row) if 0 <= q < 31)
        steps[0].q[i][j] += 1
        steps[0].a[i][j] += 1
        steps[0].r[i][j] -= 8
        return self.follow(steps)


class Wrapped(WrongActivation):
    """Another remainder in the range, and the quotient that modulo p gives the same sum."""

    def infer(self) -> list[Step]:
        steps = super(WrongActivation, self).infer()
        step = steps[0]
        step.r[0][0] = (step.r[0][0] + 1) % 8
        step.q[0][0] = (step.z[0][0] + 4 - step.r[0][0]) * pow(8, -1, P) % P
        step.a[0][0] = 255
        return self.follow(steps)


class LastRow(WrongActivation):
    """On the last real row, beside the mask rows."""

    def infer(self) -> list[Step]:
        steps = super(WrongActivation, self).infer()
        steps[0].a[7][0] += 1
        return self.follow(steps)


@pytest.mark.parametrize("prover", [WrongActivation, ShiftedQuotient, Wrapped, LastRow])
@pytest.mark.parametrize(("depth", "reason"), [
    (0, ROUNDS), (1, ACTIVATION), (2, EVALUATION.format("columns")), (3, EVALUATION_LEAF.format("columns"))])
def test_a_false_activation(small: None, prover: type[Carried], depth: int, reason: str) -> None:
    refused(case.made(prover, depth=depth), reason)


def test_a_wrong_quotient_falls_by_the_product(small: None) -> None:
    """Quotient and remainder of another sum: lookups hold."""

    class WrongQuotient(WrongActivation):
        def infer(self) -> list[Step]:
            steps = super(WrongActivation, self).infer()
            steps[0].q[0][0] += 1
            steps[0].a[0][0] = max(0, steps[0].q[0][0])
            return self.follow(steps)

    for depth, reason in ((1, PRODUCT.format(1)), (2, EVALUATION.format("weights of layer 1"))):
        refused(case.made(WrongQuotient, depth=depth), reason)


# Lookups: multiplicities, sums, mask rows that are to make up for a lie.


class Forged(Carried):
    change = {0: 1, 1: -1}

    def multiplicities(self) -> list[int]:
        counts = super().multiplicities()
        for entry, by in self.change.items():
            counts[entry] = (counts[entry] + by) % P
        return counts


@pytest.mark.parametrize("change", [{0: 1, 1: -1}, {63: -1, 64: 1}, {71: P - 5}])
@pytest.mark.parametrize(("depth", "reason"), [(0, ROUNDS), (1, ACTIVATION), (3, EVALUATION_LEAF.format("columns"))])
def test_forged_multiplicities(small: None, change: dict[int, int], depth: int, reason: str) -> None:
    refused(case.made(Forged, change=change, depth=depth), reason)


def test_multiplicities_beyond_the_table_count_for_nothing(small: None) -> None:
    case.verify(case.made(Forged, change={}))
    prover = case.made(Careless)
    assert (len(prover.counts), len(prover.counts[0])) == (32, 8)  # 128 places for 72 entries, as many of masks

    class Beyond(Careless):
        def multiplicities(self) -> list[int]:
            return [*super().multiplicities(), 5, 7]

    case.verify(case.made(Beyond))


class MaskRowsCount(Forged):
    """A forged multiplicity, and a mask row's h that makes the sums over all rows agree; step 5 over all rows."""

    change = {3: 1}
    depth = 0

    def commit_helpers(self) -> None:
        sent, state, proof = list(self.sent), self.state, self.proof
        super().commit_helpers()
        over = self.reciprocals()[3] - sum((row[j] for row in self.hs[0][-8:] for j in range(3)), F(0))
        self.missing, self.sent, self.state, self.proof = over, sent, state, proof
        super().commit_helpers()
        self.missing = None

    missing = None

    def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
        found = super().masks(label, rows, columns)
        if label == "h 1" and self.missing is not None:
            found[0][:5] = [(a + b) % P for a, b in zip(found[0], self.missing.c)]
        return found

    def rows_that_count(self) -> list[int]:
        return [1] * self.key.rows

    def sums_agree(self) -> bool:
        counts = [count for row in self.counts[:16] for count in row]
        return inner(self.reciprocals(), counts) == sum((h for row in self.hs[0] for h in row), F(0))


@pytest.mark.parametrize(("depth", "reason"), [
    (0, ROUNDS), (1, ACTIVATION), (2, EVALUATION.format("columns")), (3, EVALUATION_LEAF.format("columns"))])
def test_mask_rows_do_not_make_up_for_a_multiplicity(small: None, depth: int, reason: str) -> None:
    lying = case.made(MaskRowsCount, depth=depth)
    assert lying.sums_agree()  # over all rows the lookups' sums agree
    refused(lying, reason)


def test_the_rows_of_masks_are_no_entries(small: None) -> None:
    """A multiplicity is missing in the table, and counted in a row of masks, as if the table went on there."""

    class GoesOn(Forged):
        def reciprocals(self) -> list[F]:
            found = super().reciprocals()
            return found[:128] + [found[3], *[F(0)] * 127]

        def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
            found = super().masks(label, rows, columns)
            if label == "multiplicities":
                found[0][0] = 1
            return found

    refused(case.made(GoesOn, change={3: -1}), ROUNDS)
    refused(case.made(GoesOn, change={3: -1}, depth=3), EVALUATION_LEAF.format("round masks"))


class Sums(Carried):
    """Says false sums; ``both``: so that what they hide agrees."""

    both = False

    def say(self, label: str, values: list[F]) -> list[F]:
        if label == "sums":
            return [values[0] + self.mu * 7, values[1] + 7] if self.both else [values[0], values[1] + 1]
        return super().say(label, values)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("depth", "reason"), [(0, ROUNDS), (3, ".*leaf is not on the evaluation combination")])
def test_false_sums(small: None, both: bool, depth: int, reason: str) -> None:
    refused(case.made(Sums, both=both, depth=depth), reason)


def test_a_forged_multiplicity_and_the_sum_that_the_rows_have(small: None) -> None:
    """Both sum-checks are honest; what the two sums hide is not equal."""

    class Lying(Forged):
        def say(self, label: str, values: list[F]) -> list[F]:
            if label == "sums":
                return [values[0] - self.mu * self.reciprocals()[3], values[1]]
            return super().say(label, values)

    refused(case.made(Lying, change={3: 1}), ROUNDS)
    lying = case.made(Lying, change={3: 1}, depth=3)
    refused(lying, EVALUATION_LEAF.format("round masks"))


@pytest.mark.parametrize("which", [0, 16, 17, 33])
@pytest.mark.parametrize(("depth", "reason"), [(0, ROUNDS), (3, EVALUATION_LEAF.format("round masks"))])
def test_rounds_masked_by_other_polynomials(small: None, which: int, depth: int, reason: str) -> None:
    class Lying(Carried):
        def round_masks(self) -> list[F]:
            found = super().round_masks()
            found[which] = found[which] + F(0, 0, 1)
            return found

    lying = case.made(Lying, depth=depth)
    assert (len(lying.rho), len(lying.entry)) == (4, 8)  # 17 coefficients and 17
    refused(lying, reason)


# Outputs.


class Outputs(Carried):
    """Outputs changed before the proof: at row 3, and ``masks``, what is added to the outputs' mask rows."""

    masks_by, change = 0, 1

    def infer(self) -> list[Step]:
        steps = super().infer()
        steps[-1].z = copy.deepcopy(steps[-1].z)
        steps[-1].z[3][1] += self.change
        return steps

    def output_masks(self) -> list[list[int]]:
        found = [list(row) for row in super().output_masks()]
        found[3][1] += self.masks_by
        return found


class MasksOnly(Outputs):
    masks_by, change = 1, 0


class MadeUp(Outputs):
    masks_by, change = -1, 1


@pytest.mark.parametrize("prover", [Outputs, MasksOnly, MadeUp])
@pytest.mark.parametrize(("depth", "truthful", "reason"), [
    (0, True, EVALUATION.format("outputs")), (3, True, EVALUATION_LEAF.format("outputs")),
    (0, False, PRODUCT.format(2)), (2, False, EVALUATION.format("weights of layer 2"))])
def test_false_outputs(small: None, prover: type[Outputs], depth: int, truthful: bool, reason: str) -> None:
    """``truthful``: the claim of all rows' outputs is the network's, else that of what is said and committed."""

    class Lying(prover):
        def finish(self) -> None:
            rows = eqs(self.rho)
            if truthful:
                columns = transposed(self.network.weights[1])
                values = [*self.given[1], 1, 2**8, 2**16]
                self.output = [inner(values, column) for column in columns]
            else:
                self.output = vector(rows, self.y + self.output_masks())
            super().finish()

    refused(case.made(Lying, depth=depth), reason)


def test_a_pad_that_makes_up_for_a_false_claim(small: None) -> None:
    """What would be accepted if the pad were added to the claim with a factor known before it is sent."""

    class Lying(Outputs):
        def finish(self) -> None:
            columns = transposed(self.network.weights[1])
            self.output = [inner([*self.given[1], 1, 2**8, 2**16], column) for column in columns]
            super().finish()

        def open_outputs(self, weights: list[F], theta: list[F], value: F) -> None:
            self.over = inner(weights, combination(theta, self.output_columns)) - value
            super().open_outputs(weights, theta, value)
            self.over = F(0)

        over = F(0)

        def say(self, label: str, values: list[F]) -> list[F]:
            return [values[0] + self.over] if label == "pad" else super().say(label, values)

    refused(case.made(Lying), EVALUATION.format("outputs"))


def test_outputs_changed_after_the_proof(small: None) -> None:
    prover = case.made(Careless)
    for i, j, by in ((0, 0, 1), (7, 1, -1)):
        prover.y = copy.deepcopy(prover.y)
        prover.y[i][j] += by
        refused(prover, ".*")
    prover.y = case.made(Careless).y[::-1]
    refused(prover, ".*")


def test_outputs_congruent_modulo_p(small: None) -> None:
    class Congruent(Careless):
        def statement(self) -> list[tuple[str, bytes]]:
            self.y = copy.deepcopy(self.y)
            self.y[0][0] += P if self.y[0][0] < 0 else -P
            return super().statement()

    refused(case.made(Congruent), "outputs: from .*, beyond -1006632960 to 1006632960")


# Other statements and kinds.


def test_a_public_proof_and_a_masked_one_do_not_stand_for_each_other(small: None) -> None:
    masked_proof = case.made(Careless)
    public = RowsProver(case.network(), case.network().key(16, -8, 7, 5), case.NONCE,
                        masked_proof.x + masked_proof.x)
    public.prove()
    x, y = np.array(public.x), np.array(public.y)
    api.verify(public.key, public.nonce, x, y, public.proof)
    with pytest.raises(Rejected, match="^inputs: the key's are committed, and the proof a masked one$"):
        api.verify(masked_proof.key, public.nonce, x, y, public.proof)
    with pytest.raises(Rejected, match="^inputs: the key's are public, and the proof is not a masked one$"):
        api.verify_masked(public.key, public.nonce, y, masked_proof.proof)
    for proof in (public.proof, public.proof.ljust(len(masked_proof.proof), b"\0")[:len(masked_proof.proof)]):
        refused(masked_proof, "(length|encoding|activation).*", proof)


def test_another_statements_proof(small: None) -> None:
    prover = case.made(Careless)
    for change in ({"nonce": b"another"}, {"x": case.rows_of(prover.key, 2)}):
        other = Careless(prover.network, prover.key, change.get("nonce", case.NONCE), change.get("x", prover.x),
                         case.INPUT_KEY, case.SEED)
        other.prove()
        refused(prover, ACTIVATION, other.proof)
    for change in ({"input_low": -9}, {"range_bits": 6}, {"masks": 4}):
        key = copy.copy(prover.key)
        for name, value in change.items():
            object.__setattr__(key, name, value)
        with pytest.raises(Rejected):
            api.verify_masked(key, prover.nonce, np.resize(np.array(prover.y), (key.real_rows, 2)), prover.proof)


# One false message at a time.


@pytest.mark.parametrize(("label", "which", "reason"), [
    ("sums", 0, ROUNDS), ("rows", 0, ROUNDS), ("rows", 3, ROUNDS), ("table", 0, ROUNDS), ("table", 7, ROUNDS),
    ("multiplicity", 0, EVALUATION.format("multiplicities")), ("layers", 0, ACTIVATION), ("features", 0, ACTIVATION),
    ("claims", 0, ACTIVATION), ("output", 0, PRODUCT.format(2)), ("product", 0, PRODUCT.format(2)),
    ("product", 3, PRODUCT.format(1)), ("product claims", 0, PRODUCT.format(2)), ("product claims", 1, PRODUCT.format(1)),
    *((label, which, reason.format(what)) for which, what in enumerate(["columns", "outputs", "multiplicities", "round masks"])
      for label, reason in (("pad", EVALUATION), ("proximity", PROXIMITY_LEAF), ("evaluation", EVALUATION))),
    ("proximity", 4, PROXIMITY_LEAF.format("weights of layer 1")), ("evaluation", 5, EVALUATION.format("weights of layer 2"))])
def test_one_false_message(small: None, label: str, which: int, reason: str) -> None:
    class Lying(Careless):
        seen = 0

        def say(self, told: str, values: list[F]) -> list[F]:
            if told != label:
                return values
            self.seen += 1
            if self.seen != which + 1:
                return values
            values = list(values)
            values[0] = values[0] + F(0, 0, 1)
            return values

    lying = case.made(Lying)
    assert lying.seen > which
    refused(lying, reason)


def test_false_leaves_and_salts(small: None) -> None:
    prover = case.made(Careless)
    spans = [(begin, end) for label, begin, end in prover.sent if label == "leaves"]
    trees = [(8, 25), (12,), (18,), (15,)]  # columns of each opening's trees
    for (begin, end), what, columns in zip(spans, ("columns", "outputs", "multiplicities", "round masks"), trees):
        for at in (begin, begin + 4 * columns[0], begin + 4 * columns[0] + 15, begin + 4 * columns[0] + 16, end - 1):
            proof = bytearray(prover.proof)
            proof[at] ^= 1
            refused(prover, f"{what}'s opening: the path of leaf .* does not lead to the root", bytes(proof))
        assert (end - begin) % QUERIES == 0


def test_leaves_hashed_without_their_salts(small: None) -> None:
    class Lying(Careless):
        def salts(self, label: str, count: int) -> list[bytes]:
            return [b""] * count if label == "outputs" else super().salts(label, count)

    lying = case.made(Lying)
    begin, end = [(begin, end) for label, begin, end in lying.sent if label == "leaves"][1]
    size = (end - begin) // QUERIES
    records = [lying.proof[at:at + size] for at in range(begin, end, size)]
    salted = b"".join(record[:48] + bytes(16) + record[48:] for record in records)
    refused(lying, "outputs's opening: the path of leaf .* does not lead to the root",
            lying.proof[:begin] + salted + lying.proof[end:])


# Encodings.


def test_numbers_that_are_not_canonical(small: None) -> None:
    """Every message's first and last number with p added: the same element, another encoding."""
    prover = case.made(Careless)
    seen = set()
    for label, begin, end in prover.sent:
        if label in ("input salt", "inputs", "columns", "multiplicities", "outputs", "masks", "helpers", "leaves"):
            continue
        seen.add(label)
        for at in (begin, end - 4):
            number = int.from_bytes(prover.proof[at:at + 4], "little") + P
            proof = prover.proof[:at] + number.to_bytes(4, "little") + prover.proof[at + 4:]
            refused(prover, "encoding: a number of the .* is not below p", proof)
    assert len(seen) == 13


@pytest.mark.parametrize("label", ["columns", "helpers", "outputs", "multiplicities", "masks"])
def test_leaves_that_are_not_canonical(small: None, label: str) -> None:
    class Lying(Careless):
        def spoil(self, told: str, codewords: list[list[int]]) -> list[list[int]]:
            return [[v + P for v in word] for word in codewords] if told == label else codewords

    refused(case.made(Lying), "encoding: a number of the .*'s leaves is not below p")


def test_other_lengths(small: None) -> None:
    prover = case.made(Careless)
    proof = prover.proof
    for other in (b"", proof[:-1], proof[4:], proof + b"\0", proof * 2, proof[:20]):
        refused(prover, f"length: {len(other)} bytes where a proof of this key has {len(proof)}", other)
    for other in ("proof", bytearray(proof), 7):
        refused(prover, "encoding: a proof is bytes, not .*", other)


def test_any_change_is_rejected_and_nothing_else(small: None) -> None:
    prover = case.made(Careless)
    draw = np.random.default_rng(0)
    for _ in range(60):
        proof = bytearray(prover.proof)
        at, size = int(draw.integers(len(proof))), int(draw.integers(1, 64))
        proof[at:at + size] = draw.bytes(len(proof[at:at + size]))
        refused(prover, ".*", bytes(proof))
    for below in (1, 2**16, 2**30, 2**32):
        words = draw.integers(0, below, len(prover.proof) // 4, dtype=np.uint64)
        refused(prover, ".*", words.astype("<u4").tobytes())


# The transcript.


def test_a_prover_that_leaves_out_an_item_is_refused(small: None) -> None:
    count = []

    class Counting(Careless):
        skip = None

        def absorb(self, label: str, data: bytes) -> None:
            count.append(label)
            if len(count) - 1 != self.skip:
                super().absorb(label, data)

    case.verify(case.made(Counting))
    labels = list(count)
    assert labels[:11] == ["kind", "key", "nonce", "outputs", "input salt", "inputs", "columns", "multiplicities", "outputs",
                           "masks", "helpers"]
    for skip in range(len(labels) - 1):  # after the last, leaves, nothing is drawn
        if labels[skip] in labels[:skip] and labels[skip] != "outputs":
            continue  # one of each kind
        count.clear()
        lying = case.made(Counting, skip=skip)
        with pytest.raises(Rejected):
            case.verify(lying)


ITEMS = {"kind", "key", "nonce", "outputs", "input salt", "inputs", "columns", "multiplicities", "masks", "helpers", "sums", "rows",
         "table", "multiplicity", "layers", "features", "claims", "output", "product", "product claims", "pad", "proximity",
         "evaluation", "leaves"}


def test_every_item_changes_every_later_challenge(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the verifier."""
    log: Log = []
    recorded = recording(masked.Transcript, log)
    for module in (masked, layers, opening):
        monkeypatch.setattr(module, "demand", lambda holds, reason: None)
    monkeypatch.setattr(masked, "Transcript", recorded)
    prover = case.made(Careless)
    check_every_item(lambda: masked.check_masked(prover.key, prover.nonce, np.array(prover.y), prover.proof, None), recorded, log, ITEMS)
