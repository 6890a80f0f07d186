"""The job-level vector: exact sums, independent of order and chunks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from enclaveml.combine import STRATEGIES, Combined, combine, combine_rows
from enclaveml.job_vector import ExactSum, JobVector

finite = st.floats(allow_nan=False, allow_infinity=False)
tables = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=st.floats(-1e6, 1e6)
)


@settings(deadline=None)
@given(st.lists(finite.filter(lambda x: abs(x) < 1e306), max_size=40))
def test_sums_are_exact(values):
    total = ExactSum(1)
    total.add(np.array(values)[:, None].reshape(-1, 1))
    assert float(total.sums()[0]) == math.fsum(values)


def test_sums_keep_what_floating_point_loses():
    total = ExactSum(2)
    total.add(np.array([[1e300, 5e-324], [1.0, 5e-324]]))
    total.add(np.array([[-1e300, -5e-324]]))
    assert [float(s) for s in total.sums()] == [1.0, 5e-324]


@settings(deadline=None)
@given(st.data(), tables, st.sampled_from(STRATEGIES))
def test_order_and_chunks_do_not_matter(data, outputs, strategy):
    n, d = outputs.shape
    weights = data.draw(hnp.arrays(np.float64, n, elements=st.sampled_from([48.0, 12.0, 0.3, 0.0])))
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    whole = JobVector(strategy, d)
    whole.add(outputs, weights)
    pieces = JobVector(strategy, d)
    for part in np.split(np.array(order, dtype=int), cuts):
        pieces.add(outputs[part], weights[part])
    assert np.array_equal(whole.result().value, pieces.result().value, equal_nan=True)
    assert int(pieces.result().count) == n
    if n:
        row_wise = combine(strategy, outputs, weights)
        assert whole.result().value == pytest.approx(row_wise.value, rel=1e-9, abs=1e-9, nan_ok=True)
        if strategy == "majority_vote":
            assert whole.result().votes.tolist() == row_wise.votes.tolist()


@settings(deadline=None)
@given(tables.filter(len), st.floats(1e-3, 1e3))
def test_equal_weights_are_the_plain_average_to_the_last_bit(outputs, weight):
    weighted, plain = JobVector("weighted_average", outputs.shape[1]), JobVector("average", outputs.shape[1])
    weighted.add(outputs, np.full(len(outputs), weight))
    plain.add(outputs)
    assert np.array_equal(weighted.result().value, plain.result().value)
    exact = [sum(map(Fraction, column)) / len(column) for column in outputs.T.tolist()]
    assert plain.result().value.tolist() == [float(mean) for mean in exact]


def test_values_of_each_strategy():
    outputs = np.array([[0.0, 2.0], [4.0, 0.0], [8.0, 1.0], [0.0, 3.0]])
    weights = np.array([0.0, 3.0, 1.0, 1.0])
    expected = {
        "average": [3.0, 1.5],
        "weighted_average": [(12 + 8) / 5, (1 + 3) / 5],
        "median": [2.0, 1.5],
        "majority_vote": [0.0],
    }
    for strategy, value in expected.items():
        vector = JobVector(strategy, 2)
        vector.add(outputs, weights)
        result = vector.result()
        assert result.value.tolist() == value and int(result.count) == 4
        assert result.votes is None or result.votes.tolist() == [2, 2]
    soft = JobVector("soft_vote", 1)
    soft.add(np.array([[0.0], [math.log(3.0)]]))
    assert soft.result().value == pytest.approx([0.625], abs=1e-15)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_rows_are_nan(strategy):
    result = JobVector(strategy, 3).result()
    assert result.value.shape == ((1,) if strategy == "majority_vote" else (3,))
    assert np.isnan(result.value).all() and int(result.count) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nan_in_a_row_stays(strategy):
    vector = JobVector(strategy, 2)
    vector.add(np.array([[1.0, np.nan], [1.0, 2.0]]), np.ones(2))
    nan = np.isnan(vector.result().value).tolist()
    assert nan == {"majority_vote": [True], "soft_vote": [True, True]}.get(strategy, [False, True])


def test_infinities_follow_floating_point():
    vector = JobVector("average", 3)
    vector.add(np.array([[np.inf, np.inf, 1.0], [1.0, -np.inf, 2.0]]))
    assert vector.result().value[[0, 2]].tolist() == [np.inf, 1.5] and np.isnan(vector.result().value[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_with_replicas_count_once_and_lost_rows_not_at_all(strategy):
    outputs = np.array([[[0.0, 1.0]] * 3, [[2.0, 0.0]] * 3, [[9.0, 9.0]] * 3])
    valid = np.array([[True, True, True], [True, False, False], [False, False, False]])
    rows = combine_rows(strategy, outputs, np.ones((3, 3)), valid)
    vector = JobVector(strategy, 2)
    vector.add_combined(rows, np.ones(3))
    single = JobVector(strategy, 2)
    single.add(outputs[:2, 0], np.ones(2))
    if strategy == "soft_vote":
        assert vector.result().value == pytest.approx(single.result().value, abs=1e-15)
    else:
        assert vector.result().value.tolist() == single.result().value.tolist()
    assert int(vector.result().count) == 2


@pytest.mark.parametrize(
    "call, text",
    [
        (
            lambda: JobVector("mode", 2),
            "combine.strategy: 'mode' found; "
            "average, weighted_average, majority_vote, soft_vote, median allowed",
        ),
        (lambda: JobVector("average", 2).add(np.ones((4, 3))), "outputs (4, 3) found; (n, 2) allowed"),
        (
            lambda: JobVector("weighted_average", 2).add(np.ones((4, 2))),
            "weights: none found; (4,) allowed, the capacity of each row's rank",
        ),
        (
            lambda: JobVector("weighted_average", 2).add(np.ones((4, 2)), np.ones(3)),
            "weights: (3,) found; (4,) allowed, the capacity of each row's rank",
        ),
        (
            lambda: JobVector("weighted_average", 2).add(np.ones((2, 2)), np.array([1.0, np.inf])),
            "weights: a negative or non-finite number found; finite numbers, 0 or more, allowed",
        ),
        (
            lambda: JobVector("average", 2).add_combined(
                Combined("median", np.ones((1, 2)), None, np.ones(1))
            ),
            "rows combined by 'median' found; 'average' allowed",
        ),
    ],
)
def test_errors_in_words(call, text):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == text
