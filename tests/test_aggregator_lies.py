"""Ranks that lie: rejected, named, given nothing more; their rows are verified elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from fakes import D, Cluster, FakeProver, prove

from enclaveml.envelope import Consistency, decode, encode
from enclaveml.exchange import Report
from enclaveml.results import read_results
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate
from enclaveml.worker import Worker

LIAR = 2


def forged(rows: np.ndarray):
    return dataclasses.replace(prove(rows), computation=b"forged")


def other_weights(rows: np.ndarray):
    honest = prove(rows)
    return dataclasses.replace(honest, outputs=honest.outputs + 5000)


def shifted(rows: np.ndarray):
    """A true proof, of other rows than were ordered."""
    return prove(np.roll(rows, 1, axis=1))


class Alters(Worker):
    """Moves its float outputs before they are gathered."""

    by: float = 0.5

    def infer(self, rows, data):
        out = super().infer(rows, data)
        out[:, 1] += np.float32(self.by)
        return out


class SaysNan(Alters):
    by = float("nan")


class SaysInfinity(Alters):
    by = float("inf")


class AltersLater(Worker):
    """Changes the outputs in the envelope after they were gathered; hash and all."""

    def seal(self, meta, rows, data, outputs, proof):
        return super().seal(meta, rows, data, outputs + np.float32(0.001), proof)


def named(c: Cluster, liar: int = LIAR) -> None:
    """The liar alone is blamed, with evidence, in memory, journal and file."""
    for rank, member in c.members.items():
        assert (member.rejections > 0) == (rank == liar), member
        assert (member.fate is Fate.EXPELLED) == (rank == liar)
        assert bool(member.evidence) == (rank == liar)
    line = c.index.ranks[0, liar]
    assert (
        line["fate"] == "expelled"
        and line["fate_reason"].startswith("1 rejected; last: ")
        and line["fate_time"]
    )


@pytest.mark.parametrize("strategy", ["by_capacity", "equal", "redundant"])
@pytest.mark.parametrize(
    ("proves", "worker"),
    [
        (forged, Worker),
        (other_weights, Worker),
        (shifted, Worker),
        (prove, Alters),
        (prove, SaysNan),
        (prove, SaysInfinity),
        (prove, AltersLater),
    ],
)
def test_a_lie_is_refused_named_and_proved_by_another(tmp_path, strategy, proves, worker):
    c = Cluster(
        tmp_path,
        n_rows=46,
        ranks=5,
        round_rows=20,
        strategy=strategy,
        provers={LIAR: FakeProver(proves)},
        workers={LIAR: worker},
    )
    with np.errstate(invalid="ignore"):
        c.run()
        c.check()
    assert (c.aggregator.status == RowStatus.VERIFIED).all()
    assert LIAR not in c.aggregator.rank_of
    named(c)
    assert c.members[LIAR].rows_verified == 0 and c.aggregator.bundles_rejected == c.members[LIAR].rejections
    assert c.ranks[LIAR].orders[-1].kind == "drain"


def test_a_false_float_output_is_told_from_honest_coarseness(tmp_path, caplog):
    """Both in one bundle: the proof holds, two rows are beyond the tolerance, only one was a lie."""

    class AltersRow1(Worker):
        def infer(self, rows, data):
            out = super().infer(rows, data)
            out[rows == 1] += np.float32(0.3)
            return out

    c = Cluster(
        tmp_path, n_rows=4, ranks=3, coarse=(0,), capacities=(1.0, 100.0, 1.0), workers={1: AltersRow1}
    ).run()
    c.check()
    assert c.status.tolist() == [RowStatus.INCONSISTENT, 1, 1, 1]
    assert c.aggregator.rank_of[:, 0].tolist() == [1, 2, 1, 1]
    assert c.members[1].fate is Fate.EXPELLED and c.members[2].rejections == 0
    assert c.members[1].evidence == [
        "bundle 1 (4 rows from row 0): the float output of row 1 (1 rows in all) is neither the model's nor the "
        "proof's: beyond the tolerance"
    ]
    assert (
        "REJECTED: bundle 1 (4 rows from row 0) of rank 1 (node-1 on here): the float output" in caplog.text
    )


def test_an_output_altered_within_the_tolerance_steers_nothing(tmp_path):
    class Slightly(Alters):
        by = 0.009

    c = Cluster(tmp_path, n_rows=8, ranks=2, workers={1: Slightly}).run()
    c.check()  # compares the proved outputs with the honest ones
    assert (c.status == RowStatus.VERIFIED).all() and not c.members[1].rejections


def edited(**changes: object) -> Callable[[list[Report]], list[Report]]:
    """Envelopes with these fields replaced (a function of the envelope gives the value)."""

    def tamper(reports: list[Report]) -> list[Report]:
        out = []
        for report in reports:
            if report.kind == "envelope":
                envelope = decode(report.blob)
                new = {k: v(envelope) if callable(v) else v for k, v in changes.items()}
                report = dataclasses.replace(report, blob=encode(dataclasses.replace(envelope, **new)))
            out.append(report)
        return out

    return tamper


def blobs(change: Callable[[bytes], bytes]) -> Callable[[list[Report]], list[Report]]:
    """Envelopes whose bytes are replaced."""
    return lambda reports: [
        dataclasses.replace(r, blob=change(r.blob)) if r.kind == "envelope" else r for r in reports
    ]


def consistency(**changes: object) -> Callable[[object], Consistency]:
    return lambda envelope: dataclasses.replace(
        envelope.consistency, **{k: v(envelope) if callable(v) else v for k, v in changes.items()}
    )


ENVELOPES = {
    "model_hash": (edited(model_hash=bytes(32)), f"model_hash is {'00' * 32}, ordered was {'ab' * 32}"),
    "circuit_id": (edited(circuit_id=bytes(32)), f"circuit_id is {'00' * 32}, ordered was {'c1' * 32}"),
    "job_id": (edited(job_id="job-0"), "job_id is job-0, ordered was job-1"),
    "round": (edited(round=7), "round is 7, ordered was 0"),
    "bundle": (edited(bundle=99), "bundle is 99, ordered was "),
    "attempt": (edited(attempt=2), "attempt is 2, ordered was 1"),
    "node_id": (edited(node_id="node-1"), "node_id is node-1, ordered was node-2"),
    "job_id": (edited(job_id="job-0"), "job_id is job-0, ordered was job-1"),
    "rows": (edited(rows=lambda e: e.rows + 1), "rows is ["),
    "rows in another order": (edited(rows=lambda e: e.rows[::-1].copy()), "rows is ["),
    "input_hash": (edited(input_hash=bytes(32)), f"input_hash is {'00' * 32}, ordered was "),
    "output_hash": (edited(output_hash=bytes(32)), f"output_hash is {'00' * 32}, ordered was "),
    "output scale": (edited(consistency=consistency(scale=20)), "output scale is 20, ordered was 16"),
    "tolerance": (edited(consistency=consistency(tolerance=9.0)), "tolerance is 9.0, ordered was 0.01"),
    "NaN as tolerance": (
        edited(consistency=consistency(tolerance=float("nan"))),
        "tolerance is nan, ordered was 0.01",
    ),
    "a row left out": (edited(rows=lambda e: e.rows[:-1], outputs=lambda e: e.outputs[:-1]), "rows is ["),
    "an output more": (
        edited(
            outputs=lambda e: np.hstack([e.outputs, e.outputs[:, :1]]),
            consistency=consistency(
                proved=lambda e: np.hstack([e.consistency.proved, e.consistency.proved[:, :1]])
            ),
        ),
        "number of outputs: 4 found; 1 to 3 allowed",
    ),
    "an output less": (
        edited(
            outputs=lambda e: e.outputs[:, :2].copy(),
            consistency=consistency(proved=lambda e: e.consistency.proved[:, :2].copy()),
        ),
        "outputs' shape is (4, 2), ordered was (4, 3)",
    ),
    "a proved row more": (
        edited(
            consistency=consistency(proved=lambda e: np.vstack([e.consistency.proved, e.consistency.proved]))
        ),
        "number of rows: 8 found; 1 to 4 allowed",
    ),
    "garbage": (blobs(lambda b: b"\x80garbage"), "envelope, offset 0, header: magic: "),
    "empty": (blobs(lambda b: b""), "envelope, offset 0, header: magic: 0 bytes left found; 4 bytes allowed"),
    "cut": (blobs(lambda b: b[:-1]), "bytes left, allowed"),
    "extended": (blobs(lambda b: b + b"\0"), "end: 1 bytes more found; none allowed"),
    "enormous": (blobs(lambda b: b + bytes(1 << 21)), "bytes found; at most "),
}


@pytest.mark.parametrize(("tamper", "text"), ENVELOPES.values(), ids=ENVELOPES.keys())
def test_an_envelope_that_is_not_what_was_ordered(tmp_path, tamper, text):
    c = Cluster(tmp_path, n_rows=32, ranks=4, capacities=(1, 1, 1.7, 1), tamper={LIAR: tamper}).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and LIAR not in c.aggregator.rank_of
    named(c)
    assert text in c.members[LIAR].evidence[0], c.members[LIAR].evidence
    assert ": envelope: " in c.members[LIAR].evidence[0]
    kept = c.kept(LIAR)
    assert kept and all((status == RowStatus.REJECTED).all() for status, _ in kept)
    sent = [r.blob for r in c.ranks[LIAR].reports if r.kind == "envelope"]
    assert kept[0][1] == sent[0][: 1 << 20]  # the evidence


def test_outputs_in_the_envelope_must_be_the_very_bytes_gathered(tmp_path):
    """-0.0 equals 0.0, and is not what was said."""

    class SaysZero(Worker):
        def infer(self, rows, data):
            return np.zeros((len(rows), D), np.float32)

        def seal(self, meta, rows, data, outputs, proof):
            return super().seal(meta, rows, data, -outputs, proof)

    c = Cluster(tmp_path, n_rows=8, ranks=3, workers={LIAR: SaysZero}).run()
    c.check()
    assert c.members[LIAR].evidence[0].endswith("outputs differ from those that the rank sent before proving")
    assert (c.status == RowStatus.VERIFIED).all()


def insert(report: Report) -> Callable[[list[Report]], list[Report]]:
    """This report, once, with the rank's first own ones."""
    waiting = [report]

    def tamper(own: list[Report]) -> list[Report]:
        return own + [waiting.pop()] if own and waiting else own

    return tamper


def outputs_of(*rows: int, outputs: int = D) -> Report:
    return Report("outputs", {}, np.array(rows, np.int64), np.zeros((len(rows), outputs), np.float32))


def twice(kind: str) -> Callable[[list[Report]], list[Report]]:
    return lambda own: [r for report in own for r in ([report, report] if report.kind == kind else [report])]


BREACHES = {
    "rows of another rank": (outputs_of(0), "row 0 was not given to rank 2, or was already answered"),
    "a row twice": (outputs_of(8, 8), "rank 2 named a row twice"),
    "a row before the dataset": (outputs_of(-1), "row -1 is not in an open round"),
    "a row behind the dataset": (outputs_of(10**12), "row 1000000000000 is not in an open round"),
    "a row behind the round": (outputs_of(8, 24), "row 24 was not given to rank 2"),
    "outputs of no row": (outputs_of(), "outputs of no row"),
    "outputs twice": ("outputs", "row 8 was not given to rank 2, or was already answered"),
    "an envelope twice": ("envelope", "an envelope of bundle 3, which rank 2 was not given or has answered"),
    "a bundle of nobody": (
        Report("envelope", {"bundle": 999}),
        "an envelope of bundle 999, which rank 2 was not given or has answered",
    ),
    "a failure of nobody": (
        Report("failed", {"bundle": 0}),
        "a failure of bundle 0, which rank 2 was not given or has answered",
    ),
    "a bundle by name": (
        Report("envelope", {"bundle": "3"}),
        "an envelope of a bundle that is no number (str), which rank 2 was not given or has answered",
    ),
    "bundle true": (
        Report("envelope", {"bundle": True}),
        "an envelope of a bundle that is no number (bool), which rank 2 was not given or has answered",
    ),
    "bundle infinity": (
        Report("failed", {"bundle": float("inf")}),
        "a failure of a bundle that is no number (float), which rank 2 was not given or has answered",
    ),
    "no bundle": (
        Report("envelope"),
        "an envelope of a bundle that is no number (NoneType), which rank 2 was not given or has answered",
    ),
    "an unknown kind": (Report("sing" * 99), f"a report of unknown kind {('sing' * 10)!r}"),
    "a report that cannot be read": (
        Report("garbled", {"text": "a report\0 that\ud800 cannot be read"}),
        "a report\ufffd that\ufffd cannot be read",
    ),
}


@pytest.mark.parametrize(("what", "text"), BREACHES.values(), ids=BREACHES.keys())
def test_a_rank_that_breaks_the_protocol_is_expelled_at_once(tmp_path, what, text):
    c = Cluster(
        tmp_path,
        n_rows=24,
        max_rejections=3,
        tamper={LIAR: twice(what) if isinstance(what, str) else insert(what)},
        provers={LIAR: FakeProver(delay=1)},
    )
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all()
    named(c)
    assert c.members[LIAR].evidence == [f"a report: {text}"]
    assert c.members[LIAR].fate_reason == f"1 rejected; last: {text}"


def test_an_envelope_for_another_ranks_bundle(tmp_path):
    c = Cluster(tmp_path, n_rows=24, provers={3: FakeProver(delay=3)})

    def steal(own: list[Report]) -> list[Report]:
        theirs = [task for task, (rank, _) in c.bundles.items() if rank == 3]
        return [
            Report("envelope", {"bundle": theirs[0]}, blob=r.blob) if r.kind == "envelope" else r for r in own
        ]

    c.ranks[LIAR].tamper = steal
    c.run()
    c.check()
    named(c)
    assert c.members[LIAR].evidence == [
        "a report: an envelope of bundle 5, which rank 2 was not given or has answered"
    ]
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == 3).sum() >= 8


def test_a_proof_replayed_for_another_bundle_is_rejected(tmp_path):
    class Replays(Worker):
        kept = None

        def seal(self, meta, rows, data, outputs, proof):
            type(self).kept = type(self).kept or proof
            return super().seal(meta, rows, data, outputs, type(self).kept)

    c = Cluster(tmp_path, n_rows=36, workers={LIAR: Replays}).run()
    c.check()
    named(c)
    assert [status[0] for status, _ in c.kept(LIAR)] == [1, 2, 2]  # the first was true, and stays verified
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == LIAR).sum() == 4


def test_up_to_max_rejections_a_rank_may_go_on_with_other_rows(tmp_path):
    c = Cluster(tmp_path, n_rows=120, ranks=4, round_rows=40, max_rejections=3, batch=4)
    lies = iter([True, False, False, True] + [False] * 99)
    c.ranks[LIAR].prover.prove = lambda rows: forged(rows) if next(lies) else prove(rows)
    c.run()
    c.check()
    liar = c.members[LIAR]
    assert (
        liar.rejections == 2 and len(liar.evidence) == 2 and liar.fate is Fate.OK and liar.rows_verified > 0
    )
    assert (c.status == RowStatus.VERIFIED).all()
    refused = [
        row
        for task, (rows, status) in c.verifier.said.items()
        if c.bundles[task][0] == LIAR
        for row, s in zip(rows, status, strict=True)
        if s == RowStatus.REJECTED
    ]
    assert refused == [14, 15, 16, 17, 26] and LIAR not in c.aggregator.rank_of[refused]


def test_a_row_whose_output_was_a_lie_does_not_go_back_to_the_liar(tmp_path):
    class AltersRow0(Worker):
        def infer(self, rows, data):
            return super().infer(rows, data) + np.where(rows == 0, np.float32(9), 0)[:, None].astype(
                np.float32
            )

    c = Cluster(tmp_path, n_rows=8, ranks=2, max_rejections=2, workers={1: AltersRow0}).run()
    c.check()
    assert c.status.tolist() == [RowStatus.REJECTED, *[RowStatus.VERIFIED] * 7]
    assert c.members[1].rejections == 1 and c.members[1].fate is Fate.OK and c.members[1].rows == 8


def test_the_third_rejection_of_three_expels(tmp_path):
    c = Cluster(
        tmp_path, n_rows=60, max_rejections=3, provers={LIAR: FakeProver(forged)}, verdict_delay=1
    ).run()
    c.check()
    liar = c.members[LIAR]
    assert liar.fate is Fate.EXPELLED and liar.fate_reason == "3 rejected; last: the proof does not verify"
    assert liar.rejections == 3  # its last two were not even ordered
    assert (c.status == RowStatus.VERIFIED).all()


def test_an_expelled_rank_is_not_listened_to(tmp_path):
    c = Cluster(tmp_path, n_rows=24, provers={LIAR: FakeProver(forged), 1: FakeProver(delay=4)})
    c.until(lambda: c.members[LIAR].fate is Fate.EXPELLED)
    rejections = c.members[LIAR].rejections
    c.ranks[LIAR].tamper = lambda own: own + [
        outputs_of(0),
        Report("envelope", {"bundle": 1}),
        Report("sing"),
        Report("error", {"text": "end the job!", "exit_code": 1}),
    ]
    c.run()
    c.check()
    assert c.members[LIAR].rejections == rejections and (c.status == RowStatus.VERIFIED).all()


def test_proofs_of_an_expelled_rank_that_are_being_verified_still_count(tmp_path):
    c = Cluster(tmp_path, n_rows=24, ranks=3, verdict_delay=3)
    c.until(lambda: c.verifier.outstanding >= 6)
    c.ranks[LIAR].tamper = lambda own: [Report("sing")]
    c.tick()
    assert c.members[LIAR].fate is Fate.EXPELLED and c.aggregator.proofs_verified == 0
    c.run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all() and (c.aggregator.rank_of == LIAR).sum() == 12
    assert c.members[LIAR].rows_verified == 12


def test_without_reassign_no_other_rank_sees_the_rows(tmp_path):
    c = Cluster(
        tmp_path, n_rows=60, round_rows=30, reassign=False, provers={LIAR: FakeProver(forged)}, batch=4
    ).run()
    c.check()
    given = c.data[[row for o in c.ranks[LIAR].orders if o.kind == "infer" for row in o.rows]][:, 0].astype(
        int
    )
    mine = np.isin(np.arange(60), given)
    assert 0 < mine.sum() < 60
    assert (c.status[~mine] == RowStatus.VERIFIED).all()
    assert np.isin(c.status[mine], (RowStatus.REJECTED, RowStatus.LOST)).all()
    assert (c.status[mine] == RowStatus.REJECTED).sum() >= 4
    for r in (1, 3):
        seen = [row for o in c.ranks[r].orders if o.kind == "infer" for row in o.rows]
        assert not mine[seen].any()


def test_without_reassign_a_replica_that_was_never_sent_may_still_be(tmp_path):
    """After a rank is expelled, the next round's rows go to all that are left."""
    c = Cluster(
        tmp_path,
        n_rows=36,
        ranks=4,
        round_rows=12,
        strategy="redundant",
        replicas=3,
        reassign=False,
        provers={LIAR: FakeProver(forged)},
    ).run()
    c.check()
    late = c.aggregator.status[24:]
    assert ((late == RowStatus.VERIFIED).sum(axis=1) == 2).all() and (
        (late == RowStatus.LOST).sum(axis=1) == 1
    ).all()
    assert (c.status == RowStatus.VERIFIED).all()


def test_replicas_of_a_liar_end_rejected_where_no_other_rank_is_left(tmp_path):
    c = Cluster(
        tmp_path, n_rows=12, ranks=3, strategy="redundant", replicas=2, provers={LIAR: FakeProver(forged)}
    ).run()
    c.check()
    assert (c.status == RowStatus.VERIFIED).all()  # by rank 1
    mine = c.aggregator.status[c.aggregator.rank_of == LIAR]
    assert (mine == RowStatus.REJECTED).all() and len(mine) == 12
    named(c)


def test_the_file_names_the_liar_and_keeps_its_evidence(tmp_path):
    c = Cluster(tmp_path, n_rows=24, provers={LIAR: FakeProver(forged)}).run()
    c.check_file()
    with read_results(tmp_path / "results.h5") as results:
        line = results.ranks[LIAR]
        proofs = [results.proof(i) for i in range(results.n_proofs)]
    assert line["fate"] == "expelled" and line["fate_reason"] == "1 rejected; last: the proof does not verify"
    assert line["rejections"] == 2 and line["rows_verified"] == 0
    refused = [p for p in proofs if p.rank == LIAR]
    assert [p.verdict for p in refused] == ["the proof does not verify"] * 2
    assert [decode(p.envelope).computation for p in refused] == [b"forged"] * 2


def test_where_every_rank_lies_every_row_ends_unverified_and_the_job_ends(tmp_path):
    c = Cluster(
        tmp_path,
        n_rows=30,
        ranks=3,
        round_rows=10,
        provers={1: FakeProver(forged), 2: FakeProver(other_weights)},
    ).run()
    c.check()
    assert not c.aggregator.draining and not (c.status == RowStatus.VERIFIED).any()
    assert (
        np.isin(c.status, (RowStatus.REJECTED, RowStatus.LOST)).all()
        and (c.status[10:] == RowStatus.LOST).all()
    )
    assert all(m.fate is Fate.EXPELLED for r, m in c.members.items() if r)


def test_where_every_replica_lies_rows_have_one_status_in_journal_and_memory(tmp_path):
    c = Cluster(
        tmp_path,
        n_rows=9,
        ranks=4,
        strategy="redundant",
        replicas=3,
        coarse=(4,),
        provers={1: FakeProver(forged), 3: FakeProver(other_weights)},
        workers={2: Alters},
    ).run()
    c.check()  # compares them
    assert not (c.status == RowStatus.VERIFIED).any() and not (c.status == RowStatus.PENDING).any()
