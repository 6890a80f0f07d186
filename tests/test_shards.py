"""Splitting: every row where it belongs, shares in proportion, replicas in different ranks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaveml.errors import JobError
from enclaveml.shards import largest_remainder, level, split, split_excluding

capacity = st.one_of(st.just(0.0), st.integers(1, 64).map(float), st.floats(1e-6, 1e9))
ranks = st.lists(st.tuples(capacity, st.booleans()), min_size=1, max_size=9)


def everyone(size: int) -> np.ndarray:
    return np.ones(size, bool)


def check_packing(shards, size: int) -> None:
    assert shards.counts.dtype == shards.displs.dtype == shards.rows.dtype == np.int64
    assert shards.counts.shape == shards.displs.shape == (size,)
    assert shards.displs.tolist() == [int(shards.counts[:p].sum()) for p in range(size)]
    assert len(shards.rows) == shards.counts.sum()
    assert np.concatenate([shards.of(p) for p in range(size)]).tolist() == shards.rows.tolist()
    assert np.bincount(shards.ranks(), minlength=size).tolist() == shards.counts.tolist()


def test_four_machines_share_in_proportion_to_memory():
    shards = split("by_capacity", np.arange(820), np.array([48.0, 12, 6, 16]), everyone(4))
    assert shards.counts.tolist() == [480, 120, 60, 160]
    shards = split("by_capacity", np.arange(360), np.array([48.0, 12, 6, 16]), everyone(4))
    # Exact shares 210.73, 52.68, 26.34, 70.24: the two rows left go to the largest fractional parts.
    assert shards.counts.tolist() == [211, 53, 26, 70]
    assert shards.displs.tolist() == [0, 211, 264, 290]
    assert shards.of(1).tolist() == list(range(211, 264))


def test_the_aggregator_that_does_not_compute_gets_nothing():
    shards = split(
        "by_capacity", np.arange(34), np.array([48.0, 12, 6, 16]), np.array([False, True, True, True])
    )
    assert shards.counts.tolist() == [0, 12, 6, 16]


def test_equal_ignores_capacity_and_fills_lowest_ranks_first():
    shards = split("equal", np.arange(11), np.array([9.0, 0, 1, 1]), np.array([False, True, True, True]))
    assert shards.counts.tolist() == [0, 4, 4, 3]


def test_ties_go_to_the_lowest_rank():
    assert largest_remainder(2, [1, 1, 1, 1]).tolist() == [1, 1, 0, 0]
    assert largest_remainder(5, [1.0, 2, 1]).tolist() == [1, 3, 1]  # 1.25, 2.5, 1.25


def test_weights_beyond_floating_point_addition():
    assert largest_remainder(4, [1e308, 1e308]).tolist() == [2, 2]
    assert largest_remainder(1, [5e-324, 0.0]).tolist() == [1, 0]


def test_zero_rows_and_zero_row_shards():
    for strategy in ("equal", "by_capacity", "redundant"):
        shards = split(strategy, np.arange(0), np.array([1.0, 2]), everyone(2), replicas=2)
        assert shards.counts.tolist() == [0, 0] and shards.rows.tolist() == []
    shards = split("by_capacity", np.array([7]), np.array([1.0, 1000]), everyone(2))
    assert shards.counts.tolist() == [0, 1] and shards.of(0).tolist() == []


def test_redundant_balances_what_a_full_rank_cannot_take():
    shards = split("redundant", np.arange(10), np.array([100.0, 2, 1, 2]), everyone(4), replicas=2)
    assert shards.counts.tolist() == [10, 4, 2, 4]
    assert shards.of(1).tolist() == [0, 1, 2, 3]


def test_redundant_wraps_round_and_keeps_row_order_within_a_rank():
    shards = split("redundant", np.array([10, 11, 12]), np.ones(3), everyone(3), replicas=2)
    assert [shards.of(p).tolist() for p in range(3)] == [[10, 11], [10, 12], [11, 12]]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(capacity, min_size=1, max_size=12).filter(any))
def test_largest_remainder_is_within_a_row_of_the_exact_share(n, weights):
    counts = largest_remainder(n, weights)
    exact = [n * Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    assert counts.sum() == n
    assert all(abs(int(c) - share) < 1 for c, share in zip(counts, exact, strict=True))
    remainders = [(share - int(share), int(c) - int(share)) for c, share in zip(counts, exact, strict=True)]
    up, down = [f for f, extra in remainders if extra], [f for f, extra in remainders if not extra]
    assert not up or not down or min(up) >= max(down)


@settings(deadline=None)
@given(st.sampled_from(["equal", "by_capacity"]), st.integers(0, 300), ranks)
def test_each_row_once(strategy, n, places):
    capacities = np.array([c for c, _ in places])
    eligible = np.array([e for _, e in places])
    rows = np.arange(n)[::-1] * 3
    if not eligible.any() or (strategy == "by_capacity" and not capacities[eligible].any()):
        with pytest.raises(JobError):
            split(strategy, rows, capacities, eligible)
        return
    shards = split(strategy, rows, capacities, eligible)
    check_packing(shards, len(places))
    assert shards.rows.tolist() == rows.tolist()
    assert not shards.counts[~eligible].any()
    if strategy == "equal":
        assert np.ptp(shards.counts[eligible]) <= 1
    else:
        share = n * capacities * eligible / (capacities * eligible).sum()
        assert (shards.counts < share + 1 + 1e-9).all() and (shards.counts > share - 1 - 1e-9).all()


@settings(deadline=None)
@given(st.integers(0, 200), ranks, st.integers(1, 5))
def test_replicas_go_to_different_ranks(n, places, replicas):
    capacities = np.array([c for c, _ in places])
    eligible = np.array([e for _, e in places])
    able = int((eligible & (capacities > 0)).sum())
    rows = np.arange(n) + 5
    if replicas > able:
        with pytest.raises(JobError):
            split("redundant", rows, capacities, eligible, replicas)
        return
    shards = split("redundant", rows, capacities, eligible, replicas)
    check_packing(shards, len(places))
    assert np.bincount(shards.rows, minlength=n + 5)[5:].tolist() == [replicas] * n
    for p in range(len(places)):
        segment = shards.of(p).tolist()
        assert segment == sorted(set(segment))
        assert not segment or (eligible[p] and capacities[p] > 0)
    # Among ranks that are not full, places are in proportion to capacity; a full rank is at or above that.
    held = eligible & (capacities > 0)
    slack = [1 / Fraction(w) for w in capacities[held]]
    load = [int(c) * s for c, s in zip(shards.counts[held], slack, strict=True)]
    open_ranks = np.flatnonzero(shards.counts[held] < n)
    for i in open_ranks:
        for j in open_ranks:
            assert load[i] < load[j] + slack[i] + slack[j]


def test_redispatch_avoids_the_rank_that_failed():
    forbidden = np.zeros((6, 4), bool)
    forbidden[:, 2] = True
    shards, nobody = split_excluding(
        np.array([3, 5, 7, 9, 11, 13]),
        np.array([1.0, 2, 50, 4]),
        np.array([False, True, True, True]),
        forbidden,
    )
    assert nobody.tolist() == []
    assert [shards.of(p).tolist() for p in range(4)] == [[], [3, 5], [], [7, 9, 11, 13]]


def test_redispatch_serves_the_most_constrained_rows_first():
    # Row 8 may go to rank 0 only; the others are steered away from it.
    forbidden = np.array([[False, False], [False, False], [False, True]])
    shards, nobody = split_excluding(np.array([6, 7, 8]), np.ones(2), everyone(2), forbidden)
    assert [shards.of(0).tolist(), shards.of(1).tolist()] == [[6, 8], [7]]
    assert nobody.tolist() == []


def test_redispatch_reports_rows_that_nobody_may_take():
    forbidden = np.array([[True, True], [False, True], [True, True]])
    shards, nobody = split_excluding(np.array([4, 2, 9]), np.ones(2), everyone(2), forbidden)
    assert shards.of(0).tolist() == [2] and nobody.tolist() == [4, 9]
    shards, nobody = split_excluding(np.array([4, 2]), np.ones(2), ~everyone(2), np.zeros((2, 2), bool))
    assert shards.counts.tolist() == [0, 0] and nobody.tolist() == [4, 2]


@settings(deadline=None)
@given(st.data(), ranks, st.integers(0, 40))
def test_redispatch_gives_each_permitted_row_once(data, places, n):
    capacities = np.array([c for c, _ in places])
    eligible = np.array([e for _, e in places])
    bits = data.draw(st.lists(st.booleans(), min_size=n * len(places), max_size=n * len(places)))
    forbidden = np.array(bits, bool).reshape(n, len(places))
    rows = np.arange(n) * 2 + 1
    shards, nobody = split_excluding(rows, capacities, eligible, forbidden)
    check_packing(shards, len(places))
    possible = (~forbidden & (eligible & (capacities > 0))).any(axis=1)
    assert nobody.tolist() == rows[~possible].tolist()
    assert sorted(shards.rows.tolist()) == rows[possible].tolist()
    for row, rank in zip(shards.rows, shards.ranks(), strict=True):
        assert not forbidden[row // 2, rank] and eligible[rank] and capacities[rank] > 0
    again, _ = split_excluding(rows, capacities, eligible, forbidden)
    assert again.rows.tolist() == shards.rows.tolist() and again.counts.tolist() == shards.counts.tolist()


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (
            lambda: split("equal", np.arange(3), np.ones(2), np.zeros(2, bool)),
            JobError,
            "split: no rank computes; start at least 2 ranks or set cluster.aggregator_computes to true",
        ),
        (
            lambda: split("by_capacity", np.arange(3), np.array([5.0, 0]), np.array([False, True])),
            JobError,
            "split.strategy by_capacity: every rank that computes has capacity 0; "
            "give at least one of cluster.ranks a memory_gb above 0",
        ),
        (
            lambda: split("redundant", np.arange(3), np.zeros(2), everyone(2), 1),
            JobError,
            "split.strategy redundant: every rank that computes has capacity 0; "
            "give at least one of cluster.ranks a memory_gb above 0",
        ),
        (
            lambda: split("redundant", np.arange(3), np.ones(4), np.array([False, True, True, False]), 3),
            JobError,
            "split.replicas: 3 found; at most 2 allowed, because 2 of 4 ranks can take rows; "
            "lower split.replicas or start more ranks",
        ),
        (
            lambda: split("redundant", np.arange(3), np.ones(2), everyone(2), 0),
            JobError,
            "split.replicas: 0 found; 1 or more allowed",
        ),
        (
            lambda: split("by_size", np.arange(3), np.ones(2), everyone(2)),
            ValueError,
            "split.strategy: 'by_size' found; equal, by_capacity, redundant allowed",
        ),
        (
            lambda: split("equal", np.arange(3), np.ones(2), everyone(3)),
            ValueError,
            "rows (3,), capacities (2,) and eligible (3,) found; "
            "(n,), (P,) and (P,) with P at least 1 allowed",
        ),
        (
            lambda: split("by_capacity", np.arange(3), np.array([1.0, np.nan]), everyone(2)),
            ValueError,
            "capacity of rank 1: nan found; a finite number, 0 or more, allowed",
        ),
        (
            lambda: largest_remainder(3, [0.0, 0.0]),
            ValueError,
            "3 rows to split: no weight above 0 found; at least one needed",
        ),
        (lambda: largest_remainder(-1, [1.0]), ValueError, "rows to split: -1 found; 0 or more allowed"),
        (
            lambda: split_excluding(np.array([1, 1]), np.ones(1), everyone(1), np.zeros((2, 1), bool)),
            ValueError,
            "rows to re-dispatch: the same row found twice; each row once allowed",
        ),
        (
            lambda: split_excluding(np.array([1, 2]), np.ones(1), everyone(1), np.zeros((1, 2), bool)),
            ValueError,
            "forbidden: shape (1, 2) found; (2, 1) allowed",
        ),
    ],
)
def test_errors_in_words(call, kind, text):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == text


def test_units_go_to_whoever_is_done_with_them_first():
    shards = level(np.arange(40), np.array([3.0, 1, 1]), everyone(3), np.array([0, 0, 8]), 4)
    # Done after 10.7 s (32 rows at 3 a second), 8 s, and 8 s with what the last one has: another 4 rows take 4 s more.
    assert shards.counts.tolist() == [32, 8, 0] and shards.of(1).tolist() == list(range(32, 40))
    check_packing(shards, 3)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.booleans(), st.integers(0, 500)), min_size=1, max_size=9),
    st.integers(0, 400),
    st.integers(1, 60),
)
def test_level_shares_end_within_a_unit_of_each_other(machines, n, unit):
    speeds, able, left = (np.array(column) for column in zip(*machines))
    able[0] = True
    rows = np.arange(100, 100 + n)
    shards = level(rows, speeds, able, left, unit)
    check_packing(shards, len(speeds))
    assert shards.rows.tolist() == rows.tolist() and not shards.counts[~able].any()
    got = np.flatnonzero(shards.counts)
    end = (left + shards.counts) / speeds
    for p in got:  # nobody else would have been done with its last unit earlier
        others = (left + shards.counts + unit)[able] / speeds[able]
        assert end[p] <= others.min() + 1e-6 + 2 * unit / speeds[p]


def test_level_needs_somebody_and_a_unit():
    with pytest.raises(JobError):
        level(np.arange(4), np.zeros(2), everyone(2), np.zeros(2), 1)
    with pytest.raises(ValueError, match="^unit: 0 rows found; 1 or more allowed$"):
        level(np.arange(4), np.ones(2), everyone(2), np.zeros(2), 0)
