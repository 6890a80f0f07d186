"""An SRS of fewer rows out of a larger one: the first 2^k points, and their Lagrange form computed anew.

The points G, sG, s^2 G, ... of a smaller SRS are the first of the larger one, but the Lagrange form of the
smaller domain is not to be had from that of the larger: it is the inverse Fourier transform of the
points, L_i = 1/n * sum over j of w^(-ij) s^j G with w a root of unity of order n = 2^k. ezkl does that in
every call that is given a larger file; here it is done once.

Curve BN254 (EIP-196): y^2 = x^3 + 3 over the field of order P; w is a power of 7^((r - 1) / 2^28), as
halo2curves has it for its scalar field. Coordinates are in Montgomery form, little-endian, as halo2
writes raw bytes. Pure Python: some 1 to 2 ms for each of k * 2^(k - 1) products, shared among the cores,
so a core minute at k = 12 and two at k = 13; the ceremony's own file of the right size saves it.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from enclaveml.capacity import allowed_cores
from enclaveml.srs_file import POINT, POINT2
from enclaveml.zk.ezkl.field import MODULUS as R

#: Order of BN254's base field (EIP-196).
P = 0x30644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD47

_TO_MONTGOMERY = (1 << 256) % P
_FROM_MONTGOMERY = pow(_TO_MONTGOMERY, -1, P)

#: A root of unity of order 2^28 modulo R: 7 generates the multiplicative group (halo2curves, bn256 Fr).
_ROOT = pow(7, (R - 1) >> 28, R)
_ROOT_BITS = 28

Point = tuple[int, int, int]  # Jacobian: x / z^2, y / z^3; z = 0 at infinity
_INFINITY: Point = (1, 1, 0)
_WINDOW = 5


def parse(data: bytes) -> list[Point]:
    """Affine points of 64 bytes each; zeros stand for infinity. Raises ValueError for what is no point of the curve."""
    points = []
    for at in range(0, len(data), POINT):
        x, y = (int.from_bytes(data[at + i : at + i + 32], "little") * _FROM_MONTGOMERY % P for i in (0, 32))
        if not x and not y:
            points.append(_INFINITY)
            continue
        if (y * y - x * x * x - 3) % P:
            raise ValueError(f"point {at // POINT} is not on the curve")
        points.append((x, y, 1))
    return points


def written(points: Sequence[Point]) -> bytes:
    """The points as 64 bytes each."""
    out = bytearray()
    for x, y, z in points:
        if not z:
            out += bytes(POINT)
            continue
        inverse = pow(z, -1, P)
        square = inverse * inverse % P
        for value in (x * square, y * square * inverse):
            out += (value % P * _TO_MONTGOMERY % P).to_bytes(32, "little")
    return bytes(out)


def double(a: Point) -> Point:
    """2a (dbl-2009-l of the Explicit-Formulas Database)."""
    x, y, z = a
    if not z:
        return a
    s = y * y % P
    m = 3 * x * x % P
    d = 4 * x * s % P
    x3 = (m * m - 2 * d) % P
    return x3, (m * (d - x3) - 8 * s * s) % P, 2 * y * z % P


def add(a: Point, b: Point) -> Point:
    """a + b (add-1998-cmo-2 of the Explicit-Formulas Database)."""
    x1, y1, z1 = a
    x2, y2, z2 = b
    if not z1:
        return b
    if not z2:
        return a
    q1, q2 = z1 * z1 % P, z2 * z2 % P
    u, h = x1 * q2 % P, x2 * q1 % P
    s, r = y1 * q2 * z2 % P, y2 * q1 * z1 % P
    h, r = (h - u) % P, (r - s) % P
    if not h:
        return _INFINITY if r else double(a)
    hh = h * h % P
    hhh, v = h * hh % P, u * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s * hhh) % P, z1 * z2 * h % P


def negated(a: Point) -> Point:
    """-a."""
    return a[0], -a[1] % P, a[2]


def digits(scalar: int) -> list[int]:
    """The scalar's signed digits, least first: 0 or odd, below 2^(window - 1) in magnitude, few of them not 0 (wNAF)."""
    found = []
    while scalar:
        digit = 0
        if scalar & 1:
            digit = scalar & ((1 << _WINDOW) - 1)
            if digit >> (_WINDOW - 1):
                digit -= 1 << _WINDOW
            scalar -= digit
        found.append(digit)
        scalar >>= 1
    return found


def times(a: Point, scalar: Sequence[int]) -> Point:
    """The product of a point and a scalar given by its :func:`digits`."""
    odd, twice = [a], double(a)
    for _ in range((1 << (_WINDOW - 2)) - 1):
        odd.append(add(odd[-1], twice))
    result = _INFINITY
    for digit in reversed(scalar):
        result = double(result)
        if digit > 0:
            result = add(result, odd[digit >> 1])
        elif digit:
            result = add(result, negated(odd[-digit >> 1]))
    return result


def _butterflies(part: tuple[list[Point], list[Point], list[int]]) -> list[tuple[Point, Point]]:
    """For each a, b and scalar w: a + w b, a - w b."""
    found = []
    for a, b, w in zip(*part, strict=True):
        moved = b if w == 1 else times(b, digits(w))
        found.append((add(a, moved), add(a, negated(moved))))
    return found


def _scaled(part: tuple[list[Point], int]) -> list[Point]:
    scalar = digits(part[1])
    return [times(a, scalar) for a in part[0]]


def _use(cores: Sequence[int]) -> None:
    """Undo the binding to one core that mpirun gives a rank's children."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def lagrange(points: Sequence[Point], progress: Callable[[float], None] = lambda done: None) -> list[Point]:
    """The Lagrange form of 2^k points s^j G: 2^k points L_i(s) G for the domain of 1, w, w^2, ...

    A process on each core that this job may use. progress is told the share that is done.
    """
    cores = allowed_cores()
    processes = len(cores)
    n = len(points)
    logrows = n.bit_length() - 1
    root = pow(_ROOT, -1 << (_ROOT_BITS - logrows), R)
    order = [int(f"{i:0{logrows}b}"[::-1], 2) if logrows else 0 for i in range(n)]
    values = [points[i] for i in order]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _use, (cores,)) as pool:
        for stage in range(logrows):
            half = 1 << stage
            step = pow(root, n >> (stage + 1), R)
            powers = [1]
            for _ in range(half - 1):
                powers.append(powers[-1] * step % R)
            firsts = [block + i for block in range(0, n, 2 * half) for i in range(half)]
            parts = [firsts[i::8 * processes] for i in range(8 * processes)]
            work = [([values[i] for i in part], [values[i + half] for i in part], [powers[i % half] for i in part])
                    for part in parts]
            for part, found in zip(parts, pool.map(_butterflies, work, 1), strict=True):
                for i, (low, high) in zip(part, found, strict=True):
                    values[i], values[i + half] = low, high
            progress((stage + 1) / (logrows + 2))
        share = -(-n // (8 * processes))
        inverse = pow(n, -1, R)
        scaled = pool.map(_scaled, [(values[i : i + share], inverse) for i in range(0, n, share)], 1)
    return [point for part in scaled for point in part]


def reduced(given: Path, logrows: int, target: Path, progress: Callable[[float], None] = lambda done: None) -> None:
    """Write the SRS of 2^logrows rows that is part of a larger file.

    Raises ValueError for a file whose points are none, or whose Lagrange form does not add up.
    """
    with open(given, "rb") as handle:
        handle.seek(4)
        head = handle.read(POINT << logrows)
        handle.seek(-2 * POINT2, 2)
        tail = handle.read()
    points = parse(head)
    form = lagrange(points, progress)
    # the Lagrange polynomials add up to 1, and times their places to x
    total, weighted, place = _INFINITY, _INFINITY, 1
    root = pow(_ROOT, 1 << (_ROOT_BITS - logrows), R)
    for point in form:
        total, weighted = add(total, point), add(weighted, times(point, digits(place)))
        place = place * root % R
    if written([total, weighted]) != head[: 2 * POINT]:
        raise ValueError("the Lagrange form that was computed does not add up to the points")
    target.write_bytes(struct.pack("<I", logrows) + head + written(form) + tail)
