"""How the rows of a batch are cut: chunks of one shape, so that what is jitted is compiled for few shapes."""

from __future__ import annotations

from enclaveml.zk.batch.format import power_of_two

#: Cells of a chunk, about: its arrays stay in a core's cache, and starting a program is little against running it.
CELLS = 1 << 16


def chunk_rows(rows: int, features: int) -> int:
    """Rows of a chunk, a power of two: a quarter of all at most."""
    return min(max(1, rows // 4), power_of_two(-(-CELLS // features)))


def tier(chunk: int, half: int) -> int:
    """Rows of the arrays in which so many are worked on: the chunk over a power of 8, so that few shapes serve all rounds."""
    found = chunk
    while found // 8 >= half:
        found //= 8
    return found
