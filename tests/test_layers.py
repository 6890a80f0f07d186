"""The table of layers says what is found when the layers are tried: some on every run, all of them on demand.

``ENCLAVEML_ALL_LAYERS=1 python -m pytest tests/test_layers.py`` tries all (a minute or two).
"""

from __future__ import annotations

import os
import re

import pytest

from benchmarks.layer_cases import CASES
from benchmarks.layers import EXACT, REFUSED, SCALES, TARGET, WITHIN, Found, document, examined

pytestmark = pytest.mark.ezkl

#: One of each state, and a layer of each kind that is quick.
USUAL = ("`nnx.Linear`", "`nnx.max_pool`", "`nnx.BatchNorm`", "`nnx.Conv`, dilated", "`nnx.Embed`", "`softmax`",
         "float compared with an integer", "`astype(int32)` of floats")
ALL = bool(os.environ.get("ENCLAVEML_ALL_LAYERS"))


def lines() -> dict[str, list[str]]:
    """The table's lines by name, as cells."""
    rows = [line for line in TARGET.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    return {row.split(" | ")[0].removeprefix("| "): row[2:-2].split(" | ") for row in rows}


@pytest.fixture(scope="module")
def found() -> list[Found]:
    # another file of this session may hold JAX on a device already: layers are as small as to run anywhere
    return examined(() if ALL else USUAL)


def near(told: str, seen: str) -> bool:
    """Whether two deviations say the same, but for a last bit that another machine's floats may move."""
    powers = [re.fullmatch(r"< 1e([+-]\d+)", text) for text in (told, seen)]
    return told == seen or (all(powers) and abs(int(powers[0][1]) - int(powers[1][1])) <= 1)


def test_the_table_says_what_is_found(found: list[Found]) -> None:
    told = lines()
    assert len(found) == len(CASES if ALL else USUAL)
    for one in found:
        name, *wanted = one.line()[2:-2].split(" | ")
        says = told[name][1:]
        assert says[0] == wanted[0], name
        if one.deviations:
            assert one.distinct > 1, (name, "its rows give one value only: that it is met shows nothing")
            for column in range(1, 1 + len(SCALES)):
                assert near(says[column], wanted[column]), (name, SCALES[column - 1], says, wanted)
            cells = int(says[1 + len(SCALES)].replace(",", ""))
            assert abs(cells - one.cells) <= 1 + 0.02 * one.cells, (name, "cells")  # ezkl's counts differ by a few
            assert says[2 + len(SCALES)] == wanted[2 + len(SCALES)], (name, "tables")
        assert says[-1] == wanted[-1], (name, "note")


def test_the_table_has_every_case_in_order_and_every_state() -> None:
    told = lines()
    assert list(told) == [case.name for case in CASES] and len(told) == len(CASES)
    states = [cells[1] for cells in told.values()]
    assert {EXACT, REFUSED} < set(states) and any(state.startswith(WITHIN) for state in states)
    assert all(len(cells[-1]) > 10 for cells in told.values() if cells[1] == REFUSED), "a refusal says what to do"


@pytest.mark.skipif(not ALL, reason="ONLY EIGHT LAYERS OF THE TABLE ARE TRIED: set ENCLAVEML_ALL_LAYERS=1 for all")
def test_the_text_around_the_table_is_the_commands(found: list[Found]) -> None:
    def without_lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("| `") and not line.startswith("| ")]

    assert without_lines(TARGET.read_text(encoding="utf-8")) == without_lines(document(found))
