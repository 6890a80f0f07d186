"""What proofs with hidden weights look like, made without the weights and the inputs (PROTOCOL.md, "Hidden weights").

A registration is of a tree whose leaves are random: they are no codewords, and what proofs show of them is too little to tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from enclaveml.zk.batch.format import P, VerificationKey

from .hidden import HiddenProver, HiddenWeightsProver, Rounds
from .masked import inner
from .messages import Prover
from .network import Network
from .numbers import F, eqs
from .simulator import Challenges, Preset, Simulator
from .trees import Tree, codeword


class HiddenPreset(Preset, HiddenProver):
    """A prover of rows under chosen challenges."""


class PresetWeights(Preset, HiddenWeightsProver):
    """A prover of weights under chosen challenges."""


class Leaves(Tree):
    """The tree over given leaves, salts behind them."""

    def __init__(self, symbols: list[list[int]], salts: list[bytes]) -> None:
        self.symbols, self.salts = symbols, salts
        super().__init__([list(word) for word in zip(*symbols)])

    def lowest(self, leaf: bytes, position: int) -> bytes:
        return super().lowest(leaf + self.salts[position], position)

    def record(self, position: int) -> bytes:
        return self.leaves[position] + self.salts[position]


class SimulatedRegistration:
    """A tree of random leaves, and the key with its root."""

    def __init__(self, key: VerificationKey, seed: int) -> None:
        coins, count = random.Random(seed), 4 * key.weight_rows
        symbols = [[coins.randrange(P) for _ in range(key.weight_columns)] for _ in range(count)]
        self.tree = Leaves(symbols, [coins.randbytes(16) for _ in range(count)])
        self.key = replace(key, roots=(self.tree.root,))


def blank(network: Network) -> Network:
    """The network's shapes without its weights."""
    return replace(network, weights=[[[0] * len(row) for row in matrix] for matrix in network.weights])


class Blind(Simulator):
    """What both simulators do: sums and rounds are uniform, whatever they are of."""

    registration: SimulatedRegistration

    def masked_sum(self, label: str, truths: list[F], masks: list[Rounds]) -> list[F]:
        return self.tell(label, self.elements(len(truths)))

    def hidden_rounds(self, tables: list[list], summand: Callable, rounds: Rounds, message: str, challenge: str) -> list[F]:
        point, self.claim = self.rounds(self.claim, rounds.variables, rounds.degree, message, challenge)
        return point

    def open_registered(self, weights: list[F], theta: list[F], single: int) -> tuple[F, F, F]:
        self.in_registered = True
        opened = self.opened({"registered": len(theta), "weight pads": 0}, weights, theta, None)
        self.in_registered = False
        return opened

    in_registered = False

    def symbols_of(self, position: int, count: int) -> list[int]:
        return list(self.registration.tree.symbols[position]) if self.in_registered else super().symbols_of(position, count)

    def tree_of(self, label: str, leaves: dict[int, bytes], count: int) -> Tree:
        return self.registration.tree if label == "registered" else super().tree_of(label, leaves, count)


class HiddenSimulator(Blind, HiddenProver):
    """Knows the registration's key, the outputs y of the real rows; perhaps the inputs x, with their key. Of the network the shapes."""

    first = (*Simulator.first, "weight pads")

    def __init__(self, network: Network, registration: SimulatedRegistration, nonce: bytes, y: list[list[int]], challenges: bytes,
                 seed: int) -> None:
        super().__init__(blank(network), registration.key, nonce, y, challenges, seed)
        self.registration = registration
        self.round_columns = [[0] * self.layout()]

    def vectors(self) -> None:
        key = self.key
        self.given = [self.elements(key.width)]
        self.bound = []
        for layer in key.hidden:
            q, a, h = (self.elements(layer.features) for _ in range(3))
            self.bound.append([h, q, a, [F(0)] * layer.features])
            self.given.append(a)

    def open_outputs_hidden(self, weights: list[F], theta: list[F]) -> tuple[F, F, F]:
        return self.opened({"outputs": len(theta)}, weights, theta, None)


class HiddenSimulatorWithInputs(HiddenSimulator):
    """Has the real rows x and the input key: the inputs' columns are what they are."""

    def __init__(self, *arguments, x: list[list[int]], input_key: bytes) -> None:
        super().__init__(*arguments)
        self.x, self.input_key = x, input_key

    def prove(self) -> bytes:
        self.fixed_salt = self.coins.randbytes(32)
        return super().prove()

    def send(self, label: str, data: bytes) -> None:
        if label == "input salt":
            self.salt = data = self.fixed_salt
        super().send(label, self.input_digest() if label == "inputs" else data)

    def vectors(self) -> None:
        super().vectors()
        rows = self.x + self.input_masks()
        self.given[0] = [inner(eqs(self.rho), column) for column in zip(*rows)]
        self.x_words = [codeword(list(column)) for column in zip(*rows)]

    def open_columns(self, weights: list[F], theta: list[F], value: F) -> None:
        self.in_columns = True
        super().open_columns(weights, theta, value)
        self.in_columns = False

    in_columns = False

    def symbols_of(self, position: int, count: int) -> list[int]:
        found = super().symbols_of(position, count)
        return [*(word[position] for word in self.x_words), *found[self.key.width:]] if self.in_columns else found


class WeightsSimulator(Blind, HiddenWeightsProver):
    """Knows the registration's key."""

    def __init__(self, registration: SimulatedRegistration, challenges: bytes, seed: int) -> None:
        Prover.__init__(self)
        self.key, self.registration = registration.key, registration
        self.challenges, self.coins, self.roots = Challenges(challenges), random.Random(seed), {}

    def prove(self) -> bytes:
        self.absorb("kind", b"weights hidden")
        self.absorb("key", self.key.to_bytes())
        self.finish()
        return self.proof

    def commit_counts(self) -> None:
        self.root("multiplicities")
        self.counts = []

    def commit_masks(self, length: int) -> None:
        self.root("masks")
        self.round_columns = [[0] * length]

    def commit_pads(self) -> None:
        self.root("weight pads")

    def commit_helpers(self) -> None:
        self.root("helpers")

    def true_sums(self, mu: F, reciprocals: list) -> list[F]:
        return [F(0), F(0)]

    def table_summand(self, reciprocals: list) -> tuple[list[list], Callable]:
        return [], lambda v: F(0)

    def range_rounds(self, tau: list[F], mu: F, mask: Rounds) -> list[F]:
        return self.hidden_rounds([], lambda v: F(0), mask, "range", "range")

    def count_at(self, entry: list[F]) -> F:
        return self.element()

    def helper_at(self, point: list[F]) -> F:
        return self.element()

    def open_helpers(self, weights: list[F], theta: list[F], value: F) -> None:
        self.opened({"helpers": len(theta)}, weights, theta, value)
