"""What a proof will cost: seconds, key size and memory, from the circuit's shape alone.

A circuit of ``cells`` cells laid out in c inner columns and b blocks of 2^k rows has c * b column
triples; each costs MSMs and FFTs of 2^k, and the constraint system's degree costs once. The
numbers below are ezkl 23.0.5's CPU seconds on one thread, fitted to real proofs of MLPs at
2^12..2^15 rows (within about a third); other machines differ by a factor, which changes no ranking.
"""

from __future__ import annotations

import math

#: Rows of every block that halo2 keeps for blinding, and a few more for the layout's block ends.
RESERVED_ROWS = 24

#: CPU milliseconds per 1024 rows of the domain: what the first triple costs, and each further one.
_FIRST_MS, _TRIPLE_MS = 350.0, 220.0
_WIDE_MS = 45.0  # more inner columns raise the degree: this times c squared

#: Bytes of proving key per row of the domain.
_KEY_FIRST, _KEY_TRIPLE, _KEY_WIDE = 5500.0, 3300.0, 550.0


def usable_rows(logrows: int) -> int:
    """Rows of one block that a circuit can fill."""
    return (1 << logrows) - RESERVED_ROWS


def blocks(num_rows: int, logrows: int) -> int:
    """How many blocks ``num_rows`` (as ``gen_settings`` counts them) need."""
    return max(1, math.ceil(num_rows / usable_rows(logrows)))


def prove_seconds(logrows: int, inner: int, block_count: int, tables: int) -> float:
    """Predicted CPU seconds of one proof; ``tables`` range and lookup tables (2 is the least)."""
    triples = inner * block_count
    per_triple = _TRIPLE_MS * (1 + 0.3 * max(0, tables - 2))
    per_1024 = _FIRST_MS + per_triple * (triples - 1) + _WIDE_MS * (inner - 1) ** 2
    return per_1024 * 2.0 ** (logrows - 10) / 1000


def key_bytes(logrows: int, inner: int, block_count: int, tables: int) -> float:
    """Predicted size of the proving key."""
    triples = inner * block_count * (1 + 0.3 * max(0, tables - 2))
    return (_KEY_FIRST + _KEY_TRIPLE * (triples - 1) + _KEY_WIDE * (inner - 1) ** 2) * 2.0**logrows


def peak_bytes(key: float) -> float:
    """Predicted peak memory of ``setup`` and of ``prove`` with a key of that size."""
    return 2.6 * key + 150e6
