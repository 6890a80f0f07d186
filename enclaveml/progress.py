"""How far a job is: a bar on a terminal, else a log line every few seconds; and plain tables for the end."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

_log = logging.getLogger(__name__)


class Progress:
    """Progress of ``total_rows`` rows, of which ``done`` were done before the start (a resumed job).

    On a terminal a tqdm bar; otherwise one line to ``logger`` at most every ``interval_s`` seconds, and one
    at the end. ``clock`` gives seconds and never goes back. Use it as a context manager, or ``close`` it.
    """

    def __init__(
        self,
        total_rows: int,
        done: int = 0,
        interval_s: float = 5.0,
        stream: TextIO | None = None,
        logger: logging.Logger = _log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = sys.stderr if stream is None else stream
        self._total, self._first, self._interval = total_rows, done, interval_s
        self._logger, self._clock = logger, clock
        self._start = self._said_at = clock()
        self._state = self._said = (done, 0, 0)
        self._closed = False
        self._bar = None
        if stream.isatty() and logger.isEnabledFor(logging.INFO):
            from tqdm import tqdm

            self._bar = tqdm(
                total=total_rows, initial=done, unit="row", file=stream, dynamic_ncols=True, mininterval=0.2
            )

    def update(self, rows_done: int, proofs: int, rejected: int) -> None:
        """Say how far the job is: all three are totals, of the whole job (rows) and of this run (proofs)."""
        self._state = (rows_done, proofs, rejected)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{proofs} proofs, {rejected} rejected", refresh=False)
            self._bar.update(rows_done - self._bar.n)
        elif self._clock() - self._said_at >= self._interval:
            self._say()

    def close(self) -> None:
        """End the bar, or say where things stand unless the last line said it."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.close()
        elif self._state != self._said:
            self._say()

    def line(self) -> str:
        """For instance "120/360 rows (33 %), 24 proofs, 0 rejected, 3.21 rows/s, 1:15 left"."""
        rows, proofs, rejected = self._state
        elapsed = self._clock() - self._start
        rate = (rows - self._first) / elapsed if elapsed > 0 else 0.0
        share = f" ({100 * rows // self._total} %)" if self._total else ""
        text = f"{rows}/{self._total} rows{share}, {proofs} proofs, {rejected} rejected"
        text += f", {significant(rate)} rows/s"
        left = max(self._total - rows, 0)
        if rate > 0 and left:
            text += f", {hours(left / rate)} left"
        return text

    def _say(self) -> None:
        self._said, self._said_at = self._state, self._clock()
        self._logger.info("%s", self.line())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table: two spaces between columns, numbers to the right, the rest to the left.

    A float has three significant digits, None is "-". Each row has as many cells as there are headers;
    raises ValueError otherwise.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"table: a row of {len(row)} cells found; {len(headers)} allowed")
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    right = [
        bool(column) and all(value is None or _is_number(value) for value in column)
        for column in (list(zip(*rows, strict=True)) or [()] * len(headers))
    ]
    lines = [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(headers), *cells]
    ]
    return "\n".join(lines)


def significant(value: float) -> str:
    """Three significant digits or all before the point, no exponent: 0.00123, 3.21, 1235; never 0.000."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.3g}")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def hours(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``, rounded up to whole seconds."""
    whole = math.ceil(seconds)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _is_number(value: object) -> bool:
    # numpy's numbers have no common base with Python's: both have __float__, text has not.
    return hasattr(value, "__float__") and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if _is_number(value) and not hasattr(value, "__index__"):
        return significant(float(value))  # type: ignore[arg-type]
    return str(value)
