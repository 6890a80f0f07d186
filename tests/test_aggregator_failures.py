"""Ranks that fail, die or are told to stop: rows go to others, or the job can be resumed."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import Cluster, FakeProver, prove

from enclaveml.dispatch import MAX_ATTEMPTS
from enclaveml.errors import RemoteFailure
from enclaveml.exchange import Report
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate
from enclaveml.silence import Silence


def never(task: int) -> str:
    return "timed out after 10 s"


def infers(c: Cluster, rank: int) -> list[int]:
    """The rows that a rank was sent, as often as it was."""
    return [row for o in c.ranks[rank].orders if o.kind == "infer" for row in o.rows.tolist()]


def test_a_bundle_that_failed_is_proved_by_another_rank_with_twice_the_time(tmp_path, caplog):
    c = Cluster(tmp_path, n_rows=24, timeout_s=10.0, provers={2: FakeProver(fails=never)}).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and 2 not in c.aggregator.rank_of
    assert c.members[2].failures == 2 and c.members[2].fate is Fate.OK and c.members[2].rejections == 0
    assert (
        "rank 2 (node-2 on here) could not prove bundle 3 (4 rows from row 8): timed out after 10 s"
        in caplog.text
    )
    assert set(c.ranks[2].prover.timeouts.values()) == {10.0}
    for r in (1, 3):
        second = [o for o in c.ranks[r].orders if o.kind == "prove" and o.meta["attempt"] == 2]
        assert second and all(o.meta["timeout_s"] == 20.0 for o in second)
        assert all(
            o.meta["timeout_s"] == 10.0
            for o in c.ranks[r].orders
            if o.kind == "prove" and o.meta["attempt"] == 1
        )


def test_a_single_rank_tries_again_and_then_the_rows_are_lost(tmp_path):
    c = Cluster(tmp_path, n_rows=6, ranks=1, round_rows=4, provers={0: FakeProver(fails=never)}).run()
    c.check_file()
    assert (c.status == RowStatus.LOST).all() and not c.aggregator.draining
    assert c.members[0].failures == 2 * MAX_ATTEMPTS
    assert sorted(infers(c, 0)) == sorted(list(range(6)) * MAX_ATTEMPTS)
    assert c.index.states.attempts.tolist() == [MAX_ATTEMPTS] * 6


def test_a_single_rank_that_fails_once_verifies_everything(tmp_path):
    fails = FakeProver(fails=lambda task: "child ended by signal 9" if task in (1, 3) else "")
    c = Cluster(tmp_path, n_rows=12, ranks=1, provers={0: fails}).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and c.members[0].failures == 2


def test_where_all_fail_each_has_its_try(tmp_path):
    c = Cluster(tmp_path, n_rows=4, ranks=6, provers={r: FakeProver(fails=never) for r in range(1, 6)}).run()
    c.check()
    assert (c.status == RowStatus.LOST).all()
    tried = {r: set(infers(c, r)) for r in range(1, 6)}
    assert all(tried[r] == {0, 1, 2, 3} for r in tried)


def test_the_last_of_many_that_fail_is_asked_before_anyone_a_second_time(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=6, provers={r: FakeProver(fails=never) for r in range(1, 5)}).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 5).all()


def test_without_reassign_a_failed_bundle_stays_with_its_rank(tmp_path):
    fails = FakeProver(fails=lambda task: "too slow" if task <= 3 else "")
    c = Cluster(tmp_path, n_rows=16, ranks=3, reassign=False, provers={1: fails}).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and c.members[1].failures > 0
    assert not set(infers(c, 1)) & set(infers(c, 2))


@pytest.mark.parametrize("job", [{}, {"coverage": 0.5}], ids=["all", "half"])
def test_what_rank_0_could_not_verify_is_proved_by_another_rank_and_nobody_is_blamed(tmp_path, caplog, job):
    c = Cluster(tmp_path, n_rows=24, **job)
    first: set[int] = set()
    c.verifier.undecided = lambda task: not first and not first.add(task)
    c.run()
    c.check()
    assert len(first) == 1
    assert np.isin(c.status, [RowStatus.VERIFIED, *([RowStatus.UNPROVED] if job else [])]).all()
    assert all(m.rejections == 0 and m.fate is Fate.OK and m.failures == 0 for m in c.members.values())
    (note,) = [r for r in c.records("rows") if "could not verify" in r.meta["reason"]]
    assert note.meta["reason"] == "rank 0 could not verify: commit: the child died"
    whose = note.meta["rank"]
    assert (c.aggregator.rank_of[note.arrays["rows"]] != whose).all(), "others proved them"
    assert "rank 0 could not verify: commit: the child died; nobody is blamed" in caplog.text


def test_where_rank_0_can_verify_nothing_rows_are_lost_after_as_many_tries_as_a_failing_rank_has(tmp_path):
    c = Cluster(tmp_path, n_rows=6, ranks=1, round_rows=4)
    c.verifier.undecided = lambda task: True
    c.run()
    assert (c.status == RowStatus.LOST).all() and c.members[0].rejections == 0
    assert sorted(infers(c, 0)) == sorted(list(range(6)) * MAX_ATTEMPTS)


def test_what_a_rank_says_of_its_failure_is_cut_and_cleaned(tmp_path):
    c = Cluster(
        tmp_path,
        n_rows=4,
        ranks=2,
        provers={1: FakeProver(fails=lambda task: "\x1b[2J\ud800" + "x" * 9999 if task == 1 else "")},
    ).run()
    c.check_file()
    reasons = [r.meta["reason"] for r in c.records("rows")]
    assert reasons == ["\ufffd[2J\ufffd" + "x" * 1995]


STAGES = {
    "before anything": lambda c: True,
    "rows sent": lambda c: c.ranks[2].orders != [],
    "outputs in": lambda c: any(r.kind == "outputs" for r in c.ranks[2].reports),
    "proofs ordered": lambda c: any(o.kind == "prove" for o in c.ranks[2].orders),
    "one proof in": lambda c: any(r.kind == "envelope" for r in c.ranks[2].reports),
    "a row verified": lambda c: c.members[2].rows_verified > 0,
    "all in": lambda c: (c.aggregator.rank_of == 2).sum() == 20,
}


@pytest.mark.parametrize(
    "job",
    [{}, {"strategy": "redundant"}, {"coverage": 0.5}, {"coverage": 0.0}, {"reassign": False}],
    ids=["by_capacity", "redundant", "half", "none", "reassign false"],
)
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
def test_a_rank_that_dies_costs_its_unfinished_rows_and_nothing_else(tmp_path, stage, job):
    c = Cluster(
        tmp_path,
        n_rows=60,
        round_rows=30,
        verdict_delay=1,
        batch=4,
        provers={r: FakeProver(delay=1) for r in range(4)},
        **job,
    )
    while not c.aggregator.finished and not stage(c):
        c.tick()
    verified = c.aggregator.status[:, 0] == RowStatus.VERIFIED
    c.kill(2)
    c.run()
    c.check()
    assert (
        c.members[2].fate is Fate.LOST and c.members[2].fate_reason == "died: test" and c.members[2].fate_time
    )
    assert (c.aggregator.status[verified, 0] == RowStatus.VERIFIED).all()
    assert all(m.rejections == 0 for m in c.members.values()) and not c.aggregator.draining
    if job.get("reassign", True):
        allowed = (
            [RowStatus.VERIFIED] if job.get("coverage", 1) == 1 else [RowStatus.VERIFIED, RowStatus.UNPROVED]
        )
        assert np.isin(c.status, allowed).all()
    else:
        mine = np.isin(np.arange(60), infers(c, 2))
        assert (c.status[~mine] == RowStatus.VERIFIED).all()
        assert np.isin(c.status[mine], (RowStatus.VERIFIED, RowStatus.LOST)).all()


@pytest.mark.parametrize("keeps_back", ["outputs", "envelope"])
def test_a_rank_that_owes_answers_and_is_silent_is_given_up(tmp_path, keeps_back):
    c = Cluster(tmp_path, n_rows=48, round_rows=24, timeout_s=10.0)
    now = [0.0]
    c.aggregator._silence = Silence(lambda: now[0])
    c.aggregator.sharing.step = lambda: None  # else others prove its bundles meanwhile
    late: list[Report] = []

    def silent(own: list[Report]) -> list[Report]:
        late.extend(r for r in own if r.kind == keeps_back)
        return [r for r in own if r.kind != keeps_back] if c.members[2].fate is Fate.OK else [*late, *own]

    c.ranks[2].tamper = silent
    while not c.aggregator.finished:
        now[0] += 0.5
        assert c.ticks < 100
        c.tick()
    c.check()
    assert c.members[2].fate is Fate.LOST and c.members[2].rejections == 0
    assert c.members[2].fate_reason.startswith("has not answered for 30 s, with ")
    assert (c.status == RowStatus.VERIFIED).all() and 2 not in c.aggregator.rank_of


def test_where_the_last_worker_dies_the_job_can_be_resumed(tmp_path):
    c = Cluster(
        tmp_path, n_rows=60, ranks=3, round_rows=30, verdict_delay=2, provers={1: FakeProver(delay=1)}
    )
    c.until(lambda: c.verifier.outstanding >= 2)
    c.kill(1)
    c.kill(2)
    assert c.aggregator.proofs_verified == 0
    c.run()
    assert c.aggregator.draining and c.aggregator.finished
    c.check()
    verified = c.status == RowStatus.VERIFIED
    assert 8 <= verified.sum() < 60  # proofs that had arrived are judged all the same
    assert (c.status[~verified] == RowStatus.LOST).sum() + (c.status == RowStatus.PENDING).sum() == (
        ~verified
    ).sum()
    c.journal.close()
    again = Cluster(tmp_path, n_rows=60, ranks=3, round_rows=30, resume=True).run()
    assert (again.status == RowStatus.VERIFIED).all()
    assert sum(len(rows) for _, rows in again.bundles.values()) == 60 - verified.sum()


def test_a_last_worker_that_dies_when_all_is_proved_leaves_a_complete_job(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=2, verdict_delay=3)
    c.until(lambda: c.verifier.outstanding == 2)
    c.kill(1)
    c.run()
    c.check()
    assert not c.aggregator.draining and (c.status == RowStatus.VERIFIED).all()


def test_where_one_died_and_the_last_lied_the_job_can_be_resumed(tmp_path):
    c = Cluster(tmp_path, n_rows=24, ranks=3)
    c.ranks[2].tamper = lambda own: [Report("sing")]
    c.kill(1)
    c.run()
    c.check()
    assert c.aggregator.draining and c.members[2].fate is Fate.EXPELLED


def test_an_expelled_rank_that_dies_stays_expelled(tmp_path):
    c = Cluster(tmp_path, n_rows=24, tamper={2: lambda own: [Report("sing")]})
    c.until(lambda: c.members[2].fate is Fate.EXPELLED)
    reason = c.members[2].fate_reason
    c.kill(2)
    c.run()
    c.check()
    assert (c.members[2].fate, c.members[2].fate_reason) == (Fate.EXPELLED, reason)


def test_drain_keeps_what_is_in_hand_and_begins_nothing(tmp_path):
    c = Cluster(
        tmp_path,
        n_rows=90,
        round_rows=30,
        verdict_delay=1,
        provers={r: FakeProver(delay=3) for r in range(4)},
    )
    c.until(lambda: c.aggregator.proofs_verified >= 1)
    c.aggregator.drain()
    infer = {r: len(infers(c, r)) for r in c.ranks}
    waiting = {task for r in c.ranks.values() for task in r.worker._proving}
    assert waiting and not c.aggregator.finished
    c.run()
    c.check_file()
    assert c.aggregator.draining and infer == {r: len(infers(c, r)) for r in c.ranks}
    assert waiting <= set(c.verifier.said)
    verified = c.status == RowStatus.VERIFIED
    assert 0 < verified.sum() < 90 and set(np.unique(c.status)) <= {RowStatus.VERIFIED, RowStatus.PENDING}
    c.journal.close()
    again = Cluster(tmp_path, n_rows=90, round_rows=30, resume=True).run()
    assert (again.status == RowStatus.VERIFIED).all()
    assert sum(len(rows) for _, rows in again.bundles.values()) == 90 - verified.sum()


def test_drain_of_a_job_that_was_all_in_hand_completes_it(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=3, verdict_delay=2)
    c.until(lambda: c.verifier.outstanding == 2)
    c.aggregator.drain()
    c.run()
    c.check()
    assert not c.aggregator.draining and (c.status == RowStatus.VERIFIED).all()


def test_drain_does_not_wait_for_ranks_that_die_or_lie_meanwhile(tmp_path):
    c = Cluster(tmp_path, n_rows=60, provers={r: FakeProver(delay=6) for r in range(4)})
    c.until(lambda: len(c.bundles) >= 6)
    c.aggregator.drain()
    c.kill(1)
    c.ranks[2].tamper = lambda own: [Report("sing")]
    c.run()
    c.check()
    assert c.aggregator.draining and [m.fate for m in c.members.values()] == [
        Fate.OK,
        Fate.LOST,
        Fate.EXPELLED,
        Fate.OK,
    ]


def test_drain_during_a_late_lie_gives_the_rows_to_nobody(tmp_path):
    c = Cluster(tmp_path, n_rows=24, verdict_delay=4)
    c.ranks[2].prover.prove = lambda rows: prove(rows + 1)
    c.until(lambda: c.verifier.outstanding == 6)
    c.aggregator.drain()
    c.run()
    c.check()
    assert c.aggregator.draining and c.members[2].fate is Fate.EXPELLED
    assert (c.status == RowStatus.VERIFIED).sum() == 16 and (c.status == RowStatus.REJECTED).sum() == 8


def test_a_failure_of_a_ranks_program_ends_the_job_with_its_text(tmp_path):
    c = Cluster(tmp_path, n_rows=24)
    c.tick()
    c.ranks[2].tamper = lambda own: [Report("error", {"text": "ValueError: no\x07 weights", "exit_code": 4})]
    with pytest.raises(RemoteFailure) as error:
        c.tick()
    assert str(error.value) == "rank 2 (node-2 on here) failed:\nValueError: no\ufffd weights"
    assert error.value.exit_code == 4


@pytest.mark.parametrize("code", [0, -1, 256, "4", None, True, 4.0, [4]])
def test_a_failures_exit_status_is_one_if_it_is_none(tmp_path, code):
    c = Cluster(tmp_path, n_rows=24)
    c.ranks[2].tamper = lambda own: [Report("error", {"exit_code": code})]
    with pytest.raises(RemoteFailure) as error:
        c.tick()
    assert error.value.exit_code == 1 and str(error.value) == "rank 2 (node-2 on here) failed:\n"
