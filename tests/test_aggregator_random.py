"""Any mixture of honest ranks, liars, failing ranks and dying ranks, on any job: what always holds."""

from __future__ import annotations

import dataclasses
import logging
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fakes import D, Cluster, FakeProver, Rank, prove
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from enclaveml.exchange import Report
from enclaveml.journal_index import index_journal
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate


class Behaviour:
    """How one rank misbehaves; ``lies`` counts the lies that were sent."""

    def __init__(self, rank: Rank, chance: random.Random) -> None:
        self.rank, self.chance, self.lies = rank, chance, 0
        rank.prover.delay = chance.randrange(3)

    def attach(self) -> None:
        """Take hold of the rank."""


class Honest(Behaviour):
    pass


class Slow(Behaviour):
    """Honest, and takes many times longer to prove."""

    def attach(self) -> None:
        self.rank.prover.delay = self.chance.choice([8, 15, 40])


class Flaky(Behaviour):
    """Proofs that fail, now and then."""

    def attach(self) -> None:
        self.rank.prover.fails = lambda task: "failed" if self.chance.random() < 0.5 else ""


class Claims(Behaviour):
    """Says of rows that a circuit holds, now and then, that it does not."""

    def attach(self) -> None:
        fallback = self.rank.worker._fallback
        for prover in (self.rank.prover, *(fallback[1:] if fallback else ())):
            self.claim(prover)

    def claim(self, prover: FakeProver) -> None:
        plain = prover.overflow

        def overflow(rows):
            false = [place for place in range(len(rows)) if self.chance.random() < 0.3]
            return tuple(sorted({*plain(rows), *false}))

        prover.overflow = overflow


class Forges(Behaviour):
    """Proofs that do not verify, now and then."""

    def attach(self) -> None:
        def forge(rows):
            if self.chance.random() < 0.5:
                return prove(rows)
            self.lies += 1
            return dataclasses.replace(prove(rows), computation=b"forged")

        self.rank.prover.prove = forge


class Alters(Behaviour):
    """Float outputs of single rows, now and then: found out only where they are proved."""

    def attach(self) -> None:
        plain = self.rank.worker.infer

        def infer(rows, data):
            out = plain(rows, data)
            for row in range(len(rows)):
                if self.chance.random() < 0.2:
                    out[row, self.chance.randrange(D)] += self.chance.choice([1.0, -30.0, np.nan, np.inf])
            return out

        self.rank.worker.infer = infer


class Sends(Behaviour):
    """Reports that no honest rank sends."""

    def attach(self) -> None:
        self.rank.tamper = self.tamper

    def tamper(self, own: list[Report]) -> list[Report]:
        if self.chance.random() < 0.7:
            return own
        self.lies += 1
        row = np.array([self.chance.randrange(-1, 60)])
        bad = self.chance.choice(
            [
                Report("outputs", {}, np.concatenate([row, row]), np.zeros((2, D), np.float32)),
                Report("envelope", {"bundle": -self.chance.randrange(9)}, blob=b"ZKML"),
                Report("failed", {"bundle": None}),
                Report("garbled", {"text": 7}),
            ]
        )
        return [*own, bad] if self.chance.random() < 0.5 else [bad, *own]


class Garbles(Behaviour):
    """Envelopes with a byte changed."""

    def attach(self) -> None:
        self.rank.tamper = lambda own: [self.garble(r) if r.kind == "envelope" else r for r in own]

    def garble(self, report: Report) -> Report:
        blob = bytearray(report.blob)
        # Not the job's name, which binds nothing, nor the worker's own deviation, which nobody reads.
        at = self.chance.randrange(0, 40)
        blob[at] ^= 1 << self.chance.randrange(8)
        self.lies += 1
        return dataclasses.replace(report, blob=bytes(blob))


LIARS = (Forges, Alters, Sends, Garbles)


def to_its_end(c: Cluster, chance: random.Random, mortal: list[int], *, ticks: int, death: float) -> None:
    """Run a job; in a tick one of the mortal ranks dies with probability ``death``. No verified row is ever taken back."""
    previous = c.aggregator.status.copy()
    while not c.aggregator.finished:
        assert c.ticks < ticks, "the job does not end"
        c.tick()
        was = previous == RowStatus.VERIFIED
        assert (c.aggregator.status[was] == RowStatus.VERIFIED).all(), "a verified row was taken back"
        previous = c.aggregator.status.copy()
        if mortal and chance.random() < death:
            c.kill(mortal.pop(chance.randrange(len(mortal))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32),
    st.sampled_from(["equal", "by_capacity", "redundant"]),
    st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.3]),
    st.integers(1, 60),
    st.sampled_from([7, 16, 1000]),
    st.lists(st.sampled_from([Honest, Slow, Slow, Flaky, Claims, *LIARS]), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.booleans(),
)
# A bundle and its copy leave the range for one row of three, and the ranks that get them after that die.
@example(16, "by_capacity", 1.0, 45, 16, [Forges, Alters, Slow, Slow], True, True, True)
def test_every_job_ends_with_every_row_accounted_for(
    seed, strategy, coverage, n_rows, round_rows, kinds, deaths, reassign, fallback
):
    logging.disable(logging.CRITICAL)
    chance = random.Random(seed)
    workers = [Honest, *kinds] if strategy != "redundant" else [Honest, Honest, *kinds]
    chance.shuffle(workers)
    unusual = iter(chance.sample(range(n_rows), n_rows))
    some = {name: tuple(row for row, _ in zip(unusual, range(chance.choice([0, 0, 1, 2]))))
            for name in ("coarse", "coarser", "big", "huge")}
    with tempfile.TemporaryDirectory() as folder, np.errstate(invalid="ignore"):
        c = Cluster(
            Path(folder),
            n_rows=n_rows,
            ranks=len(workers) + 1,
            round_rows=round_rows,
            strategy=strategy,
            replicas=chance.choice([2, min(3, len(workers))]),
            coverage=coverage,
            reassign=reassign,
            capacity=chance.choice(["memory", "memory", "throughput"]),
            max_rejections=chance.choice([1, 1, 3]),
            batch=chance.choice([1, 3, 16]),
            verdict_delay=chance.randrange(3),
            capacities=(1.0, *(chance.choice([0.5, 1.0, 7.0]) for _ in workers)),
            coarse=some["coarse"],
            special={name: some[name] for name in ("coarser", "big", "huge")},
            fallback=fallback,
            provers={r: FakeProver() for r in range(len(workers) + 1)},
        )
        ranks = {r: kind(c.ranks[r], chance) for r, kind in enumerate(workers, 1)}
        for behaviour in ranks.values():
            behaviour.attach()
        immortal = 1 + workers.index(Honest)
        to_its_end(c, chance, [r for r in ranks if r != immortal] if deaths else [], ticks=300 + 60 * n_rows, death=0.1)
        c.check()
        c.check_sharing()

        inconsistent, lost = np.zeros(n_rows, bool), np.zeros(n_rows, bool)
        inconsistent[list(some["coarser"] + (() if fallback else some["coarse"]))] = True
        lost[list(some["huge"] + (() if fallback else some["big"]))] = True
        good = ~inconsistent & ~lost
        for r, kind in enumerate(workers, 1):
            member = c.members[r]
            if kind in (Honest, Slow, Flaky, Claims):
                assert not member.rejections and not member.evidence and member.fate is not Fate.EXPELLED
            else:
                assert (member.rejections > 0) == bool(member.evidence)
                assert member.fate is not Fate.OK or member.rejections < c.job.proof.max_rejections
        assert c.members[immortal].fate is Fate.OK and not c.aggregator.draining
        assert (c.status != RowStatus.PENDING).all() and c.aggregator.rows_done == n_rows
        for r, behaviour in ranks.items():
            if behaviour.lies and c.ranks[r].alive:
                assert c.members[r].rejections, f"rank {r} lied {behaviour.lies} times and is not named"
            if c.members[r].rejections:  # and whoever was caught is believed nothing that was not proved
                mine = c.aggregator.rank_of == r
                assert not (c.aggregator.status[mine] == RowStatus.UNPROVED).any()
        if reassign and coverage == 1.0:
            assert (c.status[good] == RowStatus.VERIFIED).all()
            assert (c.status[inconsistent] == RowStatus.INCONSISTENT).all()
            assert np.isin(c.status[lost], (RowStatus.LOST, RowStatus.REJECTED)).all()
        elif reassign:
            assert np.isin(c.status[good], (RowStatus.VERIFIED, RowStatus.UNPROVED)).all()
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def _logging_comes_back():
    yield
    logging.disable(logging.NOTSET)


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from(["by_capacity", "redundant"]))
def test_a_job_killed_again_and_again_is_verified_in_the_end_and_no_row_twice(seed, n_rows, strategy):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for session in range(60):
            c = Cluster(
                Path(folder),
                n_rows=n_rows,
                ranks=4,
                round_rows=16,
                strategy=strategy,
                resume=session > 0,
                provers={r: FakeProver(delay=chance.randrange(3)) for r in range(4)},
            )
            left = chance.randrange(2, 12)
            while left and not c.aggregator.finished:
                c.tick()
                left -= 1
            c.journal.close()  # killed: nothing else is written
            if c.aggregator.finished:
                break
        assert c.aggregator.finished
        assert (c.aggregator.status == RowStatus.VERIFIED).all()
        assert (index_journal(c.journal.path).states.status == RowStatus.VERIFIED).all()
        proved = [r.arrays["status"] == RowStatus.VERIFIED for r in c.records("bundle")]
        assert sum(map(np.sum, proved)) == n_rows * c.aggregator.replicas
