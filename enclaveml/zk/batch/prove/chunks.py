"""How the rows of a batch are cut: chunks of one shape, so that what is jitted is compiled for few shapes; shares of threads otherwise."""

from __future__ import annotations

from collections.abc import Callable

from enclaveml.zk.batch.format import power_of_two
from enclaveml.zk.batch.prove.parallel import Pool, cores

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


#: Cells below which a second thread doesn't pay.
_SHARED = 1 << 13


def split(threads: Pool, rows: int, width: int, run: Callable[[int, int], None]) -> None:
    """Run it over rows from one number to another, on all cores where there are many cells; ``run`` releases the interpreter's lock."""
    parts = min(rows, cores()) if rows * width >= _SHARED else 1
    if parts == 1:
        return run(0, rows)
    ends = [rows * i // parts for i in range(parts + 1)]
    threads.map(run, ends[:-1], ends[1:])
    return None
