"""Work for ranks that ran out of it: rows not begun change hands, and a straggler's last bundles are proved twice.

A tick is a second. A proof takes 1 + ``delay`` ticks, and every rank has two children.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fakes import Cluster, FakeProver, prove

from enclaveml.exchange import Report
from enclaveml.results import read_results
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate
from enclaveml.silence import Silence

NEVER = 1 << 30


class Stubborn(FakeProver):
    """Finishes what it has begun, whoever says that it is not needed."""

    def cancel(self, task: int) -> bool:
        return False


def two_workers(folder: Path, straggler: FakeProver, n_rows: int = 40, delay: int = 1, **job: object) -> Cluster:
    """Rank 1 is the straggler, rank 2 takes 1 + ``delay`` ticks a proof; equal shares."""
    provers = {1: straggler, 2: FakeProver(delay=delay)}
    return Cluster(folder, n_rows=n_rows, ranks=3, **{"strategy": "equal", **job}, provers=provers)


def forged(rows: np.ndarray):
    return dataclasses.replace(prove(rows), computation=b"forged")


def counts(c: Cluster) -> dict[int, tuple[int, int, int, int]]:
    """Rank to rows moved in and out, copies, discarded."""
    return {r: (m.rows_moved_in, m.rows_moved_out, m.copies, m.discarded) for r, m in c.members.items() if r}


def test_rows_that_a_straggler_had_not_begun_go_to_an_idle_rank(tmp_path):
    """Rank 2 is twice as fast, and has the last quarter of rank 1's rows in the end."""
    c = two_workers(tmp_path, FakeProver(delay=5), n_rows=96, delay=2).run()
    c.check_file()
    c.check_sharing()
    assert (c.status == RowStatus.VERIFIED).all()
    assert counts(c) == {1: (0, 12, 0, 0), 2: (12, 0, 0, 0)}
    assert [m.rows_verified for m in c.members.values()] == [0, 36, 60]
    rows = [row for o in c.ranks[2].orders if o.kind == "infer" for row in o.rows.tolist()]
    assert sorted(rows) == list(range(36, 96))  # the last 12 of rank 1's were sent to rank 2
    assert all(not rank.worker._held for rank in c.ranks.values())


def test_the_last_bundles_of_a_straggler_are_proved_elsewhere_and_both_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    c = two_workers(tmp_path, FakeProver(delay=NEVER)).run()
    c.check_file()
    c.check_sharing()
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 2).all()
    assert counts(c) == {1: (0, 12, 0, 2), 2: (12, 0, 2, 0)}
    assert all(m.fate is Fate.OK and not m.rejections and not m.failures for m in c.members.values())
    said = [line for line in caplog.messages if "as well" in line]
    assert said == [f"bundle {b} (4 rows from row {r}) of rank 1 (node-1 on here) is proved by rank 2 as well, "
                    "which is idle" for b, r in ((1, 0), (2, 4))]
    # What rank 1 said of the rows is an answer without a proof.
    index = c.index.answers
    assert (index.status[index.rank == 1] != RowStatus.VERIFIED).all()
    assert sum(o.kind == "cancel" for o in c.ranks[1].orders) == 3  # those two, and one that waited for a child


def test_the_bundle_that_has_run_longest_is_copied_first(tmp_path):
    """Rank 1 stops in the middle: of its children one has been at work for longer."""
    slow = FakeProver(delay=1)
    c = two_workers(tmp_path, slow, n_rows=40, delay=1)
    c.until(lambda: len(c.bundles) >= 4)
    slow.delay = NEVER
    c.tick()
    c.tick()
    ages = {b.id: c.aggregator.pace.age(b) for b in c.aggregator.bundles.hand(1)}
    c.run()
    c.check_file()
    copied = [r.meta["bundle"] for r in c.records("copy")]
    assert copied and copied == sorted(copied, key=lambda b: -ages.get(b, 0.0))


@pytest.mark.parametrize("job", [{"reassign": False}, {"coverage": 0.99}], ids=["reassign false", "a draw"])
def test_nothing_changes_hands_where_it_may_not(tmp_path, job):
    c = two_workers(tmp_path, FakeProver(delay=5), **job).run()
    c.check_file()
    c.check_sharing()
    assert counts(c) == {1: (0, 0, 0, 0), 2: (0, 0, 0, 0)}
    assert {row for _, rows in c.bundles.values() for row in rows} and c.members[1].rows_verified >= 19


def test_where_proofs_are_counted_none_is_made_twice(tmp_path):
    """Rows that are not begun go to the idle rank all the same."""
    c = two_workers(tmp_path, FakeProver(delay=40), n_rows=96, private_weights=True).run()
    c.check_file()
    c.check_sharing()
    assert c.members[1].rows_moved_out and all(m.copies == m.discarded == 0 for m in c.members.values())
    assert (c.status == RowStatus.VERIFIED).all()


def test_ranks_of_equal_speed_prove_nothing_twice(tmp_path):
    c = Cluster(tmp_path, n_rows=100, ranks=4, provers={r: FakeProver(delay=3) for r in range(4)}).run()
    c.check_sharing()
    assert all(m.copies == m.discarded == 0 for m in c.members.values())


def test_a_rank_without_a_share_takes_nothing_over(tmp_path):
    provers = {1: FakeProver(delay=11)}
    c = Cluster(tmp_path, n_rows=40, ranks=3, capacities=(1.0, 1.0, 0.0), provers=provers).run()
    assert counts(c)[2] == (0, 0, 0, 0) and not c.ranks[2].orders


def test_a_late_answer_is_no_breach_and_no_second_verification(tmp_path):
    """Rounds go on after the copy was verified; what the straggler sends of it then is judged, and not kept."""
    c = two_workers(tmp_path, Stubborn(delay=9), n_rows=64, round_rows=16, delay=0).run()
    c.check_file()
    c.check_sharing()
    late = [r.meta["bundle"] for r in c.ranks[1].reports if r.kind == "envelope"]
    discarded = {r.meta["bundle"] for r in c.records("discard") if r.meta["rank"] == 1}
    assert set(late) & discarded and c.members[1].discarded == len(discarded)
    assert not discarded & {r.meta["bundle"] for r in c.records("bundle")}
    assert all(m.fate is Fate.OK and not m.rejections for m in c.members.values())
    assert (c.status == RowStatus.VERIFIED).all()
    assert sum(m.rows_verified for m in c.members.values()) == 64


def test_a_late_lie_counts_against_its_rank(tmp_path):
    c = two_workers(tmp_path, Stubborn(forged, delay=9), n_rows=64, round_rows=16, delay=0).run()
    c.check_file()
    c.check_sharing()
    assert c.members[1].fate is Fate.EXPELLED and c.members[1].discarded
    rejected = [r for r in c.records("bundle") if (r.arrays["status"] == RowStatus.REJECTED).any()]
    assert {r.meta["rank"] for r in rejected} == {1} and all(r.blobs["envelope"] for r in rejected)
    assert len(rejected) == c.members[1].rejections
    assert {r.meta["bundle"] for r in rejected} <= {r.meta["bundle"] for r in c.records("discard")}
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 2).all()


def test_a_late_answer_whose_outputs_were_a_lie_counts_against_its_rank(tmp_path):
    c = two_workers(tmp_path, Stubborn(delay=9), n_rows=64, round_rows=16, delay=0)
    honest = c.ranks[1].worker.infer
    c.ranks[1].worker.infer = lambda rows, data: honest(rows, data) + np.float32(0.5)
    c.run()
    c.check_file()
    assert c.members[1].fate is Fate.EXPELLED and "is neither the model's nor the proof's" in c.members[1].evidence[0]
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 2).all()


def test_a_lie_that_is_here_when_the_last_row_ends_is_judged(tmp_path):
    c = two_workers(tmp_path, Stubborn(forged, delay=8), n_rows=16, delay=0, verdict_delay=4).run()
    assert (c.status == RowStatus.VERIFIED).all()
    sent = sum(r.kind == "envelope" for r in c.ranks[1].reports)
    assert sent and c.members[1].rejections == sent


# -- what becomes of a copy where one of the two ends --------------------------------


def copied(folder: Path, straggler: FakeProver, **job: object) -> Cluster:
    """Up to when rank 2 was given rank 1's last bundles as well, and has not answered."""
    c = two_workers(folder, straggler, n_rows=16, delay=3, **job)
    c.until(lambda: c.members[2].copies == 2)
    return c


@pytest.mark.parametrize("ticks", [0, 1, 2, 5])
def test_where_the_straggler_dies_the_copy_holds_the_rows(tmp_path, ticks):
    c = copied(tmp_path, FakeProver(delay=NEVER))
    for _ in range(ticks):
        c.tick()
    sent = sum(o.kind == "infer" for o in c.ranks[2].orders)
    c.kill(1)
    c.run()
    c.check_file()
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 2).all()
    assert sum(o.kind == "infer" for o in c.ranks[2].orders) <= max(sent, 3)  # nothing is sent again


@pytest.mark.parametrize("ticks", [0, 1, 2, 4])
def test_where_the_copys_rank_dies_the_straggler_goes_on(tmp_path, ticks):
    c = copied(tmp_path, FakeProver(delay=30))
    for _ in range(ticks):
        c.tick()
    c.kill(2)
    c.run()
    c.check_file()
    assert (c.status == RowStatus.VERIFIED).all()
    assert set(c.aggregator.rank_of[:, 0].tolist()) == {1, 2} and c.members[1].rows_verified == 8
    assert c.members[1].discarded == 0


def test_where_the_straggler_fails_the_copy_holds_the_rows(tmp_path):
    c = copied(tmp_path, FakeProver(delay=12, fails=lambda task: "timed out"))
    c.ranks[2].prover.delay = 20
    c.run()
    c.check_file()
    assert c.members[1].failures == 2 and c.members[2].discarded == 0
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 2).all()


def test_where_the_copy_fails_the_straggler_goes_on(tmp_path):
    c = copied(tmp_path, FakeProver(delay=30))
    ids = {r.meta["copy"] for r in c.records("copy")}
    c.ranks[2].prover.fails = lambda task: "out of memory" if task in ids else ""
    c.run()
    c.check_file()
    assert (c.status == RowStatus.VERIFIED).all() and c.members[2].failures == 2 and c.members[1].rows_verified == 8


def test_a_copy_that_is_a_lie_costs_its_rank_and_not_the_row(tmp_path):
    c = copied(tmp_path, FakeProver(delay=30))
    c.ranks[2].prover.prove = forged
    c.run()
    c.check_file()
    assert c.members[2].fate is Fate.EXPELLED and c.members[1].rows_verified == 8
    assert (c.status == RowStatus.VERIFIED).all()


def test_a_straggler_that_lies_leaves_the_rows_to_the_copy(tmp_path):
    c = copied(tmp_path, FakeProver(forged, delay=13))
    c.ranks[2].prover.delay = 20
    c.run()
    c.check_file()
    assert c.members[1].fate is Fate.EXPELLED and (c.aggregator.rank_of == 2).all()
    assert (c.status == RowStatus.VERIFIED).all()


def test_inconsistent_rows_of_a_copy_end_as_such(tmp_path):
    provers = {1: Stubborn(delay=12), 2: FakeProver(delay=3)}
    c = Cluster(tmp_path, n_rows=16, ranks=3, strategy="equal", coarse=(1,), provers=provers).run()
    c.check_file()
    assert c.members[2].copies == 2
    assert np.flatnonzero(c.status == RowStatus.INCONSISTENT).tolist() == [1] and (np.delete(c.status, 1) == 1).all()
    assert all(m.fate is Fate.OK and not m.rejections for m in c.members.values())


def test_draining_finishes_copies_that_are_being_proved(tmp_path):
    c = copied(tmp_path, FakeProver(delay=20))
    c.until(lambda: c.ranks[2].prover.outstanding == 2)
    c.aggregator.drain()
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of[:8] == 2).all()


# -- what a rank may not do ------------------------------------------------------------


def test_a_cancellation_of_what_is_needed_is_a_breach(tmp_path):
    sent = []

    def tamper(own: list[Report]) -> list[Report]:
        if any(o.kind == "prove" for o in c.ranks[2].orders) and not sent:
            sent.append(1)
            bundle = next(o.meta["bundle"] for o in c.ranks[2].orders if o.kind == "prove")
            return [Report("cancelled", {"bundle": bundle})]
        return own

    c = Cluster(tmp_path, provers={2: FakeProver(delay=9)})
    c.ranks[2].tamper = tamper
    c.run()
    c.check_file()
    assert c.members[2].fate is Fate.EXPELLED and (c.status == RowStatus.VERIFIED).all()
    assert c.members[2].evidence == ["a report: a cancellation of bundle 3, which is needed"]


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_stay_with_different_ranks(tmp_path, replicas):
    """Nobody gets a row over of which it holds, or proves, another replica."""
    provers = {1: FakeProver(delay=60), 2: FakeProver(delay=9), 3: FakeProver(delay=1), 4: FakeProver(delay=1)}
    c = Cluster(tmp_path, n_rows=48, ranks=5, strategy="redundant", replicas=replicas, provers=provers).run()
    c.check_file()
    c.check_sharing()
    assert (c.aggregator.status == RowStatus.VERIFIED).all()
    assert c.members[1].rows_moved_out and sum(m.copies for m in c.members.values())
    for ranks in c.aggregator.rank_of.tolist():
        assert len(set(ranks)) == replicas
    for rank in c.ranks.values():
        rows = [row for o in rank.orders if o.kind == "infer" for row in o.rows.tolist()]
        assert len(rows) == len(set(rows))


def test_the_file_counts_what_changed_hands(tmp_path):
    c = two_workers(tmp_path, FakeProver(delay=NEVER)).run()
    for member in c.members.values():
        names = ("rows_moved_in", "rows_moved_out", "copies", "discarded")
        c.journal.append("rank", {"rank": member.rank, **{name: getattr(member, name) for name in names}})
    c.check_file()
    with read_results(tmp_path / "results.h5") as results:
        found = [tuple(line[n] for n in ("rows_moved_in", "rows_moved_out", "copies", "discarded"))
                 for line in results.ranks]
    assert found == [(0, 0, 0, 0), (0, 12, 0, 2), (12, 0, 2, 0)]


@pytest.mark.parametrize("liar", [1, 2])
@pytest.mark.parametrize("ticks", range(5))
def test_a_failure_of_rows_that_a_copied_bundle_has_not_leaves_its_rows_to_others(tmp_path, liar, ticks):
    """From the straggler or from the copy's rank: its rows have one owner afterwards, and the job ends."""
    c = Cluster(tmp_path, n_rows=96, ranks=4, round_rows=24, strategy="equal",
                provers={1: FakeProver(delay=NEVER), 2: FakeProver(delay=6), 3: FakeProver(delay=3)})
    c.until(lambda: any(copy.rank == 2 for copy in c.aggregator.copies._copy_of.values()))
    for _ in range(ticks):
        c.tick()
    pairs = [(b, copy.id) for b, copy in c.aggregator.copies._copy_of.items() if copy.rank == 2]
    if not pairs:
        return  # the copy has won by then
    c.ranks[liar].outbox.put(Report("failed", {"bundle": pairs[0][liar - 1], "text": "no", "overflow": [99]}))
    c.tick()
    if liar == 2:
        c.kill(1)
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and c.members[3].fate is Fate.OK


def test_a_rank_that_says_it_is_drained_and_nothing_else_is_given_up(tmp_path):
    def drained(own: list[Report]) -> list[Report]:
        return [r for r in own if r.kind != "outputs"] + [Report("drained")]

    c = Cluster(tmp_path, n_rows=16, ranks=3, tamper={2: drained})
    c.aggregator._silence = Silence(lambda: 60.0 * c.ticks)  # a tick a minute
    c.run()
    c.check()
    assert c.members[2].fate is Fate.LOST and "has not answered" in c.members[2].fate_reason
    assert (c.status == RowStatus.VERIFIED).all()
