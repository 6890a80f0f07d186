"""The circuit plan's arithmetic: layouts fit, budgets hold, the cheaper job comes first."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from enclaveml.zk.ezkl import cost, plan
from enclaveml.zk.ezkl.plan import Choice, Footprint, Line, Numerics

CHOICE = Choice(Numerics(13, 4), 16384, 2, inner=2, logrows=16, rows=4)
#: Digits MLP 64-32-10: 314 rows and 74 instances a row of data.
DIGITS = Footprint(Line(628, 1256), Line(2752, 3032), Line(148, 296), widest_table=4096, tables=2)


@given(st.integers(1, 5000), st.integers(1, 16), st.sampled_from([1e9, 4e9, 16e9]))
def test_every_candidate_fits(expected: int, cores: int, memory: float) -> None:
    found = list(plan.candidates(CHOICE, DIGITS, expected, cores, memory, None))
    assert found
    for candidate in found:
        room = cost.usable_rows(candidate.choice.logrows)
        rows = candidate.choice.rows
        assert rows >= 2
        assert DIGITS.rows.at(rows) <= room * candidate.blocks
        assert DIGITS.single.at(rows) <= room
        assert DIGITS.widest_table <= room
        assert cost.peak_bytes(candidate.key_bytes) <= memory
        assert rows <= max(2, expected)


def test_rows_per_proof_is_obeyed() -> None:
    assert {c.choice.rows for c in plan.candidates(CHOICE, DIGITS, 360, 2, 8e9, 30)} == {30}
    assert {c.choice.rows for c in plan.candidates(CHOICE, DIGITS, 360, 2, 8e9, 1)} == {2}


def test_nothing_fits_too_little_memory() -> None:
    assert list(plan.candidates(CHOICE, DIGITS, 360, 2, 1e8, None)) == []


def test_bundles_are_even_over_the_cores() -> None:
    best = plan.ranked(list(plan.candidates(CHOICE, DIGITS, 360, 2, 8e9, None)))[0]
    bundles = math.ceil(360 / best.choice.rows)
    assert bundles % 2 == 0 and bundles * best.choice.rows < 360 + best.choice.rows


@given(st.integers(2, 60))
def test_decompositions_hold_the_bits(bits: int) -> None:
    found = list(plan.decompositions(bits))
    assert all(base**legs >= 2**bits for base, legs in found)
    assert [legs for _, legs in found] == sorted(legs for _, legs in found)


def test_run_args_leave_nothing_at_its_default() -> None:
    args = CHOICE.run_args("committed")
    assert args["input_visibility"] == "polycommit" and args["param_visibility"] == "fixed"
    assert args["ignore_range_check_inputs_outputs"] is True
    assert (args["decomp_base"], args["decomp_legs"], args["num_inner_cols"]) == (16384, 2, 2)


def test_tables_follow_the_base_and_the_lookups() -> None:
    settings = {
        "run_args": {"decomp_base": 1024}, "required_range_checks": [[-1, 1], [0, 1023], [-8, 8]],
        "required_lookups": [{"Tanh": {}}],
    }
    assert plan.table_lengths(settings, 4096, (-100, 50)) == [3, 4096, 17, 151]
