"""The slots of a round: who may have them, who has them, how they end."""

from __future__ import annotations

import numpy as np
import pytest

from enclaveml.ledger import CHECKING, DONE, IDLE, PROVING, READY, SENT, Round, Unassigned
from enclaveml.results_schema import RowStatus


def a_round(n: int = 6, replicas: int = 1, start: int = 100) -> Round:
    return Round(2, start, np.arange(2 * n, dtype=np.float32).reshape(n, 2), replicas, 3)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_a_new_round_is_idle_and_holds_its_rows():
    r = a_round()
    assert r.rows.tolist() == [100, 101, 102, 103, 104, 105] and r.rows.dtype == np.int64
    assert (r.stage == IDLE).all() and (r.rank == -1).all() and (r.status == RowStatus.PENDING).all()
    assert r.take(rows(103, 101)).tolist() == [[6, 7], [2, 3]]
    assert not r.closed and r.idle_rows().tolist() == r.rows.tolist()


def test_assigning_takes_the_first_idle_slot_and_counts_attempts():
    r = a_round(replicas=2)
    assert r.assign(1, rows(100, 104)).tolist() == [0, 0]
    assert r.assign(2, rows(104, 105)).tolist() == [1, 0]
    assert r.rank[[0, 4, 5]].tolist() == [[1, -1], [1, 2], [2, -1]]
    assert r.attempt[4].tolist() == [1, 1] and r.stage[4].tolist() == [SENT, SENT]
    assert r.idle_rows().tolist() == [100, 101, 101, 102, 102, 103, 103, 105]


def test_assigning_anew_forgets_how_the_slot_was_taken_back():
    r = a_round()
    r.assign(1, rows(101))
    r.output[1, 0] = 5.0
    r.release(np.array([1]), np.array([0]), RowStatus.REJECTED)
    assert r.status[1, 0] == RowStatus.REJECTED and r.stage[1, 0] == IDLE and r.rank[1, 0] == 1
    r.assign(2, rows(101))
    assert r.status[1, 0] == RowStatus.PENDING and np.isnan(r.output[1, 0]).all() and r.attempt[1, 0] == 2


def test_find_gives_the_slots_that_a_rank_holds_at_a_stage():
    r = a_round(replicas=2)
    r.assign(1, rows(100, 101))
    r.assign(2, rows(101))
    assert [a.tolist() for a in r.find(2, rows(101), SENT)] == [[1], [1]]
    assert [a.tolist() for a in r.find(1, rows(101, 100), SENT)] == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (rows(99), "row 99 was not given to rank 1"),
        (rows(100, 106), "row 106 was not given to rank 1"),
        (rows(100, 101, 100), "rank 1 named a row twice"),
        (rows(100, 102), "row 102 was not given to rank 1, or was already answered"),
        (rows(101), "row 101 was not given to rank 1, or was already answered"),
    ],
)
def test_find_refuses_rows_that_are_not_the_ranks(named, text):
    r = a_round()
    r.assign(1, rows(100, 101))
    r.assign(2, rows(102))
    r.stage[1] = READY
    with pytest.raises(Unassigned) as error:
        r.find(1, named, SENT)
    assert str(error.value) == text


def test_held_by_gives_all_but_what_is_done_or_only_some_stages():
    r = a_round()
    r.assign(1, r.rows)
    r.stage[:, 0] = [IDLE, SENT, READY, PROVING, CHECKING, DONE]
    assert r.held_by(1)[0].tolist() == [0, 1, 2, 3, 4]
    assert r.held_by(1, READY, CHECKING)[0].tolist() == [2, 4]
    assert r.held_by(2)[0].tolist() == []


def test_a_round_is_closed_when_every_slot_has_ended():
    r = a_round(n=2, replicas=2)
    r.finish(
        np.array([0, 0, 1]),
        np.array([0, 1, 0]),
        np.array([RowStatus.VERIFIED, RowStatus.LOST, RowStatus.LOST]),
    )
    assert not r.closed
    r.finish(np.array([1]), np.array([1]), RowStatus.SUSPECT)
    assert r.closed and r.status.tolist() == [[1, 6], [6, 5]]


def test_who_may_not_get_a_row():
    r = a_round(n=3, replicas=2)
    ranks = [0, 1, 2, 3]
    r.assign(1, rows(100))  # holds a replica
    r.assign(3, rows(101))
    r.finish(np.array([1]), np.array([0]), RowStatus.VERIFIED)  # has had one
    r.refuse(rows(101, 102), 2)
    r.avoid(rows(102), 0)
    r.refuse(rows(100), 9)  # a rank that is not asked about
    assert r.forbidden(r.rows, ranks).astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]]
    assert r.forbidden(rows(102, 100), ranks, avoid=False).astype(int).tolist() == [
        [0, 0, 1, 0],
        [0, 1, 0, 0],
    ]
    r.release(np.array([0]), np.array([0]), RowStatus.LOST)
    assert not r.forbidden(rows(100), ranks).any()
