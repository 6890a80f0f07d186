"""The fast prover of masked proofs against the slow reference and the verifier, which share no code with it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from batch_reference import masked_case as case
from batch_reference.hidden import HiddenProver, HiddenWeightsProver, registered
from batch_reference.hidden_case import WEIGHT_SEED
from batch_reference.masked import MaskedProver
from batch_reference.numbers import F

from enclaveml.zk.batch.format import P
from enclaveml.zk.batch.prove import masked_opening
from enclaveml.zk.batch.prove.api import BatchProver, prove_weights_range, register_weights
from enclaveml.zk.batch.prove.masks import Masks, input_masks
from enclaveml.zk.batch.prove.rank import independent
from enclaveml.zk.batch.prove.round_masks import RoundMask, sum_weights, value_weights
from enclaveml.zk.batch.verify.api import KnownInputs, Rejected, verify_masked, verify_weights

#: Rows in four chunks; three rounds until those of mask rows alone are left, the third in numpy.
ROWS, MASKS = 2048, 256


@cache
def reference() -> MaskedProver:
    """A slow proof."""
    key = case.key_of(case.network(), ROWS, MASKS)
    prover = MaskedProver(case.network(), key, case.NONCE, case.rows_of(key), case.INPUT_KEY, case.SEED)
    prover.prove()
    return prover


@cache
def prover() -> BatchProver:
    """Compiled once for all tests of this file."""
    return BatchProver(reference().key, [np.array(layer, np.int32) for layer in case.network().weights])


@cache
def proved() -> tuple[np.ndarray, np.ndarray, bytes]:
    """x, y and the proof that the reference's keys give."""
    x = np.array(reference().x, np.int32)
    return x, *prover().prove(x, case.NONCE, case.INPUT_KEY, case.SEED)


def test_a_proof_is_the_reference_s_byte_by_byte() -> None:
    x, y, proof = proved()
    assert proof == reference().proof
    assert y.dtype == np.int64 and y.tolist() == reference().y
    verify_masked(reference().key, case.NONCE, y, proof, KnownInputs(x, case.INPUT_KEY))


def test_each_proof_has_masks_of_its_own() -> None:
    x, y, first = proved()
    key, proofs = reference().key, [first]
    for _ in range(2):
        again, proof = prover().prove(x, case.NONCE, case.INPUT_KEY)
        assert (again == y).all()
        verify_masked(key, case.NONCE, y, proof, KnownInputs(x, case.INPUT_KEY))
        proofs.append(proof)
    equal = [np.mean(np.frombuffer(a, np.uint8) == np.frombuffer(b, np.uint8)) for a, b in zip(proofs, [*proofs[1:], first], strict=True)]
    # The weights' leaves and small numbers' zeros in them are the same in all.
    assert max(equal) < 0.2
    with pytest.raises(Rejected, match="^inputs: the proof is not of these, or not under this input key$"):
        verify_masked(key, case.NONCE, y, proofs[1], KnownInputs(x, bytes(32)))


def test_where_leaves_would_show_too_much_other_masks_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, proof = proved()
    answers = iter([True, False, True, True])
    monkeypatch.setattr(masked_opening, "independent", lambda points, weights: next(answers))
    found = prover().prove(x, case.NONCE, case.INPUT_KEY, case.SEED)[1]
    monkeypatch.undo()
    assert next(answers, None) is None
    assert found == prover().prove(x, case.NONCE, case.INPUT_KEY, hashlib.sha256(case.SEED).digest())[1] != proof


@pytest.mark.parametrize(("arguments", "reason"), [
    ((None, None), "^an input key is given where the key has masks, and only there$"),
    ((bytes(31), None), "^an input key of 31 bytes; 32 are expected$"),
    ((bytes(32), bytes(33)), "^a seed of 33 bytes; 32 are expected$"),
])
def test_keys_that_are_none(arguments: tuple[bytes | None, bytes | None], reason: str) -> None:
    x, _, _ = proved()
    with pytest.raises(ValueError, match=reason):
        prover().prove(x, case.NONCE, *arguments)


def test_rows_are_those_of_the_statement() -> None:
    with pytest.raises(ValueError, match=r"^inputs are int32 \(2048, 2\); integers of the shape \(1792, 2\) are expected$"):
        prover().prove(np.zeros((ROWS, 2), np.int32), case.NONCE, case.INPUT_KEY)


def test_an_error_tells_no_value_that_is_hidden() -> None:
    x, _, _ = proved()
    x = x.copy()
    x[5, 1] = 9
    with pytest.raises(ValueError, match="^inputs are out of range; the key allows -8 to 7$"):
        prover().prove(x, case.NONCE, case.INPUT_KEY)
    narrow = BatchProver(replace(reference().key, range_bits=1), [np.array(layer, np.int32) for layer in case.network().weights])
    with pytest.raises(ValueError, match=r"^row \d+, layer 1: a rescaled value is outside \[-2\^1, 2\^1\): "
                                         "calibrate the scales on rows like it, or raise the range bits$"):
        narrow.prove(proved()[0], case.NONCE, case.INPUT_KEY)


@cache
def hidden_reference() -> tuple[HiddenProver, HiddenWeightsProver]:
    """Slow proofs with hidden weights."""
    network = case.network()
    key, behind = registered(network, case.key_of(network, ROWS, MASKS), 512, WEIGHT_SEED)
    made = HiddenProver(network, key, behind, case.NONCE, case.rows_of(key), case.INPUT_KEY, case.SEED), HiddenWeightsProver(key, behind, case.SEED)
    for each in made:
        each.prove()
    return made


def test_proofs_with_hidden_weights_are_the_reference_s_byte_by_byte() -> None:
    rows, weights = hidden_reference()
    layers, key = [np.array(layer, np.int32) for layer in case.network().weights], rows.key
    assert register_weights(key.unregistered, layers, WEIGHT_SEED) == key
    fast = BatchProver(key, layers, WEIGHT_SEED)
    x = np.array(rows.x, np.int32)
    y, proof = fast.prove(x, case.NONCE, case.INPUT_KEY, case.SEED)
    assert proof == rows.proof and y.tolist() == rows.y
    verify_masked(key, case.NONCE, y, proof, KnownInputs(x, case.INPUT_KEY))
    other = fast.prove(x, case.NONCE, case.INPUT_KEY)[1]
    verify_masked(key, case.NONCE, y, other, KnownInputs(x, case.INPUT_KEY))
    assert np.mean(np.frombuffer(proof, np.uint8) == np.frombuffer(other, np.uint8)) < 0.05
    assert prove_weights_range(key, layers, WEIGHT_SEED, case.SEED) == weights.proof
    again = prove_weights_range(key, layers, WEIGHT_SEED)
    verify_weights(key, again)
    assert again != weights.proof


def test_weights_that_are_hidden_by_another_seed_or_none() -> None:
    key, layers = hidden_reference()[0].key, [np.array(layer, np.int32) for layer in case.network().weights]
    with pytest.raises(ValueError, match="^a seed of the weights is given where the key hides them, and only there$"):
        BatchProver(key, layers)
    with pytest.raises(ValueError, match="^a seed of the weights is given where the key hides them, and only there$"):
        BatchProver(reference().key, layers, WEIGHT_SEED)
    with pytest.raises(ValueError, match="^a seed of the weights of 31 bytes; 32 are expected$"):
        BatchProver(key, layers, bytes(31))
    with pytest.raises(ValueError, match="^the root of these weights under this seed is [0-9a-f]{64}; the key has [0-9a-f]{64}$"):
        BatchProver(key, layers, bytes(32))


def test_streams_are_uniform_and_apart() -> None:
    masks = Masks(case.SEED)
    found = masks.elements("q 1", (400, 50))
    assert found.dtype == np.uint32 and found.shape == (400, 50) and found.max() < P
    # 20,000 numbers in 16 parts of the field: chi-square with 15 degrees of freedom, beyond 60 with a probability of 3e-7.
    counts = np.bincount((found.astype(np.uint64) * np.uint64(16) // np.uint64(P)).ravel().astype(int), minlength=16)
    assert ((counts - 1250.0) ** 2 / 1250.0).sum() < 60
    assert (masks.elements("q 1", (10,)) == found.ravel()[:10]).all()
    others = [masks.elements("q 2", (400, 50)), masks.next().elements("q 1", (400, 50)), input_masks(case.SEED, b"", b"", (400, 50))]
    assert all((other == found).mean() < 0.001 for other in others)


def rank(rows: list[list[int]]) -> int:
    """Of a matrix modulo p, by Python's integers."""
    rows, found = [list(row) for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((row for row in rows if row[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        inverse = pow(pivot[column], -1, P)
        rows = [[(a - row[column] * inverse * b) % P for a, b in zip(row, pivot, strict=True)] for row in rows]
        found += 1
    return found


@pytest.mark.parametrize("case_of", ["uniform", "one twice", "zero", "a symbol", "too many symbols"])
def test_independence_is_the_whole_matrix_s_rank(case_of: str) -> None:
    draw = np.random.default_rng(3)
    m, shown = 24, 21 if case_of == "too many symbols" else 12
    points, weights = draw.integers(1, P, shown), draw.integers(0, P, (m, 5))
    if case_of == "one twice":
        weights[:, 3] = weights[:, 1]
    elif case_of == "zero":
        weights[:, 0] = 0
    elif case_of == "a symbol":
        weights[:, 2] = [(pow(int(points[0]), i, P) * 3 + pow(int(points[5]), i, P)) % P for i in range(m)]
    symbols = [[pow(int(x), 1000 + i, P) for i in range(m)] for x in points]
    full = rank(symbols + weights.T.tolist()) == shown + 5
    assert full == (case_of == "uniform")
    assert independent(points, weights.astype(np.uint32)) == full


def test_the_rounds_masks_are_the_sums_of_their_polynomial() -> None:
    draw = np.random.default_rng(4)
    variables, degree = 3, 4
    entries = [tuple(row) for row in draw.integers(0, P, (1 + variables * degree, 5)).tolist()]
    point = [tuple(row) for row in draw.integers(0, P, (variables, 5)).tolist()]

    def value(at: list[F]) -> F:
        found = F(*entries[0])
        for k, x in enumerate(at):
            power = F(1)
            for i in range(degree):
                power = power * x
                found = found + F(*entries[1 + k * degree + i]) * power
        return found

    def cube(count: int) -> list[list[F]]:
        return [[F(i >> k & 1) for k in range(count)] for i in range(1 << count)]

    mask = RoundMask(entries, variables, degree)
    assert F(*mask.total()) == sum((value(at) for at in cube(variables)), F(0))
    bound: list[F] = []
    for r in point:
        expected = [sum((value([*bound, F(x), *rest]) for rest in cube(variables - len(bound) - 1)), F(0)) for x in (0, 2, 3, 4)]
        assert [F(*v) for v in mask.values()] == expected
        mask.bind(r)
        bound.append(F(*r))
    assert F(*mask.total()) == value(bound)
    for weights, expected in ((sum_weights(variables, degree), sum((value(at) for at in cube(variables)), F(0))),
                              (value_weights(point, degree), value(bound))):
        assert sum((F(*w) * F(*c) for w, c in zip(weights, entries, strict=True)), F(0)) == expected


