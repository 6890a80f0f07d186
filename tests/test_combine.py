"""Combining replicas, row by row: the five strategies as their words mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from enclaveml.combine import STRATEGIES, classes, combine, combine_rows, probabilities, replicas_by_row

THREE = np.array([[1.0, 5.0, 0.0], [2.0, 1.0, 0.0], [6.0, 3.0, 3.0]])
ONES = np.ones(3)


def test_average_and_weighted_average():
    assert combine("average", THREE, ONES).value.tolist() == [3.0, 3.0, 1.0]
    assert combine("weighted_average", THREE, [2.0, 1.0, 1.0]).value.tolist() == [2.5, 3.5, 0.75]
    assert combine("weighted_average", THREE, [0.0, 0.0, 7.0]).value.tolist() == [6.0, 3.0, 3.0]


def test_median_of_odd_and_even_numbers():
    assert combine("median", THREE, ONES).value.tolist() == [2.0, 3.0, 0.0]
    assert combine("median", THREE[:2], ONES[:2]).value.tolist() == [1.5, 3.0, 0.0]
    assert combine("median", [[1.7e308], [1.5e308]], ONES[:2]).value.tolist() == [1.6e308]


def test_majority_vote_counts_and_breaks_ties_low():
    result = combine("majority_vote", THREE, ONES)
    assert result.value.tolist() == [0.0] and result.votes.tolist() == [2, 1, 0]
    tied = combine("majority_vote", [[0.0, 0, 9], [0, 9, 0]], ONES[:2])
    assert tied.value.tolist() == [1.0] and tied.votes.tolist() == [0, 1, 1]
    level = combine("majority_vote", [[4.0, 4.0]], ONES[:1])
    assert level.value.tolist() == [0.0]


def test_one_logit_is_cut_at_zero_and_one_probability_at_a_half():
    assert classes(np.array([[0.0], [-1e-9], [1e-9]])).tolist() == [0, 0, 1]
    assert classes(np.array([[0.5], [0.4], [0.6]]), "probabilities").tolist() == [0, 0, 1]
    result = combine("majority_vote", [[0.3], [-2.0], [0.1]], ONES)
    assert result.value.tolist() == [1.0] and result.votes.tolist() == [1, 2]
    assert combine("majority_vote", [[0.3], [0.1], [0.9]], ONES, "probabilities").votes.tolist() == [2, 1]


def test_soft_vote_averages_probabilities_not_logits():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    value = combine("soft_vote", logits, ONES[:2]).value
    assert value == pytest.approx([0.3, 0.525, 0.175], abs=1e-15)
    one = combine("soft_vote", [[0.0], [math.log(3.0)]], ONES[:2]).value
    assert one == pytest.approx([0.625], abs=1e-15)
    given_as = combine("soft_vote", [[0.25, 0.75], [0.75, 0.25]], ONES[:2], "probabilities").value
    assert given_as.tolist() == [0.5, 0.5]


def test_softmax_and_sigmoid_do_not_overflow():
    assert probabilities(np.array([[1e5, 0.0]])).tolist() == [[1.0, 0.0]]
    assert probabilities(np.array([[1e5], [-1e5], [0.0]])).tolist() == [[1.0], [0.0], [0.5]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_valid_replicas_take_part(strategy):
    outputs = np.array([[[1.0, 5.0]], [[np.nan, np.inf]], [[9.0, 2.0]]])
    valid = np.array([[True], [False], [True]])
    weights = np.array([[3.0], [5.0], [1.0]])
    part = combine(strategy, outputs, weights, valid=valid)
    whole = combine(strategy, outputs[::2], weights[::2])
    assert np.array_equal(part.value, whole.value) and part.count.tolist() == [2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_without_valid_replica_is_nan(strategy):
    result = combine_rows(strategy, np.ones((2, 3, 4)), np.ones((2, 3)), np.array([[True] * 3, [False] * 3]))
    assert np.isnan(result.value).tolist() == [
        [False] * result.value.shape[1],
        [True] * result.value.shape[1],
    ]
    assert result.count.tolist() == [3, 0]
    if strategy == "majority_vote":
        assert result.votes.tolist() == [[3, 0, 0, 0], [0, 0, 0, 0]]
    else:
        assert result.votes is None


def test_no_weight_at_all_is_nan():
    assert np.isnan(combine("weighted_average", THREE, np.zeros(3)).value).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nan_in_a_valid_output_stays(strategy):
    outputs = THREE.copy()
    outputs[1, 1] = np.nan
    value = combine(strategy, outputs, ONES).value
    assert np.isnan(value).tolist() == {
        "majority_vote": [True],
        "soft_vote": [True, True, True],  # a softmax mixes all of a replica's outputs
    }.get(strategy, [False, True, False])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_rows_give_no_rows(strategy):
    result = combine_rows(strategy, np.ones((0, 2, 3)), np.ones((0, 2)), np.ones((0, 2), bool))
    assert result.value.shape == (0, 1 if strategy == "majority_vote" else 3)


shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
number = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(st.data(), shapes, st.sampled_from(STRATEGIES), st.sampled_from(["logits", "probabilities"]))
def test_order_of_replicas_chunks_and_padding_do_not_matter(data, shape, strategy, kind):
    n, r, d = shape
    elements = number if kind == "logits" else st.floats(0, 1)
    outputs = data.draw(hnp.arrays(np.float64, shape, elements=elements))
    weights = data.draw(hnp.arrays(np.float64, (n, r), elements=st.floats(0.125, 64)))
    valid = data.draw(hnp.arrays(bool, (n, r)))
    order = data.draw(st.permutations(range(r)))
    whole = combine_rows(strategy, outputs, weights, valid, kind)
    turned = combine_rows(strategy, outputs[:, order], weights[:, order], valid[:, order], kind)
    assert np.array_equal(whole.value, turned.value, equal_nan=True)
    padded = combine_rows(
        strategy,
        np.concatenate([outputs, np.full((n, 2, d), np.nan)], axis=1),
        np.pad(weights, ((0, 0), (0, 2))),
        np.pad(valid, ((0, 0), (0, 2))),
        kind,
    )
    assert np.array_equal(whole.value, padded.value, equal_nan=True)
    for i in range(n):
        alone = combine(strategy, outputs[i], weights[i], kind, valid[i])
        assert np.array_equal(whole.value[i], alone.value, equal_nan=True)


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=number))
def test_against_plain_numpy(outputs):
    ones = np.ones(len(outputs))
    assert combine("average", outputs, ones).value == pytest.approx(outputs.mean(axis=0), rel=1e-12, abs=1e-6)
    assert np.array_equal(
        combine("weighted_average", outputs, 3 * ones).value, combine("average", outputs, ones).value
    )
    assert np.array_equal(combine("median", outputs, ones).value, np.median(outputs, axis=0))
    shares = combine("soft_vote", outputs, ones).value
    assert ((shares >= 0) & (shares <= 1)).all()
    if outputs.shape[1] > 1:
        assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    votes = combine("majority_vote", outputs, ones).votes
    assert votes.sum() == len(outputs) and votes.shape == (max(2, outputs.shape[1]),)


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 5), elements=number), st.floats(1e-3, 1e12))
def test_one_replica_is_returned_as_it_is(row, weight):
    for strategy in ("average", "weighted_average", "median"):
        assert combine(strategy, row[None], [weight]).value.tolist() == row.tolist()


def test_entries_of_replicas_are_packed_by_row():
    rows, outputs, weights, valid = replicas_by_row(
        np.array([7, 3, 7, 7]),
        np.array([[1.0], [2], [3], [4]]),
        np.array([1.0, 2, 3, 4]),
        np.array([1, 1, 0, 1], bool),
    )
    assert rows.tolist() == [3, 7]
    assert outputs[..., 0].tolist() == [[2, 0, 0], [1, 3, 4]]
    assert weights.tolist() == [[2, 0, 0], [1, 3, 4]]
    assert valid.tolist() == [[True, False, False], [True, False, True]]
    empty = replicas_by_row(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))
    assert empty[0].shape == (0,) and empty[1].shape == (0, 1, 4)


@pytest.mark.parametrize(
    "call, text",
    [
        (
            lambda: combine("mean", THREE, ONES),
            "combine.strategy: 'mean' found; "
            "average, weighted_average, majority_vote, soft_vote, median allowed",
        ),
        (
            lambda: combine("average", THREE, ONES, "scores"),
            "combine.input: 'scores' found; logits, probabilities allowed",
        ),
        (
            lambda: combine("average", THREE, np.ones(2)),
            "weights (2,) and valid (3,) found beside outputs (3, 3); "
            "(3,) for both, or (3,) for weights, allowed",
        ),
        (
            lambda: combine("average", np.ones((0, 3)), np.ones(0)),
            "outputs (0, 3) found; (R, …, D) with R and D at least 1 allowed",
        ),
        (
            lambda: combine("weighted_average", THREE, [1.0, -1.0, 1.0]),
            "weights: a negative or non-finite number found; finite numbers, 0 or more, allowed",
        ),
        (
            lambda: combine_rows("average", np.ones((2, 3, 4)), np.ones(3), np.ones((2, 3), bool)),
            "outputs (2, 3, 4), weights (3,) and valid (2, 3) found; (N, R, D), (N, R) and (N, R) allowed",
        ),
    ],
)
def test_errors_in_words(call, text):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == text
