"""What a masked proof looks like, made without the inputs (PROTOCOL.md, "Zero-knowledge").

With challenges that are chosen beforehand, a proof can be made of the key, the weights and the real rows' outputs alone; if it
is distributed as proofs of real inputs are under these challenges, a proof says nothing but these three. ``Preset`` chooses the
challenges, for a prover and for the verifier; ``Simulator`` makes the proof.
"""

from __future__ import annotations

import random
from hashlib import sha256, shake_256

import numpy as np

from enclaveml.zk.batch import format as sizes
from enclaveml.zk.batch.format import P, VerificationKey, bits
from enclaveml.zk.batch.verify.transcript import Transcript

from . import messages
from .masked import MaskedProver, combination, inner
from .messages import Prover
from .network import Network
from .numbers import F, interpolate
from .trees import Tree, codeword


class Challenges:
    """Words that depend on a seed, the label and how often it has been drawn: on nothing that was said."""

    def __init__(self, seed: bytes) -> None:
        self.seed, self.times = seed, {}

    def words(self, label: str, count: int, ahead: bool = False) -> list[int]:
        """The next words; ``ahead``: what the next will be."""
        number = self.times.get(label, 0)
        data = shake_256(self.seed + f"{label} {number}".encode()).digest(8 * count)
        if not ahead:
            self.times[label] = number + 1
        return [int.from_bytes(data[8 * i:8 * i + 8], "little") for i in range(count)]


class Preset(MaskedProver):
    """A prover under such challenges."""

    challenges: Challenges

    def words(self, label: str, count: int) -> list[int]:
        return self.challenges.words(label, count)


def preset_transcript(seed: bytes) -> type[Transcript]:
    """The same for the verifier."""

    class PresetTranscript(Transcript):
        def __init__(self) -> None:
            super().__init__()
            self.challenges = Challenges(seed)

        def _draw(self, label: str, count: int) -> np.ndarray:
            return np.array(self.challenges.words(label, count), np.uint64)

    return PresetTranscript


class HalfTree(Tree):
    """A tree of which some leaves are known, and of the others hashes: random, as those of leaves with unknown salts are."""

    def __init__(self, known: dict[int, bytes], count: int, coins: random.Random) -> None:
        self.known = known
        lowest = [sha256(b"\x00" + known[i]).digest() if i in known else coins.randbytes(32) for i in range(count)]
        self.levels = [lowest]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([sha256(b"\x01" + below[i] + below[i + 1]).digest() for i in range(0, len(below), 2)])

    def record(self, position: int) -> bytes:
        return self.known[position]


class Simulator(Preset):
    """Knows the weights, the key and the outputs y of the real rows. ``seed`` is of its own randomness."""

    #: Roots that come before the first challenge.
    first = ("columns", "multiplicities", "outputs", "masks")

    def __init__(self, network: Network, key: VerificationKey, nonce: bytes, y: list[list[int]], challenges: bytes,
                 seed: int) -> None:
        Prover.__init__(self)
        self.network, self.key, self.nonce, self.y = network, key, nonce, y
        self.challenges, self.coins = Challenges(challenges), random.Random(seed)
        self.roots: dict[str, int] = {}

    def element(self) -> F:
        return F(*(self.coins.randrange(P) for _ in range(5)))

    def elements(self, count: int) -> list[F]:
        return [self.element() for _ in range(count)]

    def prove(self) -> bytes:
        """The transcript; roots are put in when it is known what they must lead to."""
        for label, data in self.statement():
            self.absorb(label, data)
        self.send("input salt", self.coins.randbytes(32))
        self.send("inputs", self.coins.randbytes(32))  # a hash with an unknown key
        for label in self.first:
            self.root(label)
        self.lookup = tuple(self.draw("lookup", 2))
        self.root("helpers")
        self.zerocheck()
        self.row_rounds()
        self.finish()
        return self.proof

    def root(self, label: str) -> None:
        self.roots[label] = len(self.proof)
        self.send(label, bytes(32))

    def row_rounds(self) -> None:
        """Sums and rounds are uniform, as their masks are; so is every column at rho, by its mask rows."""
        key = self.key
        rows, columns = sizes.table_shape(self.entries())
        self.sums = self.tell("sums", self.elements(2))
        self.rho, self.rows_claim = self.rounds(self.sums[0], bits(key.rows), 4, "rows", "row")
        self.entry, self.table_claim = self.rounds(self.sums[1], bits(2 * rows * columns), 2, "table", "entry")
        table = self.reciprocals()
        rest = [F(1)]  # eq, on the places that are entries
        for number, r in enumerate(self.entry):
            rest = [part for value in rest for part in ((value - value * r, value * r) if number else (value - value * r,))]
        self.reciprocal = inner(rest, table)
        (self.count,) = self.tell("multiplicity", [self.element()])
        self.rows_mask = F(0)  # for no hook
        self.vectors()

    def vectors(self) -> None:
        """The arrays at rho."""
        key = self.key
        self.given = [self.elements(key.width)]
        self.bound = []
        for number, layer in enumerate(key.layers, 1):
            (z,) = self.network.sums(number, [[array] for array in self.given])
            if number == len(key.layers):
                self.output = z
                return
            q, a, h = (self.elements(layer.features) for _ in range(3))
            r = [u + 2 ** (layer.shift - 1) - v * 2**layer.shift for u, v in zip(z, q)]
            self.bound.append([h, q, a, r])
            self.given.append(a)

    def rounds(self, claim: F, count: int, degree: int, message: str, challenge: str) -> tuple[list[F], F]:
        point = []
        for _ in range(count):
            first, *others = self.tell(message, self.elements(degree))
            (r,) = self.draw(challenge, 1)
            point.append(r)
            claim = interpolate([first, claim - first, *others], r)
        return point, claim

    # Openings: labels of the trees and how many columns each has, without the last one's ten.
    def open_columns(self, weights: list[F], theta: list[F], value: F) -> None:
        units = self.key.units
        self.opened({"columns": self.key.width + 2 * units, "helpers": 5 * units}, weights, theta, value)

    def open_outputs(self, weights: list[F], theta: list[F], value: F) -> None:
        self.opened({"outputs": self.key.outputs}, weights, theta, value)

    def open_counts(self, weights: list[F], theta: list[F], value: F) -> None:
        self.opened({"multiplicities": len(theta)}, weights, theta, value)

    def open_rounds(self, weights: list[F], value: F) -> None:
        self.opened({"masks": 5}, weights, [F(*(int(d == c) for c in range(5))) for d in range(5)], value)

    def symbols_of(self, position: int, count: int) -> list[int]:
        """Those of an opening's columns but U and E."""
        return [self.coins.randrange(P) for _ in range(count)]

    def opened(self, columns: dict[str, int], weights: list[F], theta: list[F], value: F | None) -> tuple[F, F, F]:
        """u and e are uniform, as U and E are; the columns' symbols too; U's and E's symbols and the pad follow. Without a value the pad is
        uniform. The pad, xi and <w, e>."""
        n, count = len(weights), len(theta)
        u, e = self.elements(n), self.elements(n)
        xi = F(*self.challenges.words("gamma", 5 * (count + 6), ahead=True)[-5:])
        (pad,) = self.tell("pad", [self.element() if value is None else inner(weights, e) - xi * value])
        *gamma, _ = self.draw("gamma", count + 6)
        self.tell("proximity", u)
        self.tell("evaluation", e)
        positions = [word % (4 * n) for word in self.words("positions", messages.QUERIES)]
        self.drawn.append(("positions", positions))
        words = [codeword([value.c[d] for value in vector]) for vector in (u, e) for d in range(5)]
        known: dict[str, dict[int, bytes]] = {label: {} for label in columns}
        *_, last = columns
        for position in sorted(set(positions)):
            symbols = self.symbols_of(position, count)
            at_u, at_e = (F(*(word[position] for word in part)) for part in (words[:5], words[5:]))
            at_e = at_e - xi * combination(theta, [[symbol] for symbol in symbols])[0]
            at_u = at_u - combination(gamma, [[symbol] for symbol in [*symbols, *at_e.c]])[0]
            symbols += [*at_u.c, *at_e.c]
            for label, wide in columns.items():
                here = symbols if label == last else symbols[:wide]
                symbols = symbols[len(here):]
                leaf = b"".join(symbol.to_bytes(4, "little") for symbol in here)
                known[label][position] = leaf + self.coins.randbytes(16)
        trees = [self.tree_of(label, leaves, 4 * n) for label, leaves in known.items()]
        for label, tree in zip(columns, trees):
            if label in self.roots:
                at = self.roots[label]
                self.proof = self.proof[:at] + tree.root + self.proof[at + 32:]
        self.send("leaves", b"".join(tree.opened(position) for position in positions for tree in trees))
        return pad, xi, inner(weights, e)

    def tree_of(self, label: str, leaves: dict[int, bytes], count: int) -> Tree:
        return HalfTree(leaves, count, self.coins)
