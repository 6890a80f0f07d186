"""Masks: what they are derived from, salted trees, polynomials that mask rounds (PROTOCOL.md, "The masked proof")."""

from __future__ import annotations

from hashlib import sha256, shake_256

from enclaveml.zk.batch.format import P

from .messages import named
from .numbers import F
from .trees import Tree


def raw(seed: bytes, label: str, count: int) -> bytes:
    """The first bytes of the stream."""
    return shake_256(b"enclaveml-batch-masks" + seed + named(label)).digest(count)


def field_elements(seed: bytes, label: str, rows: int, columns: int) -> list[list[int]]:
    """[rows][columns] numbers below p: words without their top bit, those not below p dropped."""
    wanted, size, found = rows * columns, rows * columns, []
    while len(found) < wanted:
        size = 2 * size + 16
        data = raw(seed, label, 4 * size)
        words = (int.from_bytes(data[i:i + 4], "little") & 0x7FFFFFFF for i in range(0, len(data), 4))
        found = [word for word in words if word < P]
    return [found[i * columns:(i + 1) * columns] for i in range(rows)]


class SaltedTree(Tree):
    """The tree over codewords [c][4n], a salt behind each leaf."""

    def __init__(self, codewords: list[list[int]], salts: list[bytes]) -> None:
        self.salts = salts
        super().__init__(codewords)

    def lowest(self, leaf: bytes, position: int) -> bytes:
        return sha256(b"\x00" + leaf + self.salts[position]).digest()

    def record(self, position: int) -> bytes:
        return self.leaves[position] + self.salts[position]


class RoundMask:
    """g(X) = c_0 + sum_k sum_{i=1..degree} c_{k,i} X_k^i over ``variables`` variables, of its coefficients in this order."""

    def __init__(self, coefficients: list[F], variables: int, degree: int) -> None:
        assert len(coefficients) == 1 + variables * degree
        self.bound = coefficients[0]  # c_0, and the terms of the variables that have been bound
        self.parts = [coefficients[1 + k * degree:1 + (k + 1) * degree] for k in range(variables)]

    def total(self) -> F:
        """The sum over the cube of the variables that are left."""
        size = 2 ** len(self.parts)
        return self.bound * size + sum((c for part in self.parts for c in part), F(0)) * (size // 2)

    def at(self, t: int) -> F:
        """The same where the next variable is t."""
        rest = RoundMask.__new__(RoundMask)
        rest.bound, rest.parts = self.bound + self.term(t), self.parts[1:]
        return rest.total()

    def term(self, t: F | int) -> F:
        power, result = F(1), F(0)
        for c in self.parts[0]:
            power = power * t
            result = result + c * power
        return result

    def bind(self, r: F) -> None:
        """The next variable is r."""
        self.bound = self.bound + self.term(r)
        self.parts = self.parts[1:]


def full_rank(positions: list[int], length: int, first: int, weights: list[F]) -> bool:
    """Whether rows of masks ``first`` .. ``first`` + len(weights) - 1 of columns of ``length`` hide what an opening shows: the
    symbols at the positions and the sum of ``weights`` times those rows, five numbers.

    The symbols alone are independent. A change of the rows that no symbol shows is a multiple of
    Z(X), the product of X - x over the different x (X^first apart, which is not zero): five of them must change the sum independently.
    """
    root = pow(31, (P - 1) // (4 * length), P)
    vanishing = [1]
    for position in set(positions):
        x = pow(root, position, P)
        shifted = [0, *vanishing]
        vanishing = [(a - x * b) % P for a, b in zip(shifted, [*vanishing, 0])]
    rows: list[list[int]] = []  # reduced, each with its pivot's place first to be found
    for k in range(len(weights) - len(vanishing) + 1):
        found = [sum(z * weights[k + i].c[d] for i, z in enumerate(vanishing)) % P for d in range(5)]
        for row in rows:
            pivot = next(d for d in range(5) if row[d])
            factor = found[pivot] * pow(row[pivot], -1, P)
            found = [(a - factor * b) % P for a, b in zip(found, row)]
        if any(found):
            rows.append(found)
            if len(rows) == 5:
                return True
    return False
