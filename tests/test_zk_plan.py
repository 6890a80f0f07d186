"""The circuit plan's arithmetic: layouts fit, budgets hold, the cheaper job comes first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaveml.zk.ezkl import cost, plan
from enclaveml.zk.ezkl.bench import Trial
from enclaveml.zk.ezkl.build import worth_trying
from enclaveml.zk.ezkl.plan import Choice, Footprint, Line, Numerics, Work
from enclaveml.zk.ezkl.probes import exact_bits
from enclaveml.zk.ezkl.search import Search
from enclaveml.zk.interface import CircuitRequest

CHOICE = Choice(Numerics(13, 4, 13), 4096, 2, inner=2, logrows=16, rows=4)
#: Digits MLP 64-32-10: 250 rows and 74 instances a row of data.
DIGITS = Footprint(Line(500, 1000), Line(2958, 3164), Line(148, 296), widest_table=4096, tables=2)


def work(rows: int, ranks: int = 1, children: int = 2, processors: int = 2) -> Work:
    return Work(rows, ranks, children, processors)


@given(
    st.integers(1, 5000), st.integers(1, 4), st.integers(1, 8), st.sampled_from([None, 2, 30, 97, 400])
)
def test_every_candidate_fits(rows: int, ranks: int, children: int, given_rows: int | None) -> None:
    what = Work(rows, ranks, children, ranks * children)
    found = list(plan.candidates(CHOICE, DIGITS, what, given_rows))
    assert found or given_rows == 400
    for candidate in found:
        room = cost.usable_rows(candidate.choice.logrows)
        bundle = candidate.choice.rows
        assert bundle >= 2
        assert DIGITS.rows.at(bundle) <= room * candidate.blocks <= room * plan.MAX_BLOCKS
        assert DIGITS.single.at(bundle) <= room
        assert CHOICE.base <= candidate.choice.base <= 1 << candidate.choice.logrows
        assert DIGITS.widest_table <= room
        assert candidate.peak_bytes > candidate.key_bytes > 0
        assert bundle == given_rows or bundle <= max(2, what.share)


def test_rows_per_proof_is_obeyed() -> None:
    assert {c.choice.rows for c in plan.candidates(CHOICE, DIGITS, work(360), 30)} == {30}
    assert {c.choice.rows for c in plan.candidates(CHOICE, DIGITS, work(360), 1)} == {2}


def best(what: Work) -> plan.Candidate:
    return plan.ranked(list(plan.candidates(CHOICE, DIGITS, what, None)))[0]


def test_bundles_are_even_over_the_cores() -> None:
    assert (best(work(360)).choice.rows, best(work(360)).choice.logrows) == (90, 13)


def test_ranks_that_crowd_a_node_get_no_smaller_bundles() -> None:
    """Three ranks on two cores share them; many small proofs would cost more in all."""
    crowded = best(work(360, ranks=3, children=1, processors=2)).choice
    assert 60 <= crowded.rows <= 120 and 120 % crowded.rows == 0


def test_ranks_of_one_child_share_this_machine(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    crowd = CircuitRequest(expected_rows=360, cores=3, children=1)
    assert plan.work_of(crowd) == Work(360, 3, 1, 2)
    assert plan.work_of(replace(crowd, processors=3)) == Work(360, 3, 1, 3)
    assert plan.work_of(replace(crowd, cores=16, children=8)) == Work(360, 2, 8, 16)


def test_waves() -> None:
    assert work(360).waves(90) == 2
    assert work(360).waves(91) == 2 and work(360).waves(89) == 3
    assert work(360, ranks=3, children=1, processors=3).waves(120) == 1
    assert work(360, ranks=3, children=1, processors=2).waves(120) == 1.5
    assert work(1).waves(64) == 1


def test_a_decomposition_gets_the_range_that_is_free() -> None:
    narrow = Choice(Numerics(13, 26, 4), 1024, 2, inner=2, logrows=16, rows=4)
    assert plan.widest_base(narrow, cost.usable_rows(11)) == 1024
    assert plan.widest_base(narrow, cost.usable_rows(12)) == 2048
    assert plan.widest_base(narrow, cost.usable_rows(16)) == 8192


@given(st.integers(2, 60))
def test_decompositions_hold_the_bits(bits: int) -> None:
    found = list(plan.decompositions(bits))
    assert all(base**legs >= 2**bits for base, legs in found)
    assert [legs for _, legs in found] == sorted(legs for _, legs in found)


def test_run_args_leave_nothing_at_its_default() -> None:
    args = CHOICE.run_args("committed")
    assert args["input_visibility"] == "polycommit" and args["param_visibility"] == "fixed"
    assert args["ignore_range_check_inputs_outputs"] is True
    assert (args["input_scale"], args["param_scale"]) == (13, 13)
    assert (args["decomp_base"], args["decomp_legs"], args["num_inner_cols"]) == (4096, 2, 2)


def test_tables_follow_the_base_and_the_lookups() -> None:
    settings = {
        "run_args": {"decomp_base": 1024}, "required_range_checks": [[-1, 1], [0, 1023], [-8, 8]],
        "required_lookups": [{"Tanh": {}}],
    }
    assert plan.table_lengths(settings, 4096, (-100, 50)) == [3, 4096, 17, 151]


def layout(scale: int) -> plan.Candidate:
    return plan.Candidate(Choice(Numerics(scale, 3, scale), 128, 3, 2, 8, 4), 2, 1.0, 1.0, 1e6)


class Flipping:
    """A bench at whose coarse scales the first row's argmax is another, within any tolerance."""

    spent = 0.0

    def __init__(self, truth: np.ndarray, fine: int) -> None:
        self.truth, self.fine = truth, fine

    def trial(self, choice: Choice, rows: np.ndarray) -> Trial:
        outputs = self.truth.copy()
        if choice.numerics.scale < self.fine:
            outputs[0] = outputs[0, ::-1]
        return Trial(outputs[: len(rows)], (0, 0))

    def settings(self, choice: Choice) -> dict:
        return {"num_rows": 100}


TRUTH = np.array([[0.0, 1e-4], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize(("asked", "kept"), [(0.995, [14]), (0.75, [10, 14]), (0.0, [10, 14])])
def test_a_plan_that_flips_more_than_the_agreement_allows_is_rejected_with_the_figure(asked, kept) -> None:
    said: list[str] = []
    request = CircuitRequest(agreement=asked, scale=10)
    search = Search(Flipping(TRUTH, 14), request, np.zeros((4, 6)), TRUTH, said.append)
    found = [candidate.choice.numerics.scale for candidate, _ in search.tried([layout(10), layout(14)])]
    assert found == kept
    rejected = f"plan {layout(10)}: argmax agreement 0.7500, less than proof.agreement 0.995"
    assert said == ([rejected] if asked > 0.75 else [])
    assert search.refused == ({Numerics(10, 3, 10): "argmax agreement 0.7500"} if asked > 0.75 else {})


def test_a_model_that_reaches_the_agreement_at_no_scale_is_refused() -> None:
    search = Search(Flipping(TRUTH, 99), CircuitRequest(scale=10), np.zeros((4, 6)), TRUTH, lambda line: None)
    assert list(search.tried([layout(10)])) == []
    assert search.disagreement() == (
        "the model's proved outputs have the argmax of its float outputs on 0.7500 of the sample rows at best, less "
        "than proof.agreement 0.995; lower proof.agreement (0 where outputs are no classes), or give a finer proof.scale"
    )


def test_one_output_has_no_argmax_to_agree_on() -> None:
    truth = np.array([[1.0], [-2.0]])
    search = Search(Flipping(truth, 99), CircuitRequest(agreement=1.0, scale=10), np.zeros((2, 6)), truth, lambda line: None)
    assert [c.choice.numerics.scale for c, _ in search.tried([layout(10)])] == [10]


class LongerThanPredicted:
    """A bench whose circuits need 200 rows for each row of data, and are exact."""

    spent = 0.0

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth

    def trial(self, choice: Choice, rows: np.ndarray) -> Trial:
        return Trial(self.truth, (0, 0))

    def settings(self, choice: Choice) -> dict:
        return {"num_rows": 200 * choice.rows}


@pytest.mark.parametrize(("given", "rows", "blocks"), [(4, 4, 4), (None, 3, 2)])
def test_rows_per_proof_is_kept_where_it_needs_more_columns_than_predicted(given, rows, blocks) -> None:
    truth = np.zeros((4, 3))
    search = Search(
        LongerThanPredicted(truth), CircuitRequest(rows_per_proof=given), np.zeros((4, 6)), truth, lambda line: None
    )
    candidate = plan.Candidate(Choice(Numerics(10, 3, 10), 128, 3, 2, 8, 4), 2, 1.0, 1.0, 1e6)
    (found, settings), *_ = search.tried([candidate])
    assert (found.choice.rows, found.blocks, settings["num_rows"]) == (rows, blocks, 200 * rows)


def test_exact_bits() -> None:
    assert exact_bits(np.array([[0.5, -3.0]], np.float32)) == 1
    assert exact_bits(np.arange(17, dtype=np.float32) / 16) == 4
    assert exact_bits(np.array([1 / 256, 1 / 2], np.float32)) == 8
    assert exact_bits(np.array([1 / 512], np.float32)) is None
    assert exact_bits(np.array([0.1], np.float32)) is None
    assert exact_bits(np.array([1], np.int32)) is None


def test_runners_up_are_proved_only_where_that_may_pay() -> None:
    def layout(inner: int, blocks: int, prove: float, job: float) -> plan.Candidate:
        return plan.Candidate(Choice(Numerics(10, 3, 10), 128, 3, inner, 13, 90), blocks, prove, job, 1e6)

    first = layout(2, 3, 12.0, 300.0)
    assert worth_trying(first, layout(1, 6, 12.0, 301.0))
    assert not worth_trying(first, layout(2, 3, 12.0, 301.0))  # the same layout
    assert not worth_trying(first, layout(1, 6, 12.0, 311.0))  # 0.13 * 300 - 11 < 2.5 * 12
    assert not worth_trying(layout(2, 3, 12.0, 30.0), layout(1, 6, 12.0, 30.0))
