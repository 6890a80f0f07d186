"""Progress lines by a clock of our own, the bar on a made-up terminal, tables."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest

from enclaveml.log import NAME, setup
from enclaveml.progress import Progress, hours, significant, table


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def logger():
    logger = logging.Logger("test", logging.INFO)
    logger.addHandler(Lines())
    return logger


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(logger, total: int, **keys) -> tuple[Progress, Clock, list[str]]:
    clock = Clock()
    made = Progress(total, stream=io.StringIO(), logger=logger, clock=clock, **keys)
    return made, clock, logger.handlers[0].lines


def test_a_line_every_interval_and_one_at_the_end(logger):
    bar, clock, lines = progress(logger, 360, interval_s=5)
    for second in range(1, 12):
        clock.now = 100.0 + second
        bar.update(10 * second, second, 0)
    assert lines == [
        "50/360 rows (13 %), 5 proofs, 0 rejected, 10.0 rows/s, 0:31 left",
        "100/360 rows (27 %), 10 proofs, 0 rejected, 10.0 rows/s, 0:26 left",
    ]
    clock.now = 112.0
    bar.update(360, 36, 1)
    bar.close()
    bar.close()
    assert lines[2:] == ["360/360 rows (100 %), 36 proofs, 1 rejected, 30.0 rows/s"]


def test_nothing_is_said_twice(logger):
    bar, clock, lines = progress(logger, 10)
    with bar:
        clock.now = 110.0
        bar.update(10, 2, 0)
    assert lines == ["10/10 rows (100 %), 2 proofs, 0 rejected, 1.00 rows/s"]


def test_the_rate_of_a_resumed_job_counts_this_run_only(logger):
    bar, clock, lines = progress(logger, 100, done=60)
    clock.now = 110.0
    bar.update(70, 5, 0)
    assert lines == ["70/100 rows (70 %), 5 proofs, 0 rejected, 1.00 rows/s, 0:30 left"]


def test_no_rows_and_no_rate(logger):
    bar, clock, _ = progress(logger, 0)
    assert bar.line() == "0/0 rows, 0 proofs, 0 rejected, 0 rows/s"
    clock.now = 109.0
    assert bar.line() == "0/0 rows, 0 proofs, 0 rejected, 0 rows/s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_no_lines(logger):
    screen = Terminal()
    with Progress(360, stream=screen, logger=logger, clock=Clock()) as bar:
        bar.update(120, 24, 1)
    assert "120/360" in screen.getvalue() and "24 proofs, 1 rejected" in screen.getvalue()
    assert logger.handlers[0].lines == []


def test_log_lines_stand_above_the_bar(logger):
    package = logging.getLogger(NAME)
    kept = package.handlers[:], package.level, package.propagate
    screen = Terminal()
    try:
        setup(0, "a", screen, {})
        with Progress(360, stream=screen, logger=logger, clock=Clock()):
            package.warning("look")
    finally:
        package.handlers[:], package.propagate = kept[0], kept[2]
        package.setLevel(kept[1])
    before, after = screen.getvalue().split("WARNING: look\n")
    # The bar's line is emptied before the log line's time stamp, and drawn again below it.
    assert before.rpartition("\r")[2].count("row") == 0 and "0/360" in after


def test_no_bar_where_the_log_is_quiet(logger):
    logger.setLevel(logging.WARNING)
    screen = Terminal()
    with Progress(360, stream=screen, logger=logger, clock=Clock()) as bar:
        bar.update(120, 24, 1)
    assert screen.getvalue() == ""


def test_table():
    text = table(
        ["rank", "node", "infer s", "rows", "fate"],
        [[0, "aggregator", None, np.int64(0), "ok"], [1, "gpu-01", 0.001234, 1200, "ok"]],
    )
    assert text == (
        "rank  node        infer s  rows  fate\n"
        "   0  aggregator        -     0  ok\n"
        "   1  gpu-01      0.00123  1200  ok"
    )
    assert table(["a", "b"], []) == "a  b"
    with pytest.raises(ValueError) as caught:
        table(["a", "b"], [[1]])
    assert str(caught.value) == "table: a row of 1 cells found; 2 allowed"


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (0.00012345, "0.000123"),
        (9.999, "10.0"),
        (3.2149, "3.21"),
        (1234.6, "1235"),
        (-0.5, "-0.500"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_three_significant_digits(value, text):
    assert significant(value) == text


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.2, "1:00"), (75, "1:15"), (3661, "1:01:01")])
def test_hours(seconds, text):
    assert hours(seconds) == text
