"""The search's economy: few trials find the range of values, and what is dear by prediction is not tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaveml.errors import JobError, ProofError
from enclaveml.zk.ezkl import search as searching
from enclaveml.zk.ezkl.bench import Trial
from enclaveml.zk.ezkl.plan import Choice, Numerics
from enclaveml.zk.ezkl.probes import MOST_ROWS, PROBE_CELLS, Probing, range_of
from enclaveml.zk.ezkl.search import Search
from enclaveml.zk.interface import CircuitRequest

ROWS = np.linspace(0.1, 0.7, 48).reshape(48, 1) * np.ones((48, 3))
TRUTH = np.stack([ROWS[:, 0], -ROWS[:, 0]], axis=1)


class Bench:
    """A model whose values take ``bits`` and whose lookups, where it has any, are wider at larger multipliers.

    ``wrong``: multipliers at which rows beyond those of a probe come out otherwise.
    """

    def __init__(self, bits: int = 20, lookups: bool = False, cells: int = 400, wrong: tuple[int, ...] = ()) -> None:
        self.bits, self.lookups, self.cells, self.wrong = bits, lookups, cells, wrong
        self.spent, self.tried = 0.0, []

    def settings(self, choice: Choice, rows: int | None = None) -> dict:
        rows = rows or choice.rows
        return {
            "num_rows": rows * self.cells // choice.inner // choice.numerics.multiplier,
            "required_lookups": ["Tanh"] if self.lookups else [], "required_range_checks": [[-1, 1], [0, choice.base - 1]],
            "model_output_scales": [choice.numerics.scale], "module_sizes": {"poseidon": [0], "polycommit": []},
            "model_instance_shapes": [[rows, 3], [rows, 2]], "run_args": {"decomp_base": choice.base},
            "einsum_params": {"total_einsum_col_size": 10 * rows},
        }

    def trial(self, choice: Choice, rows: np.ndarray) -> Trial:
        self.tried.append(choice)
        self.spent += 1.0
        if choice.base**choice.legs < 2**self.bits:
            raise ProofError("out of range")
        at = np.flatnonzero((ROWS[:, None] == rows).all(axis=-1).any(axis=1))
        outputs = TRUTH[at].copy()
        if choice.numerics.multiplier in self.wrong:
            outputs[at >= MOST_ROWS] += 1.0
        reach = 2 ** (choice.numerics.scale * choice.numerics.multiplier) if self.lookups else 0
        return Trial(outputs, (-reach, reach))


def search(bench: Bench, **more) -> tuple[Search, list[str]]:
    said: list[str] = []
    return Search(bench, CircuitRequest(expected_rows=48, **more), ROWS, TRUTH, said.append), said


@given(st.integers(1, 56))
def test_a_probes_range_holds_the_bits_and_hardly_more(bits: int) -> None:
    base, legs = range_of(bits)
    assert 2**bits <= base**legs < 2 ** (bits + 0.05) and legs <= 4 and base <= 1 << 14


@given(st.integers(1, 56), st.one_of(st.none(), st.integers(1, 56)))
def test_the_least_range_is_found_from_any_guess(bits: int, guess: int | None) -> None:
    bench = Bench(bits)
    probing = Probing(bench, ROWS, TRUTH)
    numerics = Numerics(10, 1, 10)
    trial = probing.look(numerics)
    (probe,) = probing.line({numerics: trial}, guess)
    assert probe.bits == bits
    assert len(bench.tried) <= (4 if guess == bits else 15)


def test_a_large_model_is_probed_with_fewer_rows() -> None:
    for cells, rows in ((400, MOST_ROWS), (PROBE_CELLS // 20, 16), (PROBE_CELLS, MOST_ROWS // 4)):
        probing = Probing(Bench(cells=cells), ROWS, TRUTH)
        probing.multipliers(Numerics(13, 1, 13))
        assert probing.choice(Numerics(13, 1, 13)).rows == rows


def test_multipliers_whose_lookups_need_long_tables_get_one_look() -> None:
    bench = Bench(lookups=True)
    looking, said = search(bench)
    kept = looking.accurate()
    assert {p.numerics.multiplier for p in kept} == {1}
    finer = [c.numerics for c in bench.tried if c.numerics.multiplier > 1 and c.numerics.scale > 8]
    assert finer == [] and any("scale 8+8 and finer at multiplier 2: dearer than what was found" in line for line in said)
    candidate, _ = next(looking.tried(looking.candidates(kept)))
    assert candidate.choice.numerics.multiplier == 1 and len(looking.outputs[candidate.choice.numerics]) == 48


def test_multipliers_passed_over_are_probed_where_the_others_hold_no_rows() -> None:
    bench = Bench(lookups=True, wrong=(1,))
    looking, said = search(bench, memory_gb=4096.0)
    candidate, _ = next(looking.tried(looking.candidates(looking.accurate())))
    assert candidate.choice.numerics.multiplier == 2
    assert any("deviation 1 leaves no margin" in line for line in said)


def test_a_first_trial_of_few_rows_rejects() -> None:
    bench = Bench(bits=20)
    looking, said = search(bench)
    ordered = looking.candidates(looking.accurate())
    bench.bits, bench.tried = 60, []
    assert list(looking.tried(ordered)) == []
    assert {c.rows for c in bench.tried} <= set(range(2, 65)) and "sample rows need more range" in said[-1]
    assert looking.why_none() == (
        "no circuit for this model holds the sample rows (values exceed every decomposition tried)"
    )


def test_the_search_ends_with_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(lookups=True)
    looking, said = search(bench)
    ordered = looking.candidates(looking.accurate())
    monkeypatch.setattr(searching, "BUDGET", 10.0)
    bench.spent = 21.0
    assert list(looking.tried(ordered)) == []
    assert said[-1] == "the search ends after 21 CPU s of trials"
    assert looking.why_none() == (
        "no circuit for this model holds the sample rows (the search ended after 21 CPU s: give proof.scale)"
    )
    again, _ = search(spending := Bench(lookups=True))
    spending.spent = 11.0
    assert {p.numerics.multiplier for p in again.accurate()} == {1}


def test_lookups_that_no_table_holds_are_refused_with_the_range() -> None:
    bench = Bench(lookups=True)
    looking, _ = search(bench, scale=24)
    with pytest.raises(JobError) as caught:
        looking.accurate()
    text = str(caught.value)
    assert text.startswith("the model cannot be proved: no witness of the sample rows (scale 24, multiplier ")
    assert text.endswith("which no table of 2^22 rows holds)") and math.isinf(looking._best)
