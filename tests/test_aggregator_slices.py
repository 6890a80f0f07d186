"""Slices of one bundle from two ranks, before rank 0's state machine: what is joined, who is blamed, and what always holds."""

from __future__ import annotations

import dataclasses
import logging
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fakes import B, SLICE_BYTES, Cluster, SlicedProver, prove
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_aggregator_random import Alters, Behaviour, Claims, Flaky, Garbles, Honest, Sends, Slow, to_its_end

from enclaveml.exchange import STATS, Report
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate


def forged(rows: np.ndarray, slices: int, which: int) -> object:
    """A proof of which one slice is wrong."""
    proof = prove(rows, slices=slices)
    data = bytearray(proof.computation)
    data[which * SLICE_BYTES] ^= 1
    return dataclasses.replace(proof, computation=bytes(data))


def cluster(folder: Path, ranks: int = 3, **more: object) -> Cluster:
    """Three slices; shares of whole bundles, so that one bundle is one rank's."""
    return Cluster(folder, ranks=ranks, slices=3, capacity="throughput", **{"n_rows": B, **more})


def test_an_idle_rank_helps_and_the_two_are_joined(tmp_path) -> None:
    c = cluster(tmp_path, provers={r: SlicedProver(3, delay=60) for r in range(3)}).run()
    assert (c.aggregator.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 1).all()
    (task,) = c.verifier.joined
    assert list(c.verifier.said) == [task] and c.ticks < 60
    (record,) = c.records("bundle")
    assert (record.meta["bundle"], record.meta["rank"]) == (task, 1)
    assert (c.members[1].rows_verified, c.members[2].copies, c.members[2].discarded, c.members[2].rows_verified) == (B, 1, 0, 0)
    # The rank that holds the rows gave the first slices, the other the last, a quarter of a second each; nobody finished a whole proof.
    spent = [c.ranks[r].worker.stats[STATS.index("prove_s")] for r in (1, 2)]
    assert min(spent) >= 0.25 and sum(spent) in (0.75, 1.0) and [c.ranks[r].worker.stats[STATS.index("proofs")] for r in (1, 2)] == [0, 0]
    notes = [r.meta["reason"] for r in c.records("rows")]
    assert f"its slices are in the proof of bundle {task}" in notes


def test_a_whole_envelope_that_is_first_counts(tmp_path) -> None:
    c = cluster(tmp_path, provers={1: SlicedProver(3, delay=2), 2: SlicedProver(3, delay=60)}).run()
    assert not c.verifier.joined and (c.aggregator.status == RowStatus.VERIFIED).all()


@pytest.mark.parametrize("liar", [1, 2])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_whose_slice_is_wrong_is_blamed_and_the_other_goes_on(tmp_path, liar: int, which: int) -> None:
    provers = {r: SlicedProver(3, delay=60) for r in range(3)}
    provers[liar].prove = lambda rows: forged(rows, 3, which)
    c = cluster(tmp_path, provers=provers).run()
    assert (c.aggregator.status == RowStatus.VERIFIED).all()
    honest = 3 - liar
    assert (c.members[honest].rejections, c.members[honest].fate) == (0, Fate.OK)
    if which != 1:  # that one is of whoever is first; of the others one is the liar's to prove, the other is not
        assert bool(c.members[liar].rejections) == (which == (0 if liar == 1 else 2))
    if c.members[liar].rejections:
        assert c.members[liar].fate is Fate.EXPELLED and f"slice {which + 1} of a bundle that two ranks prove is wrong" in c.members[liar].evidence[0]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_rank_that_dies_costs_its_slices(tmp_path, lost: int) -> None:
    c = cluster(tmp_path, provers={r: SlicedProver(3, delay=60) for r in range(3)})
    for _ in range(15):
        c.tick()
    c.kill(lost)
    c.run()
    assert (c.aggregator.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 3 - lost).all()
    assert not c.members[3 - lost].rejections


@pytest.mark.parametrize("report, said", [
    (Report("slice", {"bundle": 99, "slice": 0}), "slice 0 of bundle 99, which rank 1 was not given or has answered"),
    (Report("slice", {"bundle": [1], "slice": 0}), "slice 0 of bundle [1], which rank 1 was not given"),
    (Report("slice", {"bundle": 1, "slice": 3}), "slice 3 of bundle 1, which rank 1 was not given"),
    (Report("slice", {"bundle": 1, "slice": True}), "slice True of bundle 1, which rank 1 was not given"),
    (Report("slice", {"bundle": 1, "slice": 0}, blob=b"short"), "bundle 1: a slice's proof of 5 bytes"),
    (Report("slice", {"bundle": 1, "slice": 0}, blob=bytes(400)), "bundle 1: the proof of slice 1 is 0 bytes, of 400 in all; a proof of this slice is 32"),
])
def test_a_slice_that_nobody_asked_for_is_a_breach(tmp_path, report: Report, said: str) -> None:
    ticks = []

    def tamper(own: list[Report]) -> list[Report]:
        ticks.append(1)
        return [*own, report] if len(ticks) == 6 else own

    c = cluster(tmp_path, provers={r: SlicedProver(3, delay=60) for r in range(3)}, tamper={1: tamper}).run()
    assert c.members[1].fate is Fate.EXPELLED and said in c.members[1].fate_reason
    assert (c.aggregator.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 2).all()


class ForgesSlices(Behaviour):
    """Slices that do not verify, now and then, alone and in whole envelopes."""

    def attach(self) -> None:
        slices = self.rank.prover.slices

        def forge(rows):
            return prove(rows, slices=slices) if self.chance.random() < 0.7 else forged(rows, slices, self.chance.randrange(slices))

        self.rank.prover.prove = forge


class SendsSlices(Sends):
    """Slices that no honest rank sends."""

    def tamper(self, own: list[Report]) -> list[Report]:
        if self.chance.random() < 0.7:
            return own
        self.lies += 1
        return [*own, Report("slice", {"bundle": self.chance.randrange(40), "slice": self.chance.randrange(-1, 5)}, blob=bytes(8))]


HONEST = (Honest, Slow, Flaky, Claims)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32), st.sampled_from(["equal", "by_capacity", "redundant"]), st.sampled_from([1.0, 1.0, 1.0, 0.3]), st.integers(1, 40),
    st.sampled_from([7, 16, 1000]), st.lists(st.sampled_from([*HONEST, Slow, ForgesSlices, SendsSlices, Alters, Garbles]), min_size=1, max_size=5),
    st.booleans(), st.integers(2, 4),
)
def test_every_job_in_slices_ends_with_every_row_accounted_for(seed, strategy, coverage, n_rows, round_rows, kinds, deaths, slices):
    logging.disable(logging.CRITICAL)
    chance = random.Random(seed)
    workers = [Honest, *kinds] if strategy != "redundant" else [Honest, Honest, *kinds]
    chance.shuffle(workers)
    with tempfile.TemporaryDirectory() as folder, np.errstate(invalid="ignore"):
        c = Cluster(
            Path(folder), n_rows=n_rows, ranks=len(workers) + 1, round_rows=round_rows, strategy=strategy, coverage=coverage, slices=slices,
            replicas=2, capacity=chance.choice(["memory", "throughput"]), max_rejections=chance.choice([1, 1, 3]),
            batch=chance.choice([1, 3, 16]), verdict_delay=chance.randrange(4), provers={r: SlicedProver(slices) for r in range(len(workers) + 1)},
        )
        ranks = {r: kind(c.ranks[r], chance) for r, kind in enumerate(workers, 1)}
        for behaviour in ranks.values():
            behaviour.attach()
            behaviour.rank.prover.delay = max(behaviour.rank.prover.delay, chance.choice([0, 6, 20]))
        immortal = 1 + workers.index(Honest)
        to_its_end(c, chance, [r for r in ranks if r != immortal] if deaths else [], ticks=1000 + 200 * n_rows, death=0.05)
        c.check()
        for r, kind in enumerate(workers, 1):
            if kind in HONEST:
                assert not c.members[r].rejections and c.members[r].fate is not Fate.EXPELLED, kind
        assert c.members[immortal].fate is Fate.OK and c.aggregator.rows_done == n_rows
        if coverage == 1.0:
            assert (c.status == RowStatus.VERIFIED).all()
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _logging_comes_back():
    yield
    logging.disable(logging.NOTSET)
