"""F = F_p[X] / (X^5 - 2) in Python integers, and multilinear extensions of lists."""

from __future__ import annotations

from functools import lru_cache

from enclaveml.zk.batch.format import P


class F:
    """An element; integers mix in."""

    __slots__ = ("c",)

    def __init__(self, *coordinates: int) -> None:
        self.c = tuple(coordinate % P for coordinate in coordinates) + (0,) * (5 - len(coordinates))

    def __add__(self, other):
        a, b = self.c, lift(other).c
        return made((a[0] + b[0]) % P, (a[1] + b[1]) % P, (a[2] + b[2]) % P, (a[3] + b[3]) % P, (a[4] + b[4]) % P)

    def __sub__(self, other):
        a, b = self.c, lift(other).c
        return made((a[0] - b[0]) % P, (a[1] - b[1]) % P, (a[2] - b[2]) % P, (a[3] - b[3]) % P, (a[4] - b[4]) % P)

    def __rsub__(self, other):
        return lift(other) - self

    def __mul__(self, other):
        a, b, c, d, e = self.c
        if isinstance(other, int):
            return made(a * other % P, b * other % P, c * other % P, d * other % P, e * other % P)
        v, w, x, y, z = other.c
        return made((a * v + 2 * (b * z + c * y + d * x + e * w)) % P, (a * w + b * v + 2 * (c * z + d * y + e * x)) % P,
                    (a * x + b * w + c * v + 2 * (d * z + e * y)) % P, (a * y + b * x + c * w + d * v + 2 * e * z) % P,
                    (a * z + b * y + c * x + d * w + e * v) % P)

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other):
        return self.c == lift(other).c

    def __hash__(self):
        return hash(self.c)

    def __repr__(self):
        return f"F{self.c}"

    def __pow__(self, exponent: int):
        result, base = F(1), self
        while exponent:
            if exponent & 1:
                result = result * base
            base, exponent = base * base, exponent >> 1
        return result

    def inverse(self):
        return inverse_of(self)

    def to_bytes(self) -> bytes:
        return b"".join(coordinate.to_bytes(4, "little") for coordinate in self.c)


@lru_cache(maxsize=2**14)
def inverse_of(v: F) -> F:
    """By Gaussian elimination of v w = 1: nothing of the verifier's way. Many proofs under one challenge look up the same."""
    rows = [list((v * X**j).c) for j in range(5)]  # column j of the matrix of multiplication by v
    matrix = [[rows[j][i] for j in range(5)] + [int(i == 0)] for i in range(5)]
    for k in range(5):
        pivot = next((i for i in range(k, 5) if matrix[i][k]), None)
        if pivot is None:
            raise ZeroDivisionError
        matrix[k], matrix[pivot] = matrix[pivot], matrix[k]
        unit = pow(matrix[k][k], -1, P)
        matrix[k] = [value * unit % P for value in matrix[k]]
        for i in range(5):
            if i != k:
                factor = matrix[i][k]
                matrix[i] = [(a - factor * b) % P for a, b in zip(matrix[i], matrix[k])]
    return F(*(row[5] for row in matrix))


def made(*coordinates: int) -> F:
    """Of five coordinates in [0, p)."""
    result = F.__new__(F)
    result.c = coordinates
    return result


X = F(0, 1)


def lift(value) -> F:
    return value if isinstance(value, F) else F(value)


def eq(t: list[F], i: int) -> F:
    """The product over bits of i, t_1 for the most significant."""
    result = F(1)
    for k, coordinate in enumerate(reversed(t)):
        result = result * (coordinate if i >> k & 1 else 1 - coordinate)
    return result


def eqs(t: list[F]) -> list[F]:
    """eq(t, i) for every i."""
    result = [F(1)]
    for coordinate in t:
        pairs = ((value, value * coordinate) for value in result)
        result = [part for value, high in pairs for part in (value - high, high)]
    return result


def evaluate(vector: list, t: list[F]) -> F:
    """The multilinear extension at t of a vector, extended by zeros."""
    return sum((e * value for e, value in zip(eqs(t), vector)), F(0))


def ones(t: list[F], count: int) -> F:
    return evaluate([1] * count, t)


def interpolate(values: list[F], r: F) -> F:
    """g(r) for g(0), g(1), ... by Lagrange."""
    result = F(0)
    for i, value in enumerate(values):
        for j in range(len(values)):
            if j != i:
                value = value * (r - j) * pow(i - j, -1, P)
        result = result + value
    return result
