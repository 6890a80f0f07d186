"""What a proof will cost: seconds, key size and memory, from the circuit's shape alone.

A circuit of ``cells`` cells laid out in c inner columns and b blocks of 2^k rows has c * b column
triples; each costs MSMs and FFTs of 2^k, and the constraint system's degree costs once. The
numbers below are ezkl 23.0.5's CPU seconds on one thread, fitted to real proofs of MLPs at
2^12..2^15 rows (26 layouts, most within 15 %, all within 35 %); other machines differ by a factor, which changes no ranking.
"""

from __future__ import annotations

import math

#: Rows of every block that halo2 keeps for blinding, and a few more for the layout's block ends.
RESERVED_ROWS = 24

#: CPU milliseconds per 1024 rows of the domain: once, per column triple, per (inner columns - 1)**2
#: (they raise the constraint system's degree), per block of Freivalds' columns.
_MS = (190.0, 190.0, 36.0, 106.0)

#: Bytes of proving key per row of the domain, likewise; memory is checked with a margin on top.
_KEY = (3300.0, 2500.0, 425.0, 700.0)
_KEY_MARGIN = 1.5


def usable_rows(logrows: int) -> int:
    """Rows of one block that a circuit can fill."""
    return (1 << logrows) - RESERVED_ROWS


def blocks(num_rows: int, logrows: int) -> int:
    """How many blocks ``num_rows`` (as ``gen_settings`` counts them) need."""
    return max(1, math.ceil(num_rows / usable_rows(logrows)))


def _per_row(weights: tuple[float, ...], inner: int, blocks: int, einsum_blocks: int, tables: int) -> float:
    once, triple, wide, einsum = weights
    triple *= 1 + 0.3 * max(0, tables - 2)  # two range tables are the least; more take more arguments
    return once + triple * inner * blocks + wide * (inner - 1) ** 2 + einsum * einsum_blocks


def prove_seconds(logrows: int, inner: int, blocks: int, einsum_blocks: int, tables: int) -> float:
    """Predicted CPU seconds of one proof; ``tables`` counts range and lookup tables."""
    return _per_row(_MS, inner, blocks, einsum_blocks, tables) * 2.0 ** (logrows - 10) / 1000


def key_bytes(logrows: int, inner: int, blocks: int, einsum_blocks: int, tables: int) -> float:
    """Predicted size of the proving key."""
    return _per_row(_KEY, inner, blocks, einsum_blocks, tables) * 2.0**logrows


def peak_bytes(key: float) -> float:
    """Predicted peak memory of ``setup`` and of ``prove`` with a key of that size, with a margin.

    Measured: 1.6 to 2.3 times the key, and 60 MB of libraries.
    """
    return 2.4 * _KEY_MARGIN * key + 100e6
