"""What both provers share: the transcript, the hook through which every message passes, sum-checks, openings."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from enclaveml.zk.batch.format import QUERIES, P

from .numbers import F, X, interpolate, lift
from .trees import Tree, codeword


class Prover:
    """Override ``say``, ``spoil``, ``absorb`` and the methods of the subclasses to be dishonest."""

    def __init__(self) -> None:
        self.state = sha256(b"enclaveml-batch-1").digest()
        self.proof = b""
        self.claim = F(0)  # what the verifier has to believe at this moment
        self.sent: list[tuple[str, int, int]] = []  # label, begin and end in the proof of every message
        self.drawn: list[tuple[str, list[F] | list[int]]] = []

    # The transcript.
    def absorb(self, label: str, data: bytes) -> None:
        self.state = sha256(b"A" + self.state + named(label) + len(data).to_bytes(8, "little") + data).digest()

    def words(self, label: str, count: int) -> list[int]:
        self.state = sha256(b"C" + self.state + named(label) + count.to_bytes(8, "little")).digest()
        blocks = [sha256(b"X" + self.state + i.to_bytes(8, "little")).digest() for i in range((count + 3) // 4)]
        data = b"".join(blocks)
        return [int.from_bytes(data[8 * i:8 * i + 8], "little") for i in range(count)]

    def draw(self, label: str, count: int) -> list[F]:
        words = self.words(label, 5 * count)
        self.drawn.append((label, [F(*words[5 * i:5 * i + 5]) for i in range(count)]))
        return self.drawn[-1][1]

    # Messages.
    def send(self, label: str, data: bytes) -> None:
        """Everything that goes into the proof comes here."""
        self.absorb(label, data)
        self.sent.append((label, len(self.proof), len(self.proof) + len(data)))
        self.proof += data

    def say(self, label: str, values: list[F]) -> list[F]:
        """The hook: what is said in the place of ``values``, the truth."""
        return values

    def tell(self, label: str, values: list[F]) -> list[F]:
        values = self.say(label, values)
        self.send(label, b"".join(value.to_bytes() for value in values))
        return values

    def spoil(self, label: str, codewords: list[list[int]]) -> list[list[int]]:
        """The hook: what is committed under ``label`` in the place of the codewords."""
        return codewords

    def commit(self, label: str, columns: list[list[int]]) -> Tree:
        tree = Tree(self.spoil(label, [codeword(column) for column in columns]))
        self.send(label, tree.root)
        return tree

    # Sum-checks.
    def sumcheck(self, tables: list[list], summand: Callable, degree: int, message: str, challenge: str) -> list[F]:
        """Rounds from ``self.claim`` on, the most significant bit first; leaves there what is then expected."""
        tables = [[lift(value) for value in table] for table in tables]
        point = []
        while len(tables[0]) > 1:
            half = len(tables[0]) // 2
            values = []
            for t in [0, *range(2, degree + 1)]:
                values.append(sum((summand([table[i] + (table[i + half] - table[i]) * t for table in tables])
                                   for i in range(half)), F(0)))
            first, *others = self.tell(message, values)
            (r,) = self.draw(challenge, 1)
            point.append(r)
            self.claim = interpolate([first, self.claim - first, *others], r)
            tables = [[table[i] + (table[i + half] - table[i]) * r for i in range(half)] for table in tables]
        return point

    # Openings.
    def open(self, trees: list[Tree], columns: list[list[int]], t: list[F], theta: list[F]) -> None:
        """``columns`` of all ``trees``; what they are claimed to be at t is ``self.claim``, for a hook to know."""
        gamma = self.draw("gamma", len(columns))
        n = len(columns[0])
        self.point = t
        self.tell("proximity", [sum((g * column[i] for g, column in zip(gamma, columns)), F(0)) for i in range(n)])
        self.tell("evaluation", [sum((g * column[i] for g, column in zip(theta, columns)), F(0)) for i in range(n)])
        positions = [word % (4 * n) for word in self.words("positions", QUERIES)]
        self.drawn.append(("positions", positions))
        self.send("leaves", b"".join(tree.opened(position) for position in positions for tree in trees))


def named(label: str) -> bytes:
    """A label with its length before it."""
    return len(label).to_bytes(2, "little") + label.encode()


def coordinates(values: list[F]) -> list[list[int]]:
    """Five columns of one column of elements of F."""
    return [[value.c[d] for value in values] for d in range(5)]


def spread(value: F) -> list[F]:
    """theta of an element's five coordinates."""
    return [value * X**d for d in range(5)]


def padded(values: list, length: int) -> list:
    return [*values, *[0] * (length - len(values))]


def u32(values: list[int]) -> bytes:
    return b"".join((value % P).to_bytes(4, "little") for value in values)
