"""Masked proofs hide: those of real inputs and those of a simulator that has none look the same."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from batch_reference import masked_case as case
from batch_reference.masked import MaskedProver
from batch_reference.masks import raw
from batch_reference.network import Network
from batch_reference.numbers import F
from batch_reference.simulator import Challenges, Preset, Simulator, preset_transcript

from enclaveml.zk.batch import format as sizes
from enclaveml.zk.batch.format import P, VerificationKey
from enclaveml.zk.batch.verify import api, masked
from enclaveml.zk.batch.verify.api import Rejected

CHALLENGES = b"chosen beforehand"

#: Two units that take one input each, and outputs that are the units' sum: swapped inputs have equal outputs and nothing else
#: in common. (The third to last row of a matrix is the bias.)
SYMMETRIC = Network([[[3, -2], [-2, 3], [1, 1], [0, 0], [0, 0]], [[2], [2], [-1], [0], [0]]], [2, 0])

#: Two positions are opened: with rho's five numbers seven of the eight that mask a column.
QUERIES = 2

#: Proofs that are compared; the numbers of each, and affine relations between them, are fewer.
SAMPLES = 74
FEWER = 16

#: Chi-square of two samples in eight parts, seven degrees of freedom: equal distributions are beyond with a probability of 5e-7.
PARTS, BOUND = 8, 42.0


@pytest.fixture(scope="module", autouse=True)
def small():
    """Sizes at which hundreds of proofs can be made."""
    with pytest.MonkeyPatch.context() as patch:
        case.small_sizes(patch, QUERIES)
        yield


class Leaking(Preset):
    """A prover that leaves out a mask: the numbers under ``label`` (of U alone where it is "U") are zero."""

    label = ""

    def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
        found = super().masks(label, rows, columns)
        if self.label == "U" and label == "pads columns":
            return [[0] * 5 + row[5:] for row in found]
        if self.label == "second half" and label == "outputs":
            return [[0] * columns for _ in range(rows)]
        return [[0] * columns for _ in range(rows)] if label == self.label else found

    def input_masks(self) -> list[list[int]]:
        found = super().input_masks()
        return [[0] * len(row) for row in found] if self.label == "inputs" else found

    def hidden_enough(self) -> bool:
        return True


def inputs(swapped: bool) -> list[list[int]]:
    """Eight rows, or the same with their two numbers swapped."""
    rows = [[-8, 7], [7, -8], [5, 0], [0, -3], [6, 6], [-7, -1], [2, 4], [1, 3]]
    return [row[::-1] for row in rows] if swapped else rows


def the_key(masks: int = 8) -> VerificationKey:
    return case.key_of(SYMMETRIC, masks=masks, range_bits=4)


def real(seed: int, swapped: bool = False, label: str = "", masks: int = 8) -> MaskedProver:
    """A proof of real inputs under the chosen challenges, its masks from the seed."""
    x = inputs(swapped) + [[0, 0]] * (8 - masks)  # of 16 rows the others
    prover = Leaking(SYMMETRIC, the_key(masks), b"", x, seed.to_bytes(32, "little"), seed.to_bytes(32, "big"))
    prover.challenges, prover.label = Challenges(CHALLENGES), label
    prover.prove()
    return prover


def simulated(seed: int) -> Simulator:
    """One of no inputs."""
    simulator = Simulator(SYMMETRIC, the_key(), b"", SYMMETRIC.run(inputs(False))[-1].z, CHALLENGES, seed)
    simulator.prove()
    return simulator


def seen(prover: MaskedProver) -> tuple[list[int], list[int]]:
    """The numbers that a proof shows, and of them some that are affine in the masks of columns.

    To the first belong, as what a verifier can compute, u less the part of e in it: what is left of it is U's to hide.
    """
    numbers, affine = [], []
    gammas = [drawn for label, drawn in prover.drawn if label == "gamma"]
    columns, opening = [(6, 20), (11,), (18,), (15,)], -1  # of each opening's trees: x, q, a and h; y; 8 of the table's
    said: dict[str, np.ndarray] = {}
    for label, begin, end in prover.sent:
        data = prover.proof[begin:end]
        if label in ("input salt", "inputs", "columns", "multiplicities", "outputs", "masks", "helpers"):
            continue
        opening += label == "proximity"
        if opening >= 4:
            return numbers, affine  # the weights' openings have nothing to hide
        if label == "leaves":
            here, at = columns[opening], 0
            depth = 32 * (len(said["evaluation"]) * 4).bit_length() - 32
            for _ in range(QUERIES):
                for number, wide in enumerate(here):
                    leaf = np.frombuffer(data[at:at + 4 * wide], "<u4").tolist()
                    numbers += leaf
                    if opening < 3:
                        affine += leaf if number + 1 < len(here) else leaf[:min(5, wide - 10)]  # of h's ten the first
                    at += 4 * wide + 16 + depth
            assert at == len(data)
            continue
        words = np.frombuffer(data, "<u4").reshape(-1, 5)
        said[label] = words
        numbers += words.ravel().tolist()
        if label in ("multiplicity", "claims", "output", "product claims"):
            affine += words.ravel().tolist()
        if label == "evaluation":
            parts = gammas[opening][-6:-1]
            for u, e in zip(said["proximity"].tolist(), words.tolist()):
                left = sum((gamma * -part for gamma, part in zip(parts, e)), F(*u))
                numbers += left.c
    raise AssertionError("a proof ends with the weights")


@cache
def sample(kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """[count, words] of ``seen``; kind: "simulated", "real", "swapped", or the mask that is left out."""
    label = "" if kind in ("real", "swapped") else kind
    made = (simulated(seed) if kind == "simulated" else real(seed, kind == "swapped", label) for seed in range(count))
    numbers, affine = zip(*map(seen, made))
    return np.array(numbers, np.int64), np.array(affine, np.int64)


def chi_square(one: np.ndarray, other: np.ndarray) -> float:
    """The largest of all words' chi-squares that two samples [n, words] have one distribution."""
    counts = np.stack([[((values * PARTS // P) == part).sum(axis=0) for part in range(PARTS)] for values in (one, other)])
    taken = np.array([len(one), len(other)]).reshape(2, 1, 1)
    expected = counts.sum(axis=0) * taken / taken.sum()
    terms = np.where(expected > 0, (counts - expected) ** 2 / np.maximum(expected, 1e-9), 0)
    return float(terms.sum(axis=(0, 1)).max())


def rank(rows: np.ndarray) -> int:
    """Modulo p."""
    rows, found = rows.copy() % P, 0
    for column in range(rows.shape[1]):
        pivots = np.flatnonzero(rows[found:, column])
        if not len(pivots):
            continue
        rows[[found, found + pivots[0]]] = rows[[found + pivots[0], found]]
        rows[found] = rows[found] * pow(int(rows[found, column]), -1, P) % P
        others = np.arange(len(rows)) != found
        rows[others] = (rows[others] - rows[others, column, None] * rows[found]) % P
        found += 1
        if found == len(rows):
            break
    return found


def same_relations(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the affine spaces are equal that two samples [n, words] span; they must be smaller than n."""
    ranks = [rank(values - values[0]) for values in (one, other)]
    both = rank(np.concatenate([one, other]) - one[0])
    assert max(ranks) < min(len(one), len(other)) - 1, "too few samples to see a relation"
    return ranks[0] == ranks[1] == both


def test_the_two_inputs_have_equal_outputs_and_other_activations() -> None:
    one, other = SYMMETRIC.run(inputs(False)), SYMMETRIC.run(inputs(True))
    assert one[1].z == other[1].z
    for part in ("q", "a"):
        assert sum(mine != theirs for mine, theirs in zip(getattr(one[0], part), getattr(other[0], part))) >= 6


def test_a_simulated_proof_is_accepted_under_its_challenges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the verifier checks holds, of real inputs and of none; under drawn challenges only the first."""
    prover, simulator = real(0), simulated(0)
    with pytest.raises(Rejected):
        api.verify_masked(the_key(), b"", np.array(simulator.y), simulator.proof)
    monkeypatch.setattr(masked, "Transcript", preset_transcript(CHALLENGES))
    for made in (prover, simulator, simulated(1)):
        assert len(made.proof) == api.proof_bytes(the_key())
        api.verify_masked(the_key(), b"", np.array(made.y), made.proof)
    assert prover.y == simulator.y
    with pytest.raises(Rejected):  # nothing was made of the inputs
        api.verify_masked(the_key(), b"", np.array(simulator.y), simulator.proof,
                          api.KnownInputs(np.array(prover.x), bytes(32)))


@pytest.mark.parametrize(("one", "other"), [("real", "simulated"), ("swapped", "simulated"), ("real", "swapped")])
def test_every_number_is_distributed_as_without_inputs(one: str, other: str) -> None:
    samples = [sample(kind, SAMPLES) for kind in (one, other)]
    assert samples[0][0].shape == samples[1][0].shape and samples[0][0].shape[1] > 1500
    assert chi_square(samples[0][0], samples[1][0]) < BOUND
    assert same_relations(samples[0][1], samples[1][1])


@pytest.mark.parametrize("label", ["inputs", "q 1", "a 1", "h 1", "multiplicities", "masks", "pads columns", "pads outputs",
                                   "pads multiplicities", "pads masks", "U"])
def test_a_mask_that_is_left_out_is_noticed(label: str) -> None:
    assert chi_square(sample(label, FEWER)[0], sample("simulated", SAMPLES)[0]) > BOUND


def test_relations_that_give_something_away_are_noticed() -> None:
    """The outputs' mask rows are functions of activations' mask rows: where nothing else hides them, every number by itself
    is uniform, and together they say something."""
    found, expected = sample("second half", SAMPLES), sample("simulated", SAMPLES)
    assert chi_square(found[0], expected[0]) < BOUND
    assert not same_relations(found[1], expected[1])


def test_too_few_mask_rows_are_noticed_by_the_prover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two positions and rho's five numbers: eight mask rows hide them, four do not."""
    monkeypatch.setattr(sizes, "LEAST_MASKS", 4)
    assert MaskedProver.hidden_enough(real(0)) and not MaskedProver.hidden_enough(real(0, masks=4))


def test_a_hash_says_nothing_of_its_leaf() -> None:
    """Equal masks and other salts: equal leaves, other hashes; with equal salts leaves that are guessed could be compared."""

    class Salted(Leaking):
        salt_seed = b""

        def salts(self, label: str, count: int) -> list[bytes]:
            data = raw(self.salt_seed, label, 16 * count)
            return [data[16 * i:16 * i + 16] for i in range(count)]

    def hashes(salt_seed: bytes) -> tuple[list[bytes], list[bytes]]:
        prover = Salted(SYMMETRIC, the_key(), b"", inputs(False))
        prover.challenges, prover.salt_seed = Challenges(CHALLENGES), salt_seed
        prover.prove()
        trees = [prover.column_tree, prover.helper_tree, prover.output_tree, prover.count_tree, prover.round_tree]
        nodes = [node for tree in trees for level in tree.levels for node in level]
        return [leaf for tree in trees for leaf in tree.leaves], nodes

    one, again, other = hashes(bytes(32)), hashes(bytes(32)), hashes(b"o" * 32)
    assert one == again and one[0] == other[0]
    assert not set(one[1]) & set(other[1])
