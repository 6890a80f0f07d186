"""Rows that the primary circuit cannot prove: proved at the fallback, nobody blamed, each costing itself alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import B_WIDE, SCALE, Cluster, FakeProver, digest, fixed, overflow, prove, wide_prover

from enclaveml.dispatch import MAX_ATTEMPTS
from enclaveml.envelope import decode, encode
from enclaveml.exchange import Report
from enclaveml.ledger import CHECKING, PROVING, WIDE
from enclaveml.results import build_results, read_results
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate
from enclaveml.worker import Worker

PRIMARY, FALLBACK = "c1" * 32, "c2" * 32


def nobody_is_blamed(c: Cluster) -> None:
    assert all(m.fate is Fate.OK and not m.rejections and not m.evidence for m in c.members.values())


def circuits_of(c: Cluster) -> dict[int, str]:
    """Verified row to the circuit of the proof that verified it, as the journal has it."""
    return {int(row): record.meta["circuit_id"] for record in c.records("bundle")
            for row in record.arrays["rows"][record.arrays["status"] == RowStatus.VERIFIED]}


def wide_orders(c: Cluster) -> list[list[int]]:
    return [o.rows.tolist() for r in c.ranks.values() for o in r.orders
            if o.kind == "prove" and o.meta["circuit"] == FALLBACK]


@pytest.mark.parametrize("job", [{}, {"strategy": "equal"}, {"strategy": "redundant"}, {"ranks": 1}, {"round_rows": 9}],
                         ids=["by_capacity", "equal", "redundant", "one rank", "rounds"])
def test_rows_that_overflow_or_are_too_coarse_are_proved_at_the_fallback(tmp_path, job):
    special = {"big": (1, 2, 20, 40)}
    c = Cluster(tmp_path, **{"n_rows": 41, "round_rows": 20, **job}, coarse=(0, 21), special=special, fallback=True).run()
    c.check_file()
    assert (c.aggregator.status == RowStatus.VERIFIED).all()
    nobody_is_blamed(c)
    of = circuits_of(c)
    assert {row for row, circuit in of.items() if circuit == FALLBACK} == {0, 1, 2, 20, 21, 40}
    replicas = c.aggregator.replicas
    assert c.aggregator.fallback_rows == 6 * replicas
    assert c.opened == ["primary", "fallback"]
    with read_results(tmp_path / "results.h5") as results:
        assert results.circuit_ids == [PRIMARY, FALLBACK]
        numbers = results.row("bundle")
        names = results.proofs("circuit_id")
        assert [names[numbers[row]] for row in (0, 1, 3)] == [FALLBACK, FALLBACK, PRIMARY]
    assert all(not r.worker._held for r in c.ranks.values())  # what was held for it is forgotten


def test_the_output_that_the_rank_was_bound_to_is_the_one_compared(tmp_path):
    c = Cluster(tmp_path, n_rows=12, ranks=3, coarse=(1,), special={"big": (2, 7)}, fallback=True).run()
    c.check()
    said = [rows for record in c.records("outputs") for rows in record.arrays["rows"].tolist()]
    assert sorted(said) == list(range(12))  # nobody was asked again
    assert all(o.rows.tolist().count(row) == 1 for row in (1, 2, 7) for r in c.ranks.values() for o in r.orders
               if o.kind == "infer" and row in o.rows)


def test_a_fallback_that_no_row_needs_is_never_opened_and_not_in_the_file(tmp_path):
    c = Cluster(tmp_path, n_rows=12, fallback=True).run()
    c.check_file()
    assert c.opened == ["primary"] and wide_orders(c) == []
    assert [r.meta["circuit_id"] for r in c.records("circuit")] == [PRIMARY]
    assert c.aggregator.fallback_rows == 0


def test_rows_for_the_fallback_wait_for_each_other(tmp_path):
    big = tuple(range(0, 24, 4))  # one in each bundle
    c = Cluster(tmp_path, n_rows=24, ranks=2, special={"big": big}, fallback=True).run()
    c.check()
    assert [len(rows) for rows in wide_orders(c)] == [B_WIDE, B_WIDE]
    assert (c.status == RowStatus.VERIFIED).all()


def test_one_row_that_nothing_proves_costs_itself_alone(tmp_path):
    c = Cluster(tmp_path, n_rows=24, special={"huge": (5,), "big": (4, 6)}, fallback=True).run()
    c.check_file()
    assert np.flatnonzero(c.status != RowStatus.VERIFIED).tolist() == [5]
    assert c.status[5] == RowStatus.LOST
    nobody_is_blamed(c)
    reasons = [r.meta["reason"] for r in c.records("rows")]
    assert reasons == ["a value is out of range"] * MAX_ATTEMPTS + ["no rank is left that may take it"]


def test_a_row_that_is_inconsistent_at_both_ends_so(tmp_path):
    c = Cluster(tmp_path, n_rows=12, special={"coarser": (5,)}, fallback=True).run()
    c.check_file()
    assert np.flatnonzero(c.status == RowStatus.INCONSISTENT).tolist() == [5]
    assert (np.delete(c.status, 5) == RowStatus.VERIFIED).all()
    assert wide_orders(c) == [[5]]
    nobody_is_blamed(c)


def test_a_coarse_row_that_the_fallback_cannot_prove_is_inconsistent_and_not_lost(tmp_path):
    narrow = {r: wide_prover(overflow=lambda rows: tuple(range(len(rows)))) for r in range(4)}
    c = Cluster(tmp_path, n_rows=12, coarse=(5,), fallback=True, wide=narrow).run()
    c.check_file()
    assert c.status[5] == RowStatus.INCONSISTENT and (np.delete(c.status, 5) == RowStatus.VERIFIED).all()
    nobody_is_blamed(c)


def test_a_float_output_that_is_no_number_is_not_tried_again(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=3, fallback=True)
    c.data[5, 2] = np.nan
    with np.errstate(invalid="ignore"):
        c.run()
    assert c.status[5] == RowStatus.INCONSISTENT and wide_orders(c) == []


def test_without_a_fallback_rows_out_of_range_cost_themselves_alone(tmp_path):
    c = Cluster(tmp_path, n_rows=24, special={"big": (5, 6)}, coarse=(9,)).run()
    c.check_file()
    assert np.flatnonzero(c.status == RowStatus.LOST).tolist() == [5, 6]
    assert np.flatnonzero(c.status == RowStatus.INCONSISTENT).tolist() == [9]
    assert (np.delete(c.status, [5, 6, 9]) == RowStatus.VERIFIED).all()
    nobody_is_blamed(c)


def test_what_fails_for_another_reason_goes_to_others_as_before(tmp_path):
    crash = FakeProver(fails=lambda task: "child ended by signal 9")
    c = Cluster(tmp_path, n_rows=24, provers={1: crash}, fallback=True).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and wide_orders(c) == []
    assert c.members[1].failures > 0 and 1 not in c.aggregator.rank_of


def test_a_crash_at_the_fallback_is_tried_row_by_row_elsewhere(tmp_path):
    """Row 2 kills whatever child proves it."""
    def crashing() -> FakeProver:
        prover = wide_prover()
        prover.fails = lambda task: "child ended by signal 11" if 2 in c.bundles[task][1] else ""
        return prover

    c = Cluster(tmp_path, n_rows=12, ranks=3, special={"big": (0, 1, 2)}, fallback=True,
                wide={r: crashing() for r in (1, 2)})
    c.run()
    c.check()
    assert np.flatnonzero(c.status != RowStatus.VERIFIED).tolist() == [2]
    assert wide_orders(c)[0] == [0, 1, 2] and all(len(rows) == 1 for rows in wide_orders(c)[1:])
    nobody_is_blamed(c)


def test_another_rank_infers_the_row_itself_and_begins_at_the_primary_unless_it_was_seen_to_be_coarse(tmp_path):
    dying = {1: wide_prover(delay=50)}
    c = Cluster(tmp_path, n_rows=12, ranks=3, capacities=(1.0, 100.0, 0.01), coarse=(0,), special={"big": (1,)},
                fallback=True, wide=dying)
    c.until(lambda: bool(wide_orders(c)))
    c.kill(1)
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and c.aggregator.rank_of[[0, 1], 0].tolist() == [2, 2]
    orders = [(o.meta["circuit"], o.rows.tolist()) for o in c.ranks[2].orders if o.kind == "prove"]
    assert [row for circuit, rows in orders for row in rows if circuit == PRIMARY].count(1) == 1
    assert not any(0 in rows for circuit, rows in orders if circuit == PRIMARY)
    assert {0, 1} <= {row for record in c.records("outputs") if record.meta["rank"] == 2
                      for row in record.arrays["rows"].tolist()}


def test_a_coarse_row_of_a_rank_that_died_since_goes_to_another(tmp_path):
    c = Cluster(tmp_path, n_rows=8, ranks=3, coarse=(1,), fallback=True, verdict_delay=2)
    c.until(lambda: any(1 in rows for rows, _ in c.verifier.said.values()))
    c.kill(1)
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and c.aggregator.rank_of[1, 0] == 2


# -- ranks that lie about it -------------------------------------------------------


def test_a_rank_that_claims_that_good_rows_overflow_gains_nothing(tmp_path):
    """They are proved all the same, at the fallback; its float outputs are held against that proof."""
    claims = FakeProver(overflow=lambda rows: tuple(range(len(rows))))
    c = Cluster(tmp_path, n_rows=24, provers={2: claims}, fallback=True).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all()
    of = circuits_of(c)
    mine = np.flatnonzero(c.aggregator.rank_of[:, 0] == 2)
    assert len(mine) == 8 and {of[row] for row in mine.tolist()} == {FALLBACK}


class Alters(Worker):
    def infer(self, rows, data):
        return super().infer(rows, data) + np.float32(0.5)


def test_a_false_output_is_not_saved_by_claiming_an_overflow(tmp_path):
    claims = FakeProver(overflow=lambda rows: tuple(range(len(rows))))
    c = Cluster(tmp_path, n_rows=24, provers={2: claims}, workers={2: Alters}, fallback=True).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and 2 not in c.aggregator.rank_of
    assert c.members[2].fate is Fate.EXPELLED and "is neither the model's nor the proof's" in c.members[2].evidence[0]


@pytest.mark.parametrize("fallback", [False, True])
def test_a_rank_that_claims_that_nothing_proves_its_rows_loses_them_to_others(tmp_path, fallback):
    everything = {"overflow": lambda rows: tuple(range(len(rows)))}
    c = Cluster(tmp_path, n_rows=24, provers={2: FakeProver(**everything)}, fallback=fallback,
                wide={2: wide_prover(**everything)}).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and 2 not in c.aggregator.rank_of
    nobody_is_blamed(c)


def test_a_rank_that_names_one_row_at_a_time_ends_too(tmp_path):
    c = Cluster(tmp_path, n_rows=12, ranks=3, provers={2: FakeProver(overflow=lambda rows: (0,))}, fallback=True).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all()


@pytest.mark.parametrize("places", [[4], [-1], ["0"], [True], [0.0], [0, 99]])
def test_places_that_a_bundle_has_not_are_a_breach(tmp_path, places):
    def tamper(own: list[Report]) -> list[Report]:
        return [Report("failed", {**r.meta, "text": "no", "overflow": places}) if r.kind == "envelope" else r for r in own]

    c = Cluster(tmp_path, n_rows=24, tamper={2: tamper}, fallback=True).run()
    c.check()
    assert c.members[2].fate is Fate.EXPELLED
    assert c.members[2].evidence[0].startswith("a report: a failure of rows that bundle ")
    assert (c.status == RowStatus.VERIFIED).all()


@pytest.mark.parametrize("said", [None, [], "all", 7, {"0": 1}])
def test_a_failure_that_names_no_rows_is_one_as_before(tmp_path, said):
    def tamper(own: list[Report]) -> list[Report]:
        return [Report("failed", {**r.meta, "text": "no", "overflow": said}) if r.kind == "envelope" else r for r in own]

    c = Cluster(tmp_path, n_rows=24, tamper={2: tamper}, fallback=True).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and c.members[2].failures > 0 and wide_orders(c) == []
    nobody_is_blamed(c)


def relabelled(own: list[Report]) -> list[Report]:
    """Envelopes under the other circuit's id."""
    other = {PRIMARY: FALLBACK, FALLBACK: PRIMARY}

    def turned(blob: bytes) -> bytes:
        envelope = decode(blob)
        return encode(dataclasses.replace(envelope, circuit_id=bytes.fromhex(other[envelope.circuit_id.hex()])))

    return [dataclasses.replace(r, blob=turned(r.blob)) if r.kind == "envelope" else r for r in own]


def test_the_other_circuits_label_is_refused(tmp_path):
    c = Cluster(tmp_path, n_rows=24, tamper={2: relabelled}, fallback=True).run()
    c.check()
    assert c.members[2].fate is Fate.EXPELLED and (c.status == RowStatus.VERIFIED).all()
    assert c.members[2].evidence[0].endswith(f"envelope: circuit_id is {FALLBACK}, ordered was {PRIMARY}")


@pytest.mark.parametrize("wide", [False, True])
def test_the_other_circuits_proof_is_refused(tmp_path, wide):
    """Labelled as ordered: a proof of these very rows, and of another circuit."""
    def other(rows: np.ndarray):
        return dataclasses.replace(prove(rows, wide=wide), computation=digest(rows, wide=not wide))

    provers = {"wide": {1: wide_prover(prove=other)}} if wide else {"provers": {1: FakeProver(other)}}
    c = Cluster(tmp_path, n_rows=24, special={"big": (0,)}, fallback=True, **provers).run()
    c.check()
    assert c.members[1].fate is Fate.EXPELLED and (c.status == RowStatus.VERIFIED).all()
    assert c.members[1].evidence[0].endswith("the proof does not verify")


# -- draws, stops and resumes ------------------------------------------------------


def test_rows_that_were_drawn_stay_drawn(tmp_path):
    """A claim that a drawn row overflows does not put it back among those that may be left out."""
    claims = FakeProver(overflow=lambda rows: tuple(range(len(rows))))
    c = Cluster(tmp_path, n_rows=60, coverage=0.5, provers={2: claims}, coarse=tuple(range(0, 20, 2)), fallback=True).run()
    c.check()
    drawn = {row for record in c.records("draw") for row in record.arrays["rows"].tolist()}
    assert len(list(c.records("draw"))) == 3 and len(drawn) == 30
    assert set(np.flatnonzero(c.status == RowStatus.VERIFIED).tolist()) == drawn
    assert (np.delete(c.status, sorted(drawn)) == RowStatus.UNPROVED).all()


def test_a_job_stopped_on_the_way_to_the_fallback_goes_on_there(tmp_path):
    what = {"n_rows": 24, "round_rows": 12, "coarse": (0, 13), "special": {"big": (1, 14)}, "fallback": True}
    first = Cluster(tmp_path, **what, wide={r: wide_prover(delay=1) for r in range(4)})
    first.until(lambda: first.aggregator.fallback_rows > 0)
    first.journal.close()
    before = first.status == RowStatus.VERIFIED
    assert 0 < before.sum() < 24
    again = Cluster(tmp_path, **what, resume=True).run()
    assert (again.status == RowStatus.VERIFIED).all()
    proved = [row for rank, rows in again.bundles.values() for row in rows]
    assert not set(proved) & set(np.flatnonzero(before).tolist())
    ids = [r.meta["circuit_id"] for r in again.records("circuit")]
    assert sorted(ids) == [PRIMARY, FALLBACK]  # each once
    build_results(again.journal.path, tmp_path / "results.h5")
    with read_results(tmp_path / "results.h5") as results:
        assert (results.row("status") == RowStatus.VERIFIED).all()
        assert (results.proved_outputs() == fixed(again.data, wide=True) / 2.0**SCALE).all()


def test_a_drain_leaves_what_waits_for_the_fallback(tmp_path):
    c = Cluster(tmp_path, n_rows=24, ranks=2, special={"big": (0,)}, fallback=True, provers={1: FakeProver(delay=3)})
    c.until(lambda: any((r.stage == WIDE).any() for r in c.aggregator.rounds.values()))
    c.aggregator.drain()
    c.run()
    c.check()
    assert c.aggregator.draining and c.status[0] == RowStatus.PENDING
    assert not any(np.isin(r.stage, (PROVING, CHECKING)).any() for r in c.aggregator.rounds.values())


def test_the_fakes_circuits_differ(tmp_path):
    rows = np.zeros((2, 5), np.float32)
    rows[:, 1] = 99.0
    assert overflow(rows) == (0, 1) and overflow(rows, wide=True) == ()
    assert prove(rows).computation != prove(rows, wide=True).computation
