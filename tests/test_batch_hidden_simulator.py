"""Proofs with hidden weights hide: a registration, its weights proof and its proofs of rows look like those of a simulator that has
neither weights nor inputs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from batch_reference import hidden_case as case
from batch_reference import masked_case
from batch_reference.hidden import Hiding, Registered, registered
from batch_reference.hidden_simulator import (
    HiddenPreset,
    HiddenSimulator,
    HiddenSimulatorWithInputs,
    PresetWeights,
    SimulatedRegistration,
    WeightsSimulator,
)
from batch_reference.network import Network
from batch_reference.numbers import F
from batch_reference.simulator import Challenges, preset_transcript
from test_batch_simulator import SYMMETRIC, chi_square, inputs, rank, same_relations

from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.verify import api, hidden, hidden_weights
from enclaveml.zk.batch.verify.api import Rejected

#: The same outputs of the same inputs, and other weights: the hidden units change places.
TURNED = Network([[[-2, 3], [3, -2], [1, 1], [0, 0], [0, 0]], [[2], [2], [-1], [0], [0]]], [2, 0])

#: Two positions are opened, and eight rows of the weights' columns hide them: in the weights proof and in three proofs.
QUERIES, WEIGHT_ROWS, PROOFS = 2, 16, 3

#: Challenges under which all positions of a registration's openings differ.
CHOSEN = b"chosen 2 %d"

#: Registrations that are compared: affine relations between the numbers of each are between fewer.
SAMPLES = 52

BOUND = 42.0  # as test_batch_simulator's, for seven degrees of freedom


@pytest.fixture(scope="module", autouse=True)
def small():
    """Sizes at which hundreds of proofs can be made."""
    with pytest.MonkeyPatch.context() as patch:
        case.small_sizes(patch, QUERIES)
        yield


def base_key() -> VerificationKey:
    return masked_case.key_of(SYMMETRIC, masks=8, range_bits=4)


def challenges(number: int) -> Challenges:
    """Those of the weights proof, 0, and of the proofs."""
    return Challenges(CHOSEN % number)


class Leaking:
    """Leaves out masks: the numbers under a label, or the entries of the rounds' masks that a function names, are zero."""

    label = ""
    entries_out = None

    def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
        found = super().masks(label, rows, columns)
        if label == "masks" and self.entries_out:
            out = set(self.entries_out())
            return [[0] * columns if i in out else row for i, row in enumerate(found)]
        if self.label == "U" and label == "pads weights":
            return [[0] * 5 + row[5:] for row in found]
        return [[0] * columns for _ in range(rows)] if label == self.label else found

    def hidden_enough(self) -> bool:
        return True


class LeakingRows(Leaking, HiddenPreset):
    pass


class LeakingWeights(Leaking, PresetWeights):
    pass


def registration(network: Network, seed: int) -> tuple[VerificationKey, Registered]:
    return registered(network, base_key(), WEIGHT_ROWS, seed.to_bytes(32, "little"))


def rows_proof(network: Network, key: VerificationKey, behind: Registered, seed: int, number: int, swapped: bool = False,
               label: str = "", entries=None) -> HiddenPreset:
    prover = LeakingRows(network, key, behind, b"", inputs(swapped), seed.to_bytes(32, "little"), (seed * 7 + number).to_bytes(32, "big"))
    prover.challenges, prover.label, prover.entries_out = challenges(number), label, entries and (lambda: entries(prover))
    prover.prove()
    return prover


def weights_proof(key: VerificationKey, behind: Registered, seed: int, label: str = "", entries=None) -> PresetWeights:
    prover = LeakingWeights(key, behind, (seed + 2**40).to_bytes(32, "big"))
    prover.challenges, prover.label, prover.entries_out = challenges(0), label, entries and (lambda: entries(prover))
    prover.prove()
    return prover


def outputs() -> list[list[int]]:
    return SYMMETRIC.run(inputs(False))[-1].z


def simulated_rows(there: SimulatedRegistration, seed: int, number: int, known: bool = False) -> HiddenSimulator:
    arguments = (SYMMETRIC, there, b"", outputs(), CHOSEN % number, 2 * seed * 8 + number)
    simulator = HiddenSimulatorWithInputs(*arguments, x=inputs(False), input_key=seed.to_bytes(32, "little")) if known else HiddenSimulator(*arguments)
    simulator.prove()
    return simulator


def simulated_weights(there: SimulatedRegistration, seed: int) -> WeightsSimulator:
    simulator = WeightsSimulator(there, CHOSEN % 0, seed)
    simulator.prove()
    return simulator


#: The openings' trees, their columns without those that mask the opening; which are registered.
ROWS_OPENINGS = [(6, 10), (1,), (8,), (3, 0), (5,)]
WEIGHTS_OPENINGS = [(15,), (16,), (3, 0), (5,)]


class Seen:
    """What a proof shows.

    numbers: all, and, as what a verifier can compute, u less the part of e in it: what is left of it is U's to hide. claims: of columns, and
    what is left of hidden claims. symbols: of the registered columns. groups: a few numbers each that nothing ties together: of each
    opening one row of u and e, of each tree's leaves one, of sums and of what comes first after them.
    """

    def __init__(self, prover: Hiding, openings: list[tuple[int, ...]]) -> None:
        self.numbers, self.claims, self.symbols, self.groups = [], [], [], {}
        gammas = [drawn for label, drawn in prover.drawn if label == "gamma"]
        opening, count, said = -1, 0, {}
        for label, begin, end in prover.sent:
            data = prover.proof[begin:end]
            if end - begin == 32:  # a root, the input salt, the digest
                continue
            opening += label == "proximity"
            if label == "leaves":
                self._leaves(data, openings[opening], 4 * len(said["evaluation"]), opening)
                continue
            words = np.frombuffer(data, "<u4").reshape(-1, 5)
            said[label] = words
            self.numbers += words.ravel().tolist()
            if label in ("claims", "product claims"):
                self.claims += words.ravel().tolist()
            if label in ("product sum", "weights sum", "sums"):
                count += 1
                self.groups[f"{label} {count}"] = words.ravel().tolist()
            elif label in ("product", "weights") and len(self.groups.get(f"{last} {count}", [])) == 5:
                self.groups[f"{last} {count}"] += words.ravel().tolist()
            last = label if "sum" in label else "" if label not in ("product", "weights") else last
            if label == "evaluation":
                parts = gammas[opening][-6:-1]
                left = [sum((gamma * -part for gamma, part in zip(parts, e)), F(*u)).c
                        for u, e in zip(said["proximity"].tolist(), words.tolist())]
                self.numbers += [value for row in left for value in row]
                self.groups[f"opening {opening}"] = [*words[0].tolist(), *left[0]]
                self.groups[f"left {opening}"] = [value for row in left[:3] for value in row]
        assert opening == len(openings) - 1
        self.claims += [value for pad, _, e in prover.hidden_openings for value in (e - pad).c]

    def _leaves(self, data: bytes, widths: tuple[int, ...], length: int, opening: int) -> None:
        widths, at = [*widths[:-1], widths[-1] + 10], 0
        for query in range(QUERIES):
            for number, wide in enumerate(widths):
                leaf = np.frombuffer(data[at:at + 4 * wide], "<u4").tolist()
                self.numbers += leaf
                if widths == [3, 10] and not number:
                    self.symbols += leaf
                if not query:
                    self.groups[f"leaf {opening} {number}"] = leaf[:min(wide, 8)]
                at += 4 * wide + 16 + 32 * (length.bit_length() - 1)
        assert at == len(data)


@cache
def honest(seed: int, number: int = 0) -> Seen:
    """Of a registration's weights proof, 0, or one of its proofs."""
    key, behind = registration(SYMMETRIC, seed)
    return Seen(rows_proof(SYMMETRIC, key, behind, seed, number), ROWS_OPENINGS) if number else Seen(weights_proof(key, behind, seed), WEIGHTS_OPENINGS)


def one(kind: str, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of a registration's weights proof and of a proof; those that are tied together, if by anything, affinely."""
    if kind == "real":
        first, second = honest(seed), honest(seed, 1)
    elif kind == "simulated":
        there = SimulatedRegistration(base_key_with_weights(), seed)
        first, second = Seen(simulated_weights(there, seed), WEIGHTS_OPENINGS), Seen(simulated_rows(there, seed, 1), ROWS_OPENINGS)
    else:
        key, behind = registration(TURNED, seed)
        first = Seen(weights_proof(key, behind, seed), WEIGHTS_OPENINGS)
        second = Seen(rows_proof(TURNED, key, behind, seed, 1, swapped=True), ROWS_OPENINGS)
    return first.numbers + second.numbers, [*second.claims, *first.symbols, *second.symbols]


def base_key_with_weights() -> VerificationKey:
    return registration(SYMMETRIC, 0)[0].unregistered


@cache
def sample(kind: str, count: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    numbers, affine = zip(*(one(kind, seed) for seed in range(count)))
    return np.array(numbers, np.int64), np.array(affine, np.int64)


def test_the_two_networks_have_equal_outputs_and_other_weights() -> None:
    first, second = SYMMETRIC.run(inputs(False)), TURNED.run(inputs(False))
    assert first[1].z == second[1].z and first[0].z != second[0].z
    assert SYMMETRIC.weights != TURNED.weights and base_key() != masked_case.key_of(TURNED, masks=8, range_bits=4)
    assert base_key_with_weights() == registration(TURNED, 5)[0].unregistered
    assert registration(SYMMETRIC, 1)[0].weight_openings == PROOFS + 1


def test_simulated_proofs_are_accepted_under_their_challenges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the verifier checks holds, of real weights and inputs and of none; under drawn challenges only the first."""
    there = SimulatedRegistration(base_key_with_weights(), 1)
    simulator, known, y = simulated_rows(there, 1, 1), simulated_rows(there, 1, 1, known=True), np.array(outputs())
    weights = simulated_weights(there, 1)
    with pytest.raises(Rejected):
        api.verify_masked(there.key, b"", y, simulator.proof)
    with pytest.raises(Rejected):
        api.verify_weights(there.key, weights.proof)
    monkeypatch.setattr(hidden, "Transcript", preset_transcript(CHOSEN % 1))
    monkeypatch.setattr(hidden_weights, "Transcript", preset_transcript(CHOSEN % 0))
    key, behind = registration(SYMMETRIC, 1)
    inputs_known = api.KnownInputs(np.array(inputs(False)), (1).to_bytes(32, "little"))
    api.verify_masked(key, b"", y, rows_proof(SYMMETRIC, key, behind, 1, 1).proof, inputs_known)
    api.verify_masked(there.key, b"", y, simulator.proof)
    api.verify_masked(there.key, b"", y, known.proof, inputs_known)
    with pytest.raises(Rejected):
        api.verify_masked(there.key, b"", y, simulator.proof, inputs_known)
    api.verify_weights(key, weights_proof(key, behind, 1).proof)
    api.verify_weights(there.key, weights.proof)


@pytest.mark.parametrize(("kind", "other"), [("real", "simulated"), ("other weights and inputs", "simulated"), ("real", "other weights and inputs")])
def test_every_number_is_distributed_as_without_weights(kind: str, other: str) -> None:
    samples = [sample(each) for each in (kind, other)]
    assert samples[0][0].shape == samples[1][0].shape and samples[0][0].shape[1] > 2500
    assert chi_square(samples[0][0], samples[1][0]) < BOUND
    assert same_relations(samples[0][1], samples[1][1])


def symbols(made: list[list[Seen]]) -> int:
    """How many independent numbers the registered columns' symbols in all of a registration's proofs are, for each column."""
    found = {rank(np.array([[value for proof in proofs for value in proof.symbols[column::3]] for proofs in made], np.int64)) for column in range(3)}
    assert len(found) == 1
    return found.pop()


def test_as_many_proofs_as_are_allowed_and_one_more() -> None:
    """What they show of a column is independent, until it is shown once more: then a relation remains, which depends on the weights."""
    def proofs(seed: int) -> list[Seen]:
        assert registration(SYMMETRIC, seed)[0].weight_openings == PROOFS + 1
        return [honest(seed, number) for number in range(PROOFS + 2)]

    made = [proofs(seed) for seed in range(13)]
    assert symbols([found[:-1] for found in made]) == QUERIES * (PROOFS + 1)
    assert symbols(made) == QUERIES * (PROOFS + 1) + 1  # of ten numbers eight are free; their constant part takes one more


def tied(made: list[Seen]) -> set[str]:
    """The groups in which something ties numbers together."""
    found = set()
    for name, numbers in made[0].groups.items():
        values = np.array([each.groups[name] for each in made], np.int64)
        assert len(made) > len(numbers) + 1
        if rank(values - values[0]) < len(numbers):
            found.add(name)
    return found


#: The rounds' masks that are left out, of a proof of rows.
ENTRIES = {
    "rows' rounds": lambda p: range(p.of_rows.start, p.of_rows.end),
    "first product's rounds": lambda p: range(p.of_products[0].start, p.of_products[0].end),
    "last product's rounds": lambda p: range(p.of_products[1].start, p.of_products[1].end),
    "weights' rounds": lambda p: range(p.of_weights.start, p.of_weights.end),
}


@pytest.mark.parametrize(("left_out", "where"), [
    (None, set()), ("pads outputs", {"opening 1"}), ("pads weights", {"opening 3"}), ("U", {"left 3"}),
    ("registration", {"leaf 3 0"}), ("rows' rounds", {"sums 1"}), ("first product's rounds", {"product sum 3"}),
    ("last product's rounds", {"product sum 2"}), ("weights' rounds", {"weights sum 4"})])
def test_a_mask_of_rows_that_is_left_out_is_noticed(left_out: str | None, where: set[str]) -> None:
    def leaking(seed: int) -> Seen:
        if left_out is None:
            return honest(seed, 1)
        key, behind = registration(SYMMETRIC, 0 if left_out == "registration" else seed)
        return Seen(rows_proof(SYMMETRIC, key, behind, seed, 1, label=left_out, entries=ENTRIES.get(left_out)), ROWS_OPENINGS)

    found = tied([leaking(seed) for seed in range(18)])
    assert where <= found if where else not found


@pytest.mark.parametrize(("left_out", "where"), [
    ("", set()), ("helpers", {"leaf 0 0"}), ("multiplicities", {"leaf 1 0"}), ("masks", {"sums 1"}), ("pads helpers", {"opening 0"}), ("U", {"left 2"})])
def test_a_mask_of_weights_that_is_left_out_is_noticed(left_out: str, where: set[str]) -> None:
    found = tied([Seen(weights_proof(*registration(SYMMETRIC, seed), seed, label=left_out), WEIGHTS_OPENINGS) if left_out else honest(seed)
                  for seed in range(18)])
    assert where <= found if where else not found
