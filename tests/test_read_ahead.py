"""Rows that come next are read beforehand, once, and whoever asks for others is not held up."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from enclaveml.read_ahead import ReadAhead

DATA = np.arange(100, dtype=np.float32).reshape(50, 2)


def test_what_was_expected_is_read_once_and_by_another_thread() -> None:
    reads: list[tuple[int, int, str]] = []

    def read(start: int, stop: int) -> np.ndarray:
        reads.append((start, stop, threading.current_thread().name))
        return DATA[start:stop]

    ahead = ReadAhead(read)
    assert ahead.ready
    ahead.expect(10, 20)
    assert (ahead(0, 10) == DATA[:10]).all() and (ahead(10, 20) == DATA[10:20]).all()
    assert sorted(reads) == [(0, 10, "MainThread"), (10, 20, "enclaveml-read-ahead")]
    assert (ahead(10, 20) == DATA[10:20]).all() and len(reads) == 3  # it was given away


def test_it_is_not_ready_as_long_as_it_reads_and_others_do_not_wait_for_that() -> None:
    gate = threading.Event()

    def read(start: int, stop: int) -> np.ndarray:
        if start:
            assert gate.wait(30)
        return DATA[start:stop]

    ahead = ReadAhead(read)
    ahead.expect(10, 20)
    assert not ahead.ready and len(ahead(0, 5)) == 5
    gate.set()
    assert (ahead(10, 20) == DATA[10:20]).all() and ahead.ready


def test_an_error_is_raised_where_the_rows_are_wanted_and_once() -> None:
    def read(start: int, stop: int) -> np.ndarray:
        if start == 10 and threading.current_thread() is not threading.main_thread():
            raise ValueError("row 12 is nan")
        return DATA[start:stop]

    ahead = ReadAhead(read)
    ahead.expect(10, 20)
    assert len(ahead(0, 10)) == 10
    with pytest.raises(ValueError, match="row 12 is nan"):
        ahead(10, 20)
    assert len(ahead(10, 20)) == 10
