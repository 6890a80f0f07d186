"""Coverage below 1: which rows are proved, when that is decided, and what a rank that was caught costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import Cluster, FakeProver, prove

from enclaveml.exchange import Report
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate


def forged(rows: np.ndarray):
    return dataclasses.replace(prove(rows), computation=b"forged")


@pytest.mark.parametrize("coverage", [0.001, 0.3, 0.5, 0.999])
def test_of_every_ranks_rows_that_share_is_verified_and_the_rest_unproved(tmp_path, coverage):
    c = Cluster(tmp_path, n_rows=100, round_rows=37, coverage=coverage).run()
    c.check()
    assert np.isin(c.status, (RowStatus.VERIFIED, RowStatus.UNPROVED)).all()
    drawn: dict[tuple[int, int], tuple[int, list[int]]] = {}
    for record in c.records("draw"):
        meta = record.meta
        drawn[meta["round"], meta["rank"]] = meta["of"], record.arrays["rows"].tolist()
        assert meta["drawn"] == len(record.arrays["rows"]) == np.ceil(coverage * meta["of"])
    assert sum(of for of, _ in drawn.values()) == 100 and len(drawn) == 9
    assert sorted(row for _, rows in drawn.values() for row in rows) == np.flatnonzero(c.status == 1).tolist()


def test_a_draw_can_be_made_again_from_its_seed(tmp_path):
    c = Cluster(tmp_path, n_rows=60, coverage=0.3).run()
    for record in c.records("draw"):
        held = np.flatnonzero(c.aggregator.rank_of[:, 0] == record.meta["rank"])
        generator = np.random.Generator(np.random.PCG64(int(record.meta["seed"], 16)))
        chosen = held[generator.choice(record.meta["of"], record.meta["drawn"], replace=False)]
        assert chosen.tolist() == record.arrays["rows"].tolist()


def test_seeds_differ(tmp_path):
    c = Cluster(tmp_path, n_rows=60, round_rows=20, coverage=0.3).run()
    seeds = [record.meta["seed"] for record in c.records("draw")]
    assert len(set(seeds)) == len(seeds) == 9


def test_nothing_is_drawn_before_every_output_of_the_round_is_in(tmp_path):
    c = Cluster(tmp_path, n_rows=30, coverage=0.5)
    held_back: list[Report] = []

    def slow(own: list[Report]) -> list[Report]:
        held_back.extend(own)
        return [] if c.ticks < 12 else [held_back.pop(0) for _ in held_back[:]]

    c.ranks[3].tamper = slow
    while c.ticks < 11:
        c.tick()
    assert not c.bundles and not list(c.records("draw"))
    c.run()
    c.check()
    order = [record.kind for record in c.records("outputs", "draw")]
    assert order.index("draw") > max(i for i, kind in enumerate(order) if kind == "outputs")


def test_rows_taken_from_another_rank_are_all_proved(tmp_path):
    c = Cluster(tmp_path, n_rows=40, ranks=3, coverage=0.2)
    c.tick(work=False)
    c.kill(1)
    c.run()
    c.check()
    assert (c.status[:20] == RowStatus.VERIFIED).all() and (c.status[20:] == RowStatus.VERIFIED).sum() == 4


def test_what_a_caught_rank_said_before_is_proved_elsewhere(tmp_path):
    """In the open round, and in rounds closed long ago."""
    c = Cluster(tmp_path, n_rows=100, round_rows=20, coverage=0.2)
    c.until(lambda: c.aggregator.rows_done >= 60)
    told = (c.aggregator.rank_of[:, 0] == 2) & (c.aggregator.status[:, 0] == RowStatus.UNPROVED)
    proved = (c.aggregator.rank_of[:, 0] == 2) & (c.aggregator.status[:, 0] == RowStatus.VERIFIED)
    assert told.sum() >= 12 and proved.sum() >= 3
    c.ranks[2].prover.prove = forged
    done = c.aggregator.rows_done
    c.until(lambda: c.members[2].fate is Fate.EXPELLED)
    assert done - told.sum() <= c.aggregator.rows_done <= 100 - told.sum()
    c.run()
    c.check()
    assert (c.status[told] == RowStatus.VERIFIED).all() and not (c.aggregator.rank_of[told] == 2).any()
    assert (c.aggregator.rank_of[proved] == 2).all()  # what was proved stands
    assert not ((c.aggregator.rank_of[:, 0] == 2) & (c.status == RowStatus.UNPROVED)).any()
    assert np.isin(c.status, (RowStatus.VERIFIED, RowStatus.UNPROVED)).all() and c.aggregator.rows_done == 100
    assert RowStatus.SUSPECT in [s for r in c.records("rows") for s in r.arrays["status"]]


def test_without_another_rank_they_end_suspect(tmp_path):
    c = Cluster(tmp_path, n_rows=60, ranks=3, round_rows=20, coverage=0.2, reassign=False)
    c.until(lambda: c.aggregator.rows_done >= 20)
    told = (c.aggregator.rank_of[:, 0] == 2) & (c.aggregator.status[:, 0] == RowStatus.UNPROVED)
    c.ranks[2].prover.prove = forged
    c.run()
    c.check_file()
    assert told.any() and (c.status[told] == RowStatus.SUSPECT).all()
    assert not ((c.aggregator.rank_of[:, 0] == 2) & (c.status == RowStatus.UNPROVED)).any()


def test_a_caught_rank_that_may_go_on_proves_all_of_its_rows(tmp_path):
    c = Cluster(tmp_path, n_rows=100, round_rows=20, coverage=0.2, max_rejections=3)
    lies = iter([False, True] + [False] * 99)
    c.ranks[2].prover.prove = lambda rows: forged(rows) if next(lies) else prove(rows)
    c.run()
    c.check()
    assert c.members[2].fate is Fate.OK and c.members[2].rejections == 1
    mine = c.aggregator.rank_of[:, 0] == 2
    assert mine.sum() > 10 and (c.status[mine] == RowStatus.VERIFIED).all()
    assert (c.status == RowStatus.UNPROVED).sum() > 20


def test_a_caught_rank_is_not_believed_at_coverage_0_either(tmp_path):
    c = Cluster(tmp_path, n_rows=60, round_rows=20, coverage=0.0)
    c.until(lambda: c.aggregator.rows_done >= 20)
    c.ranks[2].tamper = lambda own: [Report("sing")]
    c.run()
    c.check()
    assert (c.status == RowStatus.UNPROVED).all() and not (c.aggregator.rank_of == 2).any()


def test_workers_forget_what_was_not_drawn(tmp_path):
    c = Cluster(tmp_path, n_rows=100, round_rows=20, coverage=0.2, provers={1: FakeProver(delay=2)}).run()
    forgets = [(o.meta["start"], o.meta["stop"]) for o in c.ranks[1].orders if o.kind == "forget"]
    assert sorted(forgets) == [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]
    assert all(not rank.worker._held for rank in c.ranks.values())


@pytest.mark.parametrize("ranks, round_rows", [(4, 40), (2, 40), (3, 16)])
def test_what_was_drawn_before_a_kill_is_proved_after_it(tmp_path, ranks, round_rows):
    """Found by the soak: rows that were drawn, and not yet proved, escaped by the draw of the next session."""
    first = Cluster(tmp_path, n_rows=40, ranks=4, round_rows=40, coverage=0.3)
    first.until(lambda: any(first.records("draw")))
    first.journal.close()
    drawn = np.concatenate([record.arrays["rows"] for record in first.records("draw")])
    assert (first.status[drawn] != RowStatus.VERIFIED).any()
    again = Cluster(tmp_path, n_rows=40, ranks=ranks, round_rows=round_rows, coverage=0.3, resume=True).run()
    again.check()
    assert (again.status[drawn] == RowStatus.VERIFIED).all()
    assert (again.status == RowStatus.UNPROVED).any()
