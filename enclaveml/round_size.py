"""How many rows a round has: enough to keep every prover busy, few enough that rank 0 holds two rounds in memory, and a third that is read ahead."""

from __future__ import annotations

#: Rows of a round, and bytes of its rows, at most.
ROUND_ROWS, ROUND_BYTES = 1 << 16, 1 << 26

#: Where there are so many provers that such a round would leave some without work, a round has this many
#: bundles for each of them, within so many bytes. Two rounds of 65,536 rows are 1,456 bundles of 90 rows, work
#: for 91 ranks of 16 provers and no more.
ROUND_BUNDLES, WIDE_BYTES = 3, 1 << 28


def rows_of_a_round(row_bytes: int, at_once: int = 0, most_rows: int = ROUND_ROWS, most_bytes: int = ROUND_BYTES) -> int:
    """The most rows of a round, 1 at least.

    row_bytes: of one row at rank 0. at_once: rows that all provers together prove at a time (B rows each).
    """
    each = max(1, row_bytes)
    rows = min(most_rows, most_bytes // each)
    wide = ROUND_BUNDLES * at_once
    if wide > ROUND_ROWS:
        rows = max(rows, min(wide, WIDE_BYTES // each))
    return max(1, rows)
