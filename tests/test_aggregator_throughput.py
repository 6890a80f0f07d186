"""Shares by measured throughput: a calibration, then rounds after which all ranks are done together.

A tick is a second. A proof takes 1 + ``delay`` ticks in one of a rank's two children; rows are not moved
from one rank to another here (``split.reassign: false``), so that it is the split that balances.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import B, Cluster, FakeProver

from enclaveml.ledger import DUE, PROVING, READY, SENT
from enclaveml.pace import Pace
from enclaveml.results_schema import RowStatus
from enclaveml.worker import Worker


def three(folder: Path, n_rows: int, delays: tuple[int, int, int] = (8, 2, 2), **job: object) -> Cluster:
    """Three workers, the first of them three times slower."""
    provers = {r: FakeProver(delay=delay, children=2) for r, delay in enumerate(delays, 1)}
    settings = {"reassign": False, "capacity": "throughput", **job}
    return Cluster(folder, n_rows=n_rows, ranks=4, provers=provers, **settings)


def given(c: Cluster) -> list[dict[int, int]]:
    """Rank to rows sent in each round."""
    rounds: list[dict[int, int]] = []
    for r, rank in c.ranks.items():
        for order in rank.orders:
            if order.kind == "infer":
                number = order.meta["round"]
                rounds += [{} for _ in range(number + 1 - len(rounds))]
                rounds[number][r] = rounds[number].get(r, 0) + len(order.rows)
    return rounds


def test_after_two_rounds_ranks_finish_within_a_tenth_of_each_other(tmp_path):
    c = three(tmp_path, n_rows=24 + 48 + 96 + 192 + 384)
    last: dict[int, dict[int, int]] = {}
    idle = dict.fromkeys((1, 2, 3), 0)
    while not c.aggregator.finished:
        c.tick()
        for r in idle:
            idle[r] += c.ranks[r].prover.outstanding < 2
        for round_ in c.aggregator.rounds.values():
            for r in (1, 2, 3):
                if (round_.stage[round_.rank == r] < 6).any():
                    last.setdefault(round_.number, {})[r] = c.ticks
    c.check_file()
    assert (c.status == RowStatus.VERIFIED).all()
    rounds = given(c)
    assert [sum(counts.values()) for counts in rounds] == [24, 48, 96, 192, 384]
    assert rounds[0] == {1: 8, 2: 8, 3: 8}  # the calibration: a bundle for each child
    later = {r: sum(counts[r] for counts in rounds[2:]) for r in (1, 2, 3)}
    assert later[2] / later[1] == pytest.approx(3, rel=0.15) and abs(later[2] - later[3]) <= 4 * B
    for number in (3, 4):
        ends = last[number].values()
        assert max(ends) - min(ends) <= max(9, 0.1 * max(ends))  # a bundle of the slow rank takes 9
    assert max(ends) - min(ends) <= 0.1 * max(ends)
    # With equal shares the slow rank alone would be at it for 31 bundles in each child, 279 s.
    assert c.ticks < 140 and max(idle.values()) <= 0.15 * c.ticks


def test_ranks_are_done_together_with_what_they_have_left(tmp_path):
    """Whoever still has rows of an earlier round gets that much less of the next one."""
    c = three(tmp_path, n_rows=24 + 48 + 96)
    c.until(lambda: len(c.aggregator.accounts._stops) == 2)
    speeds = c.aggregator._speeds
    left = c.aggregator.accounts.count(4, SENT, READY, DUE, PROVING)
    done = [left[r] / speeds.of(r) for r in (1, 2, 3)]
    unit = B / min(speeds.of(r) for r in (1, 2, 3))
    assert max(done) - min(done) <= unit
    c.run()
    c.check()


def test_a_job_of_a_few_hundred_rows_has_more_than_one_round(tmp_path):
    c = three(tmp_path, n_rows=200).run()
    assert [sum(counts.values()) for counts in given(c)] == [24, 48, 96, 32]


def test_rounds_are_no_larger_than_memory_allows(tmp_path):
    c = three(tmp_path, n_rows=200, round_rows=40).run()
    assert [sum(counts.values()) for counts in given(c)] == [24, 40, 40, 40, 40, 16]


def test_a_rank_that_has_proved_nothing_is_as_slow_as_it_has_been_at_least(tmp_path):
    """Long after the others had their calibration done, a rank without an answer gets next to nothing."""
    c = three(tmp_path, n_rows=24 + 48, delays=(40, 0, 0)).run()
    assert given(c)[1].get(1, 0) <= 12


def test_replicas_are_shared_out_by_throughput_too(tmp_path):
    c = three(tmp_path, n_rows=150, delays=(11, 2, 2), strategy="redundant", replicas=2).run()
    c.check_file()
    assert (c.aggregator.status == RowStatus.VERIFIED).all()
    rounds = given(c)
    assert sum(rounds[0].values()) == 24 and rounds[-1][1] < 0.7 * rounds[-1][2]
    for ranks in c.aggregator.rank_of.tolist():
        assert len(set(ranks)) == 2


def test_the_share_that_is_drawn_is_what_counts(tmp_path):
    c = three(tmp_path, n_rows=1000, coverage=0.25).run()
    c.check_file()
    rounds = given(c)
    assert sum(rounds[0].values()) == 24 / 0.25
    assert rounds[-1][2] > 1.7 * rounds[-1][1]


class Halves(Worker):
    """Infers four rows a tick; the slow one every third tick only."""

    every = 1
    turn = 0
    seconds: object = None

    def _infer_some(self) -> None:
        self.turn += 1
        if self._to_infer and self.turn % self.every == 0:
            rows, data = self._to_infer.popleft()
            if len(rows) > 4:
                self._to_infer.appendleft((rows[4:], data[4:]))
            from enclaveml.exchange import Report

            self._outbox.put(Report("outputs", {"seconds": self.seconds}, rows[:4], self.infer(rows[:4], data[:4])))


class Third(Halves):
    every = 3


def test_without_proofs_it_is_rows_inferred_per_second(tmp_path, monkeypatch):
    monkeypatch.setattr("enclaveml.speeds.CALIBRATION_ROWS", 16)
    c = Cluster(tmp_path, n_rows=32 + 64 + 128 + 256, ranks=3, coverage=0.0, capacity="throughput",
                workers={1: Third, 2: Halves}).run()
    c.check_file()
    rounds = given(c)
    assert [sum(counts.values()) for counts in rounds] == [32, 64, 128, 256]
    assert rounds[0] == {1: 16, 2: 16} and rounds[-1][2] / rounds[-1][1] == pytest.approx(3, rel=0.2)
    assert c.aggregator.pace.rows_per_second(2) == pytest.approx(4, rel=0.3)
    assert c.aggregator.pace.rows_per_second(1) == pytest.approx(4 / 3, rel=0.3)


@pytest.mark.parametrize(("told", "rows_per_second"), [
    ((2.0, 1.0), (50, 100)),  # a tick lasts as long as the slowest: 4 s in all for both
    ((2.0, 1e-9), (50, 400)), ((2.0, 0.0), (50, 25)),  # no faster than 16 times what the clock saw; by the clock
    ((2.0, 1e6), (50, 25)), ((0.0, 0.0), (25, 25))])  # no slower than the clock saw
def test_how_long_inference_took_is_the_ranks_word_within_what_the_clock_allows(told, rows_per_second):
    pace = Pace({}, clock=lambda: 0.0)
    for rank, seconds in zip((1, 2), told, strict=True):
        for _ in range(2):
            pace.inferred(rank, 50, 2.0, seconds / 2)
    assert (pace.inference(1), pace.inference(2)) == pytest.approx(rows_per_second)
    # In the log and the file, by the clock; of a rank that said nothing yet, the mean.
    assert pace.rows_per_second(1) == pace.rows_per_second(2) == 25
    assert min(rows_per_second) <= pace.inference(3) <= max(rows_per_second)


@pytest.mark.parametrize("told", [None, True, "1", -1.0, float("nan"), float("inf"), pytest.param(10**400, id="10**400"), [1]])
def test_a_rank_that_tells_no_sensible_seconds_is_timed_by_the_clock(tmp_path, monkeypatch, told):
    monkeypatch.setattr("enclaveml.speeds.CALIBRATION_ROWS", 16)

    class Senseless(Halves):
        seconds = told

    c = Cluster(tmp_path, n_rows=32 + 64 + 128, ranks=3, coverage=0.0, capacity="throughput",
                workers={1: Senseless, 2: Halves}).run()
    c.check_file()
    assert given(c)[-1] == {1: 64, 2: 64}


def test_what_a_rank_did_per_second_is_measured(tmp_path):
    c = three(tmp_path, n_rows=168).run()
    per_second = c.aggregator.pace.rows_per_second
    assert per_second(1) == pytest.approx(2 * B / 9, rel=0.25) and per_second(2) == pytest.approx(2 * B / 3, rel=0.5)
    assert np.isnan(per_second(0))


def test_a_job_by_throughput_survives_a_dead_rank_and_a_resume(tmp_path):
    first = three(tmp_path, n_rows=150)
    first.until(lambda: first.aggregator.accounts.opened == 2 and first.aggregator.proofs_verified >= 8)
    first.journal.close()
    done = first.aggregator.status == RowStatus.VERIFIED
    again = three(tmp_path, n_rows=150, resume=True, reassign=True)
    again.tick()
    again.kill(2)
    again.run()
    assert (again.status == RowStatus.VERIFIED).all()
    assert sum(m.rows_verified for m in again.members.values()) == 150 - done.sum()
