"""F = F_p[X] / (X^5 - 2) in Python integers, and multilinear extensions of lists."""

from __future__ import annotations

from enclaveml.zk.batch.format import P


class F:
    """An element; integers mix in."""

    __slots__ = ("c",)

    def __init__(self, *coordinates: int) -> None:
        self.c = tuple(coordinate % P for coordinate in coordinates) + (0,) * (5 - len(coordinates))

    def __add__(self, other):
        return F(*(a + b for a, b in zip(self.c, lift(other).c)))

    def __sub__(self, other):
        return F(*(a - b for a, b in zip(self.c, lift(other).c)))

    def __rsub__(self, other):
        return lift(other) - self

    def __mul__(self, other):
        if isinstance(other, int):
            return F(*(a * other for a in self.c))
        result = [0] * 5
        for i, a in enumerate(self.c):
            if a:
                for j, b in enumerate(other.c):
                    result[(i + j) % 5] += a * b * (2 if i + j >= 5 else 1)
        return F(*result)

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
        """By Gaussian elimination of v w = 1: nothing of the verifier's way."""
        rows = [list((self * X**j).c) for j in range(5)]  # column j of the matrix of multiplication by v
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

    def to_bytes(self) -> bytes:
        return b"".join(coordinate.to_bytes(4, "little") for coordinate in self.c)


X = F(0, 1)


def lift(value) -> F:
    return value if isinstance(value, F) else F(value)


def eq(t: list[F], i: int) -> F:
    """The product over bits of i, t_1 for the most significant."""
    result = F(1)
    for k, coordinate in enumerate(reversed(t)):
        result = result * (coordinate if i >> k & 1 else 1 - coordinate)
    return result


def evaluate(vector: list, t: list[F]) -> F:
    """The multilinear extension at t of a vector, extended by zeros."""
    return sum((eq(t, i) * value for i, value in enumerate(vector)), F(0))


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
