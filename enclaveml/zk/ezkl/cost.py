"""What a proof will cost: seconds, key size and memory, from the circuit's shape alone.

A circuit's cells are laid out in c inner columns and b blocks of 2^k rows: c * b column triples, each of
which costs MSMs and FFTs of 2^k. Inner columns raise the constraint system's degree; blocks bring
selectors; Freivalds' argument has blocks of its own.

The numbers are ezkl 23.0.5's CPU seconds on one thread, fitted (least squares of relative errors, no
term below zero) to the 18 proofs of an MLP 64-32-10 in ``benchmarks/layouts.json``: k 12 to 15, 1 to 4
inner columns, 1 to 7 blocks. All are within 13 %, most within 5 %. Other machines differ by a factor,
which changes no ranking. Also measured there, and so left alone: loading a key is 2 to 3 % of a proof
whatever its format (``EZKL_KEY_FORMAT``) and buffer (``EZKL_BUF_CAPACITY``); keys without selector
compression are 1.6 times as large and prove no faster; a table of 4096 costs what one of 1024 costs.
"""

from __future__ import annotations

import math

#: Rows of every block that halo2 keeps for blinding, and a few more for the layout's block ends.
RESERVED_ROWS = 24

#: CPU milliseconds per 1024 rows of the domain: per column triple, per block, per (inner columns - 1)**2,
#: per block of Freivalds' columns.
_MS = (195.0, 18.0, 45.0, 137.0)

#: Bytes of proving key per row of the domain, likewise; memory is checked with a margin on top.
_KEY = (1150.0, 3300.0, 1150.0, 1880.0)
#: Bytes of key per row of the domain and *square* of the blocks of Freivalds' columns: 33 such blocks (an MLP of 250,000
#: weights at 2^13 rows) made a key of 4.0 GB where 0.8 were predicted without it; up to 4 blocks it is hardly seen.
_KEY_EINSUM_SQUARE = 361.0
#: How far a key may be larger than predicted, but for keys under 100 MB (30 circuits, 55 MB to 4 GB: 0.9 to 1.6, one 1.8).
_KEY_MARGIN = 1.6

#: How far a predicted time may be off, relative (the fit's largest error).
ERROR = 0.13


def usable_rows(logrows: int) -> int:
    """Rows of one block that a circuit can fill."""
    return (1 << logrows) - RESERVED_ROWS


def blocks(num_rows: int, logrows: int) -> int:
    """How many blocks ``num_rows`` (as ``gen_settings`` counts them) need."""
    return max(1, math.ceil(num_rows / usable_rows(logrows)))


def _per_row(weights: tuple[float, ...], inner: int, blocks: int, einsum_blocks: int, tables: int) -> float:
    triple, block, wide, einsum = weights
    triple *= 1 + 0.3 * max(0, tables - 2)  # two range tables are the least; more take more arguments
    return triple * inner * blocks + block * blocks + wide * (inner - 1) ** 2 + einsum * einsum_blocks


def prove_seconds(logrows: int, inner: int, blocks: int, einsum_blocks: int, tables: int) -> float:
    """Predicted CPU seconds of one proof; ``tables`` counts range and lookup tables."""
    return _per_row(_MS, inner, blocks, einsum_blocks, tables) * 2.0 ** (logrows - 10) / 1000


def key_bytes(logrows: int, inner: int, blocks: int, einsum_blocks: int, tables: int) -> float:
    """Predicted size of the proving key."""
    a_row = _per_row(_KEY, inner, blocks, einsum_blocks, tables) + _KEY_EINSUM_SQUARE * einsum_blocks**2
    return a_row * 2.0**logrows


def peak_bytes(key: float) -> float:
    """Predicted peak memory of ``setup`` and of ``prove`` with a key of that predicted size, with a margin.

    Measured: a proof takes 1.4 to 1.5 times its key and 70 to 110 MB, set-up less (keys of 17 MB to 4 GB).
    """
    return 1.5 * _KEY_MARGIN * key + 110e6
