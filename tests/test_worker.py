"""A worker's side without MPI: a fake prover, orders put in by hand, reports read from the outbox."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import B, D, SCALE, TOLERANCE, FakeProver, a_circuit, dataset, fixed, model

from enclaveml.envelope import decode, input_hash, output_hash
from enclaveml.exchange import STATS, Order, Outbox, Report
from enclaveml.worker import Worker

DATA = dataset(20)


class Bench:
    """One worker with its outbox and prover."""

    def __init__(
        self, tmp_path, prover: FakeProver | None = None, children: int = 1, batch: int = 8, proves=True
    ):
        self.outbox, self.prover = Outbox(), prover or FakeProver()
        self.batches: list[int] = []
        self.worker = Worker(
            self.infer,
            batch,
            self.prover if proves else None,
            children,
            a_circuit(tmp_path),
            "node-1",
            "job-1",
            self.outbox,
        )

    def infer(self, rows: np.ndarray) -> np.ndarray:
        self.batches.append(len(rows))
        return model(rows)

    def give(self, *rows: int) -> None:
        numbers = np.array(rows, np.int64)
        self.worker.take(Order("infer", {"round": 0}, numbers, DATA[numbers]))

    def order(self, bundle: int, *rows: int, attempt: int = 1, timeout_s: float = 10.0) -> None:
        self.worker.take(
            Order(
                "prove",
                {"bundle": bundle, "round": 0, "attempt": attempt, "timeout_s": timeout_s, "circuit": "c1" * 32,
                 "nonce": "0a" * 32},
                np.array(rows, np.int64),
            )
        )

    def work(self, times: int = 1) -> list[Report]:
        for _ in range(times):
            self.worker.work()
        reports = [report for _, report in self.outbox.pending()]
        self.outbox.read_up_to(1 << 60)
        return reports

    def stat(self, name: str) -> float:
        return float(self.worker.stats[STATS.index(name)])


def test_rows_are_inferred_a_batch_at_a_time_in_their_order(tmp_path):
    bench = Bench(tmp_path)
    bench.give(*range(3, 20))
    bench.give(1)
    assert bench.worker.busy
    reports = bench.work()
    assert bench.batches == [8, 8, 1, 1] and not bench.worker.busy and not bench.worker.news
    assert [(r.kind, len(r.rows)) for r in reports] == [("outputs", 17), ("outputs", 1)]  # an order's in one report
    rows = np.concatenate([r.rows for r in reports])
    assert rows.tolist() == [*range(3, 20), 1]
    assert np.concatenate([r.outputs for r in reports]).tobytes() == b"".join(
        model(DATA[part]).tobytes() for part in (range(3, 11), range(11, 19), [19], [1])
    )
    assert bench.stat("rows_inferred") == 18


def test_a_report_of_several_batches_has_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("enclaveml.worker.REPORT_BYTES", 16 * 4 * D)
    bench = Bench(tmp_path)
    bench.give(*range(20))
    reports = bench.work()
    assert [len(r.rows) for r in reports] == [16, 4] and bench.batches == [8, 8, 4]


def test_a_bundle_becomes_an_envelope_that_says_what_was_ordered(tmp_path):
    bench = Bench(tmp_path)
    bench.give(5, 6, 7)
    said = bench.work()[0].outputs
    bench.order(31, 6, 5, attempt=2)
    reports = bench.work(2)
    assert [(r.kind, dict(r.meta)) for r in reports] == [("envelope", {"bundle": 31, "witness_s": 0.25, "prove_s": 0.5})]
    envelope = decode(reports[0].blob)
    data = DATA[[6, 5]]
    assert envelope.rows.tolist() == [6, 5]
    assert (envelope.round, envelope.bundle, envelope.attempt) == (0, 31, 2)
    assert (envelope.node_id, envelope.job_id) == ("node-1", "job-1")
    assert envelope.model_hash.hex() == "ab" * 32 and envelope.circuit_id.hex() == "c1" * 32
    assert envelope.outputs.tobytes() == said[[1, 0]].tobytes()
    assert envelope.input_hash == input_hash("public", data) and envelope.output_hash == output_hash(
        said[[1, 0]]
    )
    assert envelope.consistency.proved.shape == (B, D) and envelope.consistency.scale == SCALE
    assert envelope.consistency.tolerance == TOLERANCE
    assert envelope.consistency.deviation == np.abs(fixed(data) / 2.0**SCALE - said[[1, 0]]).max()
    assert (bench.stat("proofs"), bench.stat("witness_s"), bench.stat("prove_s")) == (1, 0.25, 0.5)


def test_a_prover_has_one_bundle_more_than_children(tmp_path):
    bench = Bench(tmp_path, FakeProver(delay=2), children=2)
    bench.give(*range(16))
    bench.work()
    for bundle in range(5):
        bench.order(bundle, *range(3 * bundle, 3 * bundle + 3), timeout_s=7.0 + bundle)
    reports, most = [], 0
    for _ in range(12):
        reports += bench.work()
        most = max(most, bench.prover.outstanding)
    assert most == 3
    assert [r.meta["bundle"] for r in reports] == [0, 1, 2, 3, 4]
    assert bench.prover.timeouts == {0: 7.0, 1: 8.0, 2: 9.0, 3: 10.0, 4: 11.0}


def test_a_failure_is_reported_with_its_text_and_the_rows_can_be_given_again(tmp_path):
    bench = Bench(tmp_path, FakeProver(fails=lambda task: "too slow" if task == 1 else ""))
    bench.give(0, 1)
    bench.work()
    bench.order(1, 0, 1)
    reports = bench.work(2)
    assert [(r.kind, dict(r.meta)) for r in reports] == [
        ("failed", {"bundle": 1, "text": "too slow", "overflow": []})]
    assert bench.stat("failures") == 1 and bench.stat("proofs") == 0
    bench.order(2, 0)  # without being given again they are not there
    with pytest.raises(KeyError):
        bench.work()


@pytest.mark.parametrize(("row", "held"), [(0, False), (1, False), (2, False), (6, False), (7, True)])
def test_rows_are_let_go_when_they_are_proved_or_forgotten(tmp_path, row, held):
    bench = Bench(tmp_path)
    bench.give(*range(8))
    bench.work()
    bench.order(1, 0, 1)
    assert [r.kind for r in bench.work(2)] == ["envelope"]
    bench.worker.take(Order("forget", {"start": 2, "stop": 7}))
    bench.order(2, row)
    if held:
        assert [r.kind for r in bench.work(2)] == ["envelope"]
    else:
        with pytest.raises(KeyError):
            bench.work()


def test_single_rows_are_let_go(tmp_path):
    bench = Bench(tmp_path)
    bench.give(*range(8))
    bench.work()
    bench.worker.take(Order("forget", {}, np.array([0, 3, 19])))
    assert sorted(bench.worker._held) == [1, 2, 4, 5, 6, 7]


def test_a_cancelled_bundle_is_dropped_and_said_so_wherever_it_is(tmp_path):
    bench = Bench(tmp_path, FakeProver(delay=3))  # one child, one bundle ahead
    bench.give(*range(8))
    bench.work()
    for bundle in range(3):
        bench.order(bundle, 2 * bundle, 2 * bundle + 1)
    bench.worker.work()
    for bundle in (0, 2, 7):  # in a child, waiting here, never heard of
        bench.worker.take(Order("cancel", {"bundle": bundle}))
    reports = bench.work(6)
    assert [(r.kind, r.meta["bundle"]) for r in reports] == [("cancelled", 0), ("cancelled", 2), ("envelope", 1)]
    assert sorted(bench.worker._held) == [6, 7]


def test_a_bundle_that_is_proved_already_is_not_cancelled(tmp_path):
    bench = Bench(tmp_path)
    bench.prover.cancel = lambda task: False
    bench.give(0, 1)
    bench.work()
    bench.order(1, 0, 1)
    bench.worker.work()
    bench.worker.take(Order("cancel", {"bundle": 1}))
    assert [(r.kind, r.meta["bundle"]) for r in bench.work(2)] == [("envelope", 1)]
    bench.worker.take(Order("cancel", {"bundle": 1}))
    assert bench.work(2) == []


def test_drain_finishes_what_the_prover_has_and_nothing_else(tmp_path):
    bench = Bench(tmp_path, FakeProver(delay=1))
    bench.give(*range(8))
    bench.work()
    for bundle in range(4):
        bench.order(bundle, 2 * bundle, 2 * bundle + 1)
    bench.worker.work()
    bench.give(10, 11)
    bench.worker.take(Order("drain"))
    reports = bench.work(6)
    assert [(r.kind, r.meta.get("bundle")) for r in reports] == [
        ("envelope", 0),
        ("envelope", 1),
        ("drained", None),
    ]
    assert bench.work(3) == []


def test_drain_without_anything_in_hand_is_answered_at_once(tmp_path):
    bench = Bench(tmp_path)
    bench.worker.take(Order("drain"))
    assert [r.kind for r in bench.work()] == ["drained"]


def test_stop_and_unknown_orders(tmp_path):
    bench = Bench(tmp_path)
    assert not bench.worker.stopped
    bench.worker.take(Order("stop", {"exit_code": 0}))
    assert bench.worker.stopped
    with pytest.raises(ValueError) as error:
        bench.worker.take(Order("dance"))
    assert str(error.value) == "an order of unknown kind 'dance': rank 0 runs another version of enclaveml"


def test_without_a_prover_outputs_are_all_there_is(tmp_path):
    bench = Bench(tmp_path, proves=False)
    bench.give(0, 1)
    assert [r.kind for r in bench.work(2)] == ["outputs"]
    bench.worker.close()
    assert not bench.prover.closed


def test_a_rank_that_waits_infers_meanwhile_a_batch_at_a_time(tmp_path):
    bench = Bench(tmp_path, proves=False, batch=3)
    assert not bench.worker.infer_meanwhile()
    bench.give(0, 1, 2, 3, 4)
    bench.give(5)
    for rows in ([0, 1, 2], [3, 4], [5]):
        assert bench.worker.infer_meanwhile()
        (report,) = bench.work(0)
        assert report.kind == "outputs" and report.rows.tolist() == rows
        np.testing.assert_array_equal(report.outputs, model(DATA[rows]))
    assert not bench.worker.infer_meanwhile() and bench.stat("rows_inferred") == 6
    bench.give(6)
    bench.worker.take(Order("stop"))
    assert not bench.worker.infer_meanwhile()


def test_a_rank_that_proves_waits_for_its_orders(tmp_path):
    bench = Bench(tmp_path)
    bench.give(0, 1)
    assert not bench.worker.infer_meanwhile() and bench.worker.busy


def test_close_ends_the_prover(tmp_path):
    bench = Bench(tmp_path)
    bench.worker.close()
    assert bench.prover.closed


def test_waiting_is_counted_only_while_children_have_nothing_to_do(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("enclaveml.worker.time.monotonic", lambda: now[0])
    bench = Bench(tmp_path, FakeProver(delay=50), children=2)
    bench.give(*range(4))
    now[0] += 8.0  # there is something to infer: not waiting
    bench.work()
    assert bench.stat("wait_s") == 0.0
    now[0] += 2.0
    bench.order(1, 0)
    bench.work()
    assert bench.stat("wait_s") == 2.0
    now[0] += 4.0  # one of two children works
    bench.order(2, 1)
    bench.work()
    assert bench.stat("wait_s") == 4.0
    now[0] += 4.0
    bench.work()
    assert bench.stat("wait_s") == 4.0
