"""Rank 0's decisions where every rank is honest: who gets what, how rounds go by, how a job ends."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fakes import B, SCALE, Cluster, FakeProver, fixed, model

from enclaveml.bundles import AHEAD
from enclaveml.ledger import SENT, final_status
from enclaveml.errors import EnvironmentFault
from enclaveml.journal import read_records
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate
from enclaveml.worker import Worker

JOBS = {
    "equal": {"strategy": "equal"},
    "by_capacity": {"strategy": "by_capacity", "capacities": (1.0, 48.0, 12.0, 6.0)},
    "redundant over 2": {"strategy": "redundant", "replicas": 2},
    "redundant over 3": {"strategy": "redundant", "replicas": 3},
    "one rank": {"ranks": 1},
    "a worker": {"ranks": 2},
    "more ranks than rows": {"ranks": 7, "n_rows": 3},
    "a rank without a share": {"strategy": "by_capacity", "capacities": (0.0, 100.0, 1.0, 0.0), "n_rows": 20},
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())
def test_every_row_is_verified(tmp_path, job):
    c = Cluster(tmp_path, **{"n_rows": 47, "round_rows": 20, **job}).run()
    c.check_file()
    a = c.aggregator
    assert (a.status == RowStatus.VERIFIED).all()  # every replica of every row
    assert a.rows_done == c.n_rows and not a.draining
    cancelled = sum(o.kind == "cancel" for rank in c.ranks.values() for o in rank.orders)
    assert a.proofs_verified == len(c.bundles) - cancelled and a.bundles_rejected == 0
    assert sum(m.rows_verified for m in c.members.values()) == c.n_rows * a.replicas
    assert all(m.fate is Fate.OK and not m.rejections and not m.evidence for m in c.members.values())
    assert a.verify_seconds == 0.125 * a.proofs_verified


def test_replicas_go_to_different_ranks_and_are_all_kept(tmp_path):
    c = Cluster(tmp_path, n_rows=30, ranks=5, strategy="redundant", replicas=3).run()
    c.check()
    for ranks in c.aggregator.rank_of.tolist():
        assert len(set(ranks)) == 3 and 0 not in ranks
    assert (c.aggregator.proved == (fixed(c.data) / 2.0**SCALE)[:, None]).all()


def one_at_a_time():
    """Holds reports back, so that a tick brings no more than one."""
    waiting = []

    def tamper(own):
        waiting.extend(own)
        return [waiting.pop(0)] if waiting else []

    return tamper


def test_bundles_are_full_but_for_the_last_of_a_rank_in_a_round(tmp_path):
    c = Cluster(
        tmp_path,
        n_rows=2 * 47,
        round_rows=47,
        batch=3,
        reassign=False,
        tamper={r: one_at_a_time() for r in (1, 2)},
    ).run()
    c.check()
    assert any(order.kind == "prove" for order in c.ranks[1].orders[:3])  # before its last outputs were in
    by_round: dict[tuple[int, int], list[int]] = {}
    for rank, rows in c.bundles.values():
        by_round.setdefault((rank, rows[0] // 47), []).append(len(rows))
    assert len(by_round) == 6
    for sizes in by_round.values():
        assert all(size == B for size in sizes[:-1]) and 1 <= sizes[-1] <= B and sum(sizes) in (15, 16)


def test_a_rank_has_no_more_proofs_to_make_than_it_can_work_on(tmp_path):
    c = Cluster(tmp_path, n_rows=200, ranks=3, provers={r: FakeProver(delay=3) for r in range(3)})
    most = 0
    while not c.aggregator.finished:
        c.tick()
        hands = [
            sum(o.kind == "prove" for o in rank.orders) - sum(r.kind == "envelope" for r in rank.reports)
            for rank in c.ranks.values()
        ]
        most = max(most, *hands)
    c.check()
    assert most == c.members[1].children + AHEAD == 3


def test_shares_are_those_of_the_split(tmp_path):
    capacities = (1.0, 48.0, 12.0, 6.0)
    c = Cluster(tmp_path, n_rows=82, strategy="by_capacity", capacities=capacities, reassign=False).run()
    counts = np.bincount(c.aggregator.rank_of[:, 0], minlength=4)
    assert counts.tolist() == [0, 60, 15, 7]
    assert [m.rows for m in c.members.values()] == [0, 60, 15, 7]


def test_equal_shares_whatever_the_capacities(tmp_path):
    c = Cluster(tmp_path, n_rows=31, strategy="equal", capacities=(0.0, 48.0, 0.0, 6.0)).run()
    assert np.bincount(c.aggregator.rank_of[:, 0]).tolist() == [0, 11, 10, 10]


def test_where_nothing_is_proved_ranks_have_the_next_rows_before_they_have_inferred_any(tmp_path):
    c = Cluster(tmp_path, n_rows=50, round_rows=10, coverage=0.0)
    c.tick(work=False)
    for opened in (2, 2):
        while not c.aggregator.accounts.is_ahead:
            time.sleep(1e-3)
        c.tick(work=False)
        assert len(c.aggregator.rounds) == opened  # no further one: a rank has two at most
    assert all((r.stage == SENT).all() for r in c.aggregator.rounds.values())
    c.run()
    c.check_file()
    assert sorted(c.reads) == [(10 * i, 10 * i + 10) for i in range(5)]  # each row read once


def test_two_rounds_are_open_at_most_and_closed_ones_are_freed(tmp_path):
    c = Cluster(tmp_path, n_rows=100, round_rows=10)
    while not c.aggregator.finished:
        c.tick()
        assert len(c.aggregator.rounds) <= 2
    c.check()
    assert c.open_rounds == 2 and not c.aggregator.rounds
    assert c.reads == [(10 * i, 10 * i + 10) for i in range(10)]  # each row read once


def test_a_round_is_as_large_as_its_bytes_allow(tmp_path, monkeypatch):
    monkeypatch.setattr("enclaveml.aggregator.ROUND_BYTES", 20 * 7 + 19)
    c = Cluster(tmp_path, n_rows=22).run()
    assert c.reads == [(0, 7), (7, 14), (14, 21), (21, 22)]


def test_a_late_verdict_keeps_its_round_open(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=2, verdict_delay=5)
    c.until(lambda: len(c.verifier.said) == 2)
    assert not c.aggregator.finished and c.aggregator.rows_done == 0
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all()


def test_coverage_0_asks_for_no_proof(tmp_path):
    c = Cluster(tmp_path, n_rows=33, round_rows=10, coverage=0.0).run()
    c.check()
    assert (c.status == RowStatus.UNPROVED).all() and not c.bundles
    said = [r.arrays["outputs"] for r in read_records(c.journal.path, kinds={"outputs"})]
    rows = [r.arrays["rows"] for r in read_records(c.journal.path, kinds={"outputs"})]
    assert np.sort(np.concatenate(rows)).tolist() == list(range(33))
    assert np.concatenate(said).tobytes() == model(c.data[np.concatenate(rows)]).tobytes()
    assert c.aggregator.rows_done == 33


class OtherDevice(Worker):
    """Rounds a little differently than rank 0."""

    def infer(self, rows, data):
        return super().infer(rows, data) + np.float32([0, 2e-6, -1e-6])


def test_honest_rounding_on_another_device_is_verified_and_a_flipped_argmax_is_counted(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=2, workers={1: OtherDevice}, coarse=(6,))
    c.data[3, 1:] = 0.0  # a tie, decided by rounding
    c.run()
    c.check()
    assert c.status.tolist() == [1, 1, 1, 1, 1, 1, RowStatus.INCONSISTENT, 1]
    assert c.aggregator.argmax_flips == 1 and c.members[1].fate is Fate.OK and not c.members[1].rejections


def test_an_honest_row_that_is_too_coarse_is_inconsistent_and_nobody_is_blamed(tmp_path, caplog):
    c = Cluster(tmp_path, n_rows=24, coarse=(2, 3, 20)).run()
    c.check()
    assert np.flatnonzero(c.status == RowStatus.INCONSISTENT).tolist() == [2, 3, 20]
    assert (np.delete(c.status, [2, 3, 20]) == RowStatus.VERIFIED).all()
    assert all(m.fate is Fate.OK and not m.rejections and not m.evidence for m in c.members.values())
    assert [m.inconsistent for m in c.members.values()] == [0, 2, 0, 1]
    assert (
        "2 rows (first 2) of rank 1 (node-1 on here) are inconsistent: the fixed-point plan is too coarse for "
        "them (deviation up to 1, tolerance 0.01); nobody is blamed"
    ) in caplog.text


def test_a_model_that_says_nan_is_inconsistent_and_nobody_is_blamed(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=3)
    c.data[5, 2] = np.nan
    with np.errstate(invalid="ignore"):
        c.run()
    assert c.status.tolist() == [1, 1, 1, 1, 1, RowStatus.INCONSISTENT, 1, 1]
    assert all(m.fate is Fate.OK for m in c.members.values())


def test_a_journal_that_cannot_be_written_is_not_a_ranks_fault(tmp_path):
    c = Cluster(tmp_path)
    c.journal.close()
    with pytest.raises(EnvironmentFault) as error:
        c.run()
    assert str(error.value) == f"{c.journal.path}: the journal is closed"
    assert all(m.fate is Fate.OK for m in c.members.values())


def test_resuming_proves_only_what_was_not_verified(tmp_path):
    first = Cluster(
        tmp_path, n_rows=40, round_rows=20, strategy="redundant", replicas=2, provers={1: FakeProver(delay=3)}
    )
    first.until(lambda: first.aggregator.proofs_verified >= 5)
    first.journal.close()
    before = first.aggregator.status == RowStatus.VERIFIED
    was, had = first.aggregator.rank_of.copy(), sum(map(len, (r for _, r in first.bundles.values())))
    assert 0 < before.sum() < before.size and had
    again = Cluster(tmp_path, n_rows=40, round_rows=20, strategy="redundant", replicas=2, resume=True)
    again.run()
    assert (again.aggregator.status == RowStatus.VERIFIED).all()
    proved = sum(len(rows) for _, rows in again.bundles.values())
    assert proved == before.size - before.sum()  # not one of the verified ones again
    for row, slot in zip(*np.nonzero(before), strict=True):
        assert was[row, slot] in again.aggregator.rank_of[row]
    assert min(again.bundles) > max(task for task, _ in first.verifier.said.items())
    assert all(len(set(ranks)) == 2 for ranks in again.aggregator.rank_of.tolist())


def test_resuming_a_job_of_which_every_row_is_verified_only_closes_its_rounds(tmp_path):
    Cluster(tmp_path, n_rows=30, round_rows=8).run().journal.close()
    again = Cluster(tmp_path, n_rows=30, round_rows=8, resume=True).run()
    assert (
        (again.status == RowStatus.VERIFIED).all() and not again.bundles and again.aggregator.rows_done == 30
    )
    assert again.reads == [] and not any(o.kind == "infer" for r in again.ranks.values() for o in r.orders)
    assert (again.aggregator.proved[:, 0] == fixed(again.data) / 2.0**SCALE).all()


def test_resuming_with_other_ranks(tmp_path):
    first = Cluster(tmp_path, n_rows=40, ranks=5, round_rows=16)
    first.until(lambda: first.aggregator.proofs_verified >= 3)
    first.journal.close()
    again = Cluster(tmp_path, n_rows=40, ranks=2, round_rows=32, resume=True).run()
    assert (again.status == RowStatus.VERIFIED).all()
    assert (
        sum(len(rows) for _, rows in again.bundles.values())
        == 40 - (first.status == RowStatus.VERIFIED).sum()
    )


def test_many_rows_take_no_order_and_no_record_each(tmp_path):
    c = Cluster(tmp_path, n_rows=1 << 12, ranks=5, batch=1 << 10, coverage=0.01)
    c.tick(work=False)
    c.kill(1)
    c.kill(2)
    c.run(most=200)
    assert np.isin(c.status, (RowStatus.VERIFIED, RowStatus.UNPROVED)).all()
    # Rows of a rank that was lost are proved in any case: half of the rows here.
    drawn = (c.status == RowStatus.VERIFIED).sum()
    assert drawn == 2048 + 2 * 11  # 1 % of 1,024, rounded up
    assert sum(o.kind == "infer" for r in c.ranks.values() for o in r.orders) == 4 + 2
    kinds = [record.kind for record in read_records(c.journal.path)]
    assert (
        kinds.count("rows") <= 4 and kinds.count("outputs") <= 8 and kinds.count("bundle") == len(c.bundles)
    )


@pytest.mark.parametrize(
    ("replicas", "row"),
    [
        ((6, 2, 1), 1),
        ((4, 3), 3),
        ((5, 4), 4),
        ((2, 4), 4),
        ((5, 0), 0),
        ((2, 5), 5),
        ((6, 2), 2),
        ((6, 6), 6),
        ((3,), 3),
    ],
)
def test_what_a_row_with_several_answers_is_called(replicas, row):
    for order in (replicas, replicas[::-1]):
        status = final_status(np.array([order, order], np.uint8))
        assert status.tolist() == [row, row] and status.dtype == np.uint8
