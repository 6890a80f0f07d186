"""Test doubles: a proof system that decides by rule, and a cluster of simulated ranks without MPI.

The model is linear, ``rows @ WEIGHTS``; a row's first value is its number in the dataset, so that the
verifier knows which rows it was shown. A "proof" is a digest of the rows that were proved. There are two
circuits, the primary and the wider fallback; a row's second value says what they make of it.

Letters: N rows, B rows per bundle, D outputs per row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np

from enclaveml import aggregator as aggregator_module
from enclaveml.aggregator import Aggregator
from enclaveml.circuits import Circuits
from enclaveml.ledger import final_status
from enclaveml.exchange import Order, Outbox, Report
from enclaveml.job import (
    AuditSpec,
    ClusterSpec,
    CombineSpec,
    InputSpec,
    JobSpec,
    ModelSpec,
    OutputSpec,
    ProofSpec,
    SplitSpec,
)
from enclaveml.journal import Journal, read_records
from enclaveml.journal_format import Record
from enclaveml.journal_index import index_journal
from enclaveml.results import build_results, read_results
from enclaveml.ledger import DONE
from enclaveml.resume import Resume
from enclaveml.roster import Member
from enclaveml.sampling import fraction
from enclaveml.worker import Worker
from enclaveml.zk.ezkl.files import SETTINGS, VERIFIER_SRS, VK
from enclaveml.zk.interface import (
    FALLBACK,
    INCONSISTENT,
    PRIMARY,
    REJECTED,
    VERIFIED,
    Circuit,
    Proof,
    ProofResult,
    Verdict,
)
from enclaveml.zk.verdict import rejection

B, D, WIDTH, SCALE, TOLERANCE = 4, 3, 5, 16, 0.01
#: Bytes of one slice's proof.
SLICE_BYTES = 32
#: Rows in one proof at the fallback.
B_WIDE = 3
WEIGHTS = np.random.default_rng(5).normal(size=(WIDTH - 1, D)).astype(np.float32)
#: Rows with this as their second value are too coarse in fixed point: honest, and beyond the tolerance;
#: the next ones so at the fallback too.
COARSE, COARSER = 77.0, 78.0
#: Rows that leave the primary circuit's range, and such as leave the fallback's too.
BIG, HUGE = 99.0, 100.0


def dataset(n: int, coarse: tuple[int, ...] = (), **special: tuple[int, ...]) -> np.ndarray:
    """N rows (N, WIDTH) float32, the first value of each its number; ``special``: coarser, big or huge rows."""
    data = np.random.default_rng(n).uniform(-1, 1, (n, WIDTH)).astype(np.float32)
    data[:, 0] = np.arange(n)
    data[list(coarse), 1] = COARSE
    for name, value in (("coarser", COARSER), ("big", BIG), ("huge", HUGE)):
        data[list(special.pop(name, ())), 1] = value
    assert not special
    return data


def _exact(rows: np.ndarray) -> np.ndarray:
    """(n, D) float64. No BLAS: a row's bits must not depend on its batch."""
    return sum(rows[:, 1 + i, None].astype(np.float64) * WEIGHTS[i] for i in range(WIDTH - 1))


def model(rows: np.ndarray) -> np.ndarray:
    """Float outputs (n, D) float32."""
    return _exact(rows).astype(np.float32)


def fixed(rows: np.ndarray, wide: bool = False) -> np.ndarray:
    """What an honest proof says the outputs are, (n, D) int64."""
    off = (rows[:, 1] == COARSER) | ((rows[:, 1] == COARSE) & (not wide))
    return np.round((_exact(rows) + off[:, None]) * 2**SCALE).astype(np.int64)


def digest(rows: np.ndarray, wide: bool = False) -> bytes:
    return (b"wide " if wide else b"") + b"proof of " + hashlib.sha256(np.ascontiguousarray(rows).tobytes()).digest()


def prove(rows: np.ndarray, wide: bool = False, slices: int = 1) -> Proof:
    """An honest proof of (n, WIDTH) rows; the last is repeated up to B. Of several slices: SLICE_BYTES for each."""
    padded = np.concatenate([rows, np.repeat(rows[-1:], (B_WIDE if wide else B) - len(rows), axis=0)])
    computation = digest(rows, wide) if slices == 1 else b"".join(
        hashlib.sha256(bytes([number]) + digest(rows)).digest() for number in range(slices))
    return Proof(computation, b"", fixed(padded, wide))


def slices_in(computation: bytes) -> list[bytes]:
    """The slices' parts of a proof."""
    return [computation[at: at + SLICE_BYTES] for at in range(0, len(computation), SLICE_BYTES)]


def overflow(rows: np.ndarray, wide: bool = False) -> tuple[int, ...]:
    """Places of the rows that a circuit has no witness for."""
    return tuple(np.flatnonzero((rows[:, 1] == HUGE) | ((rows[:, 1] == BIG) & (not wide))).tolist())


class FakeProver:
    """Proves after ``delay`` polls, ``children`` at a time; ``fails`` says why a task fails, or nothing."""

    def __init__(
        self,
        prove: Callable[[np.ndarray], Proof] = prove,
        delay: int = 0,
        fails: Callable[[int], str] = lambda task: "",
        children: int = 1 << 30,
        overflow: Callable[[np.ndarray], tuple[int, ...]] = overflow,
    ) -> None:
        self.overflow = overflow
        self.prove, self.delay, self.fails, self.children = prove, delay, fails, children
        self.waiting: list[tuple[int, np.ndarray]] = []
        self.ready_at: dict[int, int] = {}
        self.timeouts: dict[int, float] = {}
        self.sizes: dict[int, int] = {}
        self.nonces: dict[int, bytes] = {}
        self.closed = False
        self.polls = 0

    def submit(self, task: int, rows: np.ndarray, timeout_s: float, nonce: bytes, input_key: bytes = b"") -> None:
        self.nonces[task] = nonce
        self.waiting.append((task, rows))
        self._begin()
        self.timeouts[task], self.sizes[task] = timeout_s, len(rows)

    def _begin(self) -> None:
        for task, _ in self.waiting[: self.children]:
            self.ready_at.setdefault(task, self.polls + self.delay)

    def cancel(self, task: int) -> bool:
        before = len(self.waiting)
        self.waiting = [w for w in self.waiting if w[0] != task]
        self._begin()
        return len(self.waiting) < before

    def poll(self) -> list[ProofResult]:
        self.polls += 1
        ready = [w for w in self.waiting if self.ready_at.get(w[0], self.polls) < self.polls]
        self.waiting = [w for w in self.waiting if self.ready_at.get(w[0], self.polls) >= self.polls]
        self._begin()
        results = []
        for task, rows in ready:
            error, out = self.fails(task), self.overflow(rows)
            if out and not error:
                results.append(ProofResult(task, None, "a value is out of range", 0.25, 0.0, out))
            else:
                results.append(ProofResult(task, None if error else self.prove(rows), error, 0.25, 0.5))
        return results

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    def close(self) -> None:
        self.closed = True


class SlicedProver(FakeProver):
    """Proves in slices, one after the other in the ``delay``, from the first or from the last on."""

    def __init__(self, slices: int, **more: object) -> None:
        super().__init__(**{"prove": lambda rows: prove(rows, slices=slices), **more})
        self.slices = slices
        self.given: dict[int, int] = {}
        self.backward: set[int] = set()

    def submit_backward(self, task: int, rows: np.ndarray, timeout_s: float) -> None:
        self.backward.add(task)
        self.submit(task, rows, timeout_s, b"")

    def poll_slices(self) -> list[ProofResult]:
        parts = []
        for task, rows in self.waiting:
            if task not in self.ready_at or self.fails(task) or self.overflow(rows):
                continue
            since = self.polls - self.ready_at[task] + self.delay
            for number in range(self.given.get(task, 0), min(self.slices - 1, since * self.slices // max(1, self.delay))):
                self.given[task] = number + 1
                which = self.slices - 1 - number if task in self.backward else number
                proof = self.prove(rows)
                part = Proof(slices_in(proof.computation)[which], b"", proof.outputs)
                parts.append(ProofResult(task, part, "", 0.0, 0.25, slice=which))
        return parts


def wide_prover(**more: object) -> FakeProver:
    """A prover at the fallback circuit."""
    return FakeProver(
        **{"prove": lambda rows: prove(rows, wide=True), "overflow": lambda rows: overflow(rows, wide=True), **more}
    )


class FakeVerifier:
    """Accepts exactly what ``prove`` makes of rank 0's own rows at its circuit; answers after ``delay`` polls.

    ``said``: task to (dataset rows, status), everything it ever said. ``undecided``: tasks at which rank 0's own child fails.
    """

    def __init__(self, delay: int = 0, wide: bool = False, slices: int = 1, undecided: Callable[[int], bool] = lambda task: False) -> None:
        self.undecided = undecided
        self.delay, self.polls, self.wide, self.slices = delay, 0, wide, slices
        self.joined: set[int] = set()
        self.waiting: list[tuple[int, Verdict]] = []
        self.said: dict[int, tuple[list[int], list[int]]] = {}
        self.nonces: dict[int, bytes] = {}

    def submit(self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray, nonce: bytes,
               input_key: bytes = b"") -> None:
        assert task not in self.said
        self.nonces[task] = nonce
        n = len(rows)
        if self.undecided(task):
            self.said[task] = rows[:, 0].astype(int).tolist(), [REJECTED] * n
            self.waiting.append((self.polls + self.delay, rejection(task, n, D, "commit: the child died", 0.125, undecided=True)))
            return
        honest = prove(rows, self.wide, self.slices)
        proved = proof.outputs[:n] / 2.0**SCALE
        with np.errstate(invalid="ignore"):
            deviation = np.abs(proved - float_outputs).max(axis=1)
            status = np.where(deviation <= TOLERANCE, VERIFIED, INCONSISTENT).astype(np.uint8)
        text = "" if (status == VERIFIED).all() else "beyond the tolerance"
        if proof.computation != honest.computation or (proof.outputs != honest.outputs).any():
            status, text, proved = (
                np.full(n, REJECTED, np.uint8),
                "the proof does not verify",
                np.full((n, D), np.nan),
            )
        self.said[task] = rows[:, 0].astype(int).tolist(), status.tolist()
        with np.errstate(invalid="ignore"):
            differs = proved.argmax(axis=1) != float_outputs.argmax(axis=1)
        self.waiting.append(
            (self.polls + self.delay, Verdict(task, status, text, proved, deviation, differs, 0.125))
        )

    def submit_joined(self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray) -> None:
        self.joined.add(task)
        self.submit(task, rows, proof, float_outputs, b"")
        at, verdict = self.waiting.pop()
        honest = prove(rows, slices=self.slices)
        wrong = {i for i, (a, b) in enumerate(zip(slices_in(proof.computation), slices_in(honest.computation), strict=True)) if a != b}
        wrong |= {self.slices - 1} if (proof.outputs != honest.outputs).any() else set()
        assert bool(wrong) == bool((verdict.status == REJECTED).any())
        self.waiting.append((at, dataclasses.replace(verdict, faults=tuple(sorted(wrong)))))

    def poll(self) -> list[Verdict]:
        self.polls += 1
        ready = [v for at, v in self.waiting if at < self.polls]
        self.waiting = [w for w in self.waiting if w[0] >= self.polls]
        return ready

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    def close(self) -> None:
        self.waiting.clear()


class SlicedCircuit(Circuit):
    """A fake circuit in slices; its files are those of a whole one."""

    @property
    def slices(self) -> int:
        return self.proof_bytes // SLICE_BYTES

    def slice_bytes(self, number: int) -> int:
        return SLICE_BYTES


def a_circuit(folder: Path, wide: bool = False, slices: int = 1) -> Circuit:
    for name in (VK, SETTINGS, VERIFIER_SRS):
        (folder / name).write_bytes(b"{}")
    return (Circuit if slices == 1 else SlicedCircuit)(
        system="ezkl",
        version="1",
        circuit_id=("c2" if wide else "c1") * 32,
        model_hash="ab" * 32,
        rows=B_WIDE if wide else B,
        outputs=D,
        row_shape=(WIDTH,),
        dtype="float32",
        input_scale=8,
        output_scale=SCALE,
        tolerance=TOLERANCE,
        inputs="public",
        inputs_bounded=True,
        deviation=0.0,
        agreement=1.0,
        samples=1,
        logrows=10,
        proof_bytes=64 if slices == 1 else slices * SLICE_BYTES,
        srs_origin="test",
        settings={},
        measured={},
        files={},
        folder=folder,
        role=FALLBACK if wide else PRIMARY,
    )


def a_job(
    strategy: str = "by_capacity",
    replicas: int = 2,
    capacity: str = "memory",
    reassign: bool = True,
    coverage: float = 1.0,
    max_rejections: int = 1,
    timeout_s: float = 10.0,
    audit: AuditSpec | None = None,
    beacon: Path | None = None,
    beacon_wait_s: float = 60.0,
    recheck: float = 0.0,
    private_weights: bool = False,
) -> JobSpec:
    return JobSpec(
        name="test",
        model=ModelSpec("m.py:M", {}, None, None),
        input=InputSpec(Path("x.npz"), None, None),
        split=SplitSpec(strategy, replicas, capacity, reassign),
        proof=ProofSpec(
            coverage=fraction(audit.undetected_bad_rows, audit.confidence) if audit else coverage,
            audit=audit,
            beacon=beacon,
            beacon_wait_s=beacon_wait_s,
            recheck=recheck,
            private_weights=private_weights,
            max_rejections=max_rejections,
            timeout_s=timeout_s,
        ),
        combine=CombineSpec(),
        output=OutputSpec(Path("results.h5")),
        cluster=ClusterSpec(),
        path=Path("job.yaml"),
        given="",
    )


def a_member(rank: int, capacity: float = 1.0, computes: bool = True) -> Member:
    return Member(
        rank=rank,
        node_id=f"node-{rank}",
        host="here",
        local_rank=rank,
        device="cpu",
        memory_gb=1.0,
        cores=1.0,
        capacity=capacity,
        computes=computes,
        children=2,
    )


def a_journal(path: Path, job: JobSpec, n_rows: int, members: list[Member], circuit: Circuit) -> Journal:
    """A real journal with the records that come before the first round."""
    journal = Journal.create(path)
    journal.append(
        "start",
        {
            "job": "job: {name: test}\n",
            "job_given": "",
            "inputs": "public",
            "strategy": job.split.strategy,
            "versions": {},
            "model_hash": circuit.model_hash,
            "dataset_fingerprint": "00" * 32,
            "rows": n_rows,
            "outputs": D,
            "started": "2026-01-01T00:00:00Z",
            "ranks": [{"rank": m.rank, "node_id": m.node_id, "host": m.host} for m in members],
        },
    )
    return journal


@dataclass
class Rank:
    """One simulated rank. ``tamper`` turns the reports of a tick into what is sent."""

    worker: Worker
    prover: FakeProver
    outbox: Outbox
    tamper: Callable[[list[Report]], list[Report]] = lambda reports: reports
    alive: bool = True
    orders: list[Order] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


class Cluster:
    """Simulated ranks around a real aggregator: orders and reports are handed over, a tick at a time.

    ``workers``: rank to a Worker class (default Worker); ``provers``: rank to a prover; ``tamper``:
    rank to a function of its reports. Rank 0 only aggregates unless it is alone. ``fallback``: there is a
    fallback circuit, with ``wide`` for the ranks' provers at it; ``special``: rows as of ``dataset``.
    """

    def __init__(
        self,
        folder: Path,
        n_rows: int = 24,
        ranks: int = 4,
        *,
        round_rows: int = 1 << 16,
        capacities: tuple[float, ...] | None = None,
        batch: int = 8,
        coarse: tuple[int, ...] = (),
        special: dict[str, tuple[int, ...]] = {},
        fallback: bool = False,
        wide: dict[int, FakeProver] | None = None,
        workers: dict[int, type[Worker]] | None = None,
        provers: dict[int, FakeProver] | None = None,
        tamper: dict[int, Callable[[list[Report]], list[Report]]] | None = None,
        verdict_delay: int = 0,
        resume: bool = False,
        slices: int = 1,
        **job: object,
    ) -> None:
        self.folder, self.n_rows = folder, n_rows
        self.data = dataset(n_rows, coarse, **special)
        self.job = a_job(**job)
        weights = capacities or (1.0,) * ranks
        self.members = {r: a_member(r, weights[r], r > 0 or ranks == 1) for r in range(ranks)}
        self.circuit = a_circuit(folder, slices=slices)
        self.proving = self.job.proof.coverage > 0
        self.fallback = a_circuit(folder, wide=True) if fallback else None
        self.verifier, self.wide_verifier = FakeVerifier(verdict_delay, slices=slices), FakeVerifier(verdict_delay, wide=True)
        self.opened: list[str] = []
        self.boxes = {r: Outbox() for r in range(ranks)}
        self.ranks: dict[int, Rank] = {}
        for r in range(ranks):
            outbox = Outbox()
            prover = (provers or {}).get(r) or (FakeProver() if slices == 1 else SlicedProver(slices))
            worker = (workers or {}).get(r, Worker)(
                model,
                batch,
                prover if self.proving else None,
                2,
                self.circuit if self.proving else None,
                f"node-{r}",
                "job-1",
                outbox,
                (self.fallback, (wide or {}).get(r) or wide_prover()) if fallback else None,
            )
            self.ranks[r] = Rank(worker, prover, outbox)
            if r in (tamper or {}):
                self.ranks[r].tamper = tamper[r]
        path = folder / "results.h5.journal"
        before = None
        if resume:
            before = Resume.load(path)
            self.journal = Journal.open_append(path)
            self.journal.append(
                "resume",
                {
                    "started": "2026-01-02T00:00:00Z",
                    "versions": {},
                    "ranks": [{"rank": r} for r in range(ranks)],
                },
            )
        else:
            self.journal = a_journal(path, self.job, n_rows, list(self.members.values()), self.circuit)
        weakref.finalize(self, self.journal.close)
        self.reads: list[tuple[int, int]] = []
        self.ticks = 0
        with mock.patch.object(aggregator_module, "ROUND_ROWS", round_rows):
            self.aggregator = Aggregator(
                self.job,
                n_rows,
                self._read,
                Circuits(
                    tuple(c for c in (self.circuit, self.fallback) if c) if self.proving else (),
                    self._verifier_of,
                    self.journal,
                    before.circuit_ids if before else (),
                ),
                D,
                self.members,
                self.boxes,
                self.journal,
                model,
                row_bytes=4 * WIDTH,
                job_id="job-1",
                clock=lambda: float(self.ticks),
            )
        if before is not None:
            self.aggregator.go_on(before)
        self.bundles: dict[int, tuple[int, list[int]]] = {}
        self.open_rounds = 0

    def _verifier_of(self, circuit: Circuit) -> FakeVerifier:
        self.opened.append(circuit.role)
        return self.verifier if circuit is self.circuit else self.wide_verifier

    def _read(self, start: int, stop: int) -> np.ndarray:
        self.reads.append((start, stop))
        return self.data[start:stop]

    def tick(self, work: bool = True) -> None:
        """One tick of everybody."""
        self.ticks += 1
        arrived: list[tuple[int, Report]] = []
        for r, rank in self.ranks.items():
            if not rank.alive:
                continue
            if work:
                rank.worker.work()
            reports = [report for _, report in rank.outbox.pending()]
            rank.outbox.read_up_to(1 << 60)
            reports = rank.tamper(reports)
            rank.reports += reports
            arrived += [
                (r, Report(p.kind, json.loads(json.dumps(dict(p.meta))), p.rows, p.outputs, p.blob))
                for p in reports
            ]
        self.aggregator.step(arrived)
        assert self.aggregator.rows_done == self.ended
        self.open_rounds = max(self.open_rounds, len(self.aggregator.rounds))
        for r, rank in self.ranks.items():
            for _, order in self.boxes[r].pending():
                rank.orders.append(order)
                if order.kind == "prove":
                    assert order.meta["bundle"] not in self.bundles
                    self.bundles[order.meta["bundle"]] = r, order.rows.tolist()
                if rank.alive:
                    meta = json.loads(json.dumps(dict(order.meta)))
                    rank.worker.take(Order(order.kind, meta, order.rows, order.data))
            self.boxes[r].read_up_to(1 << 60)

    @property
    def ended(self) -> int:
        """How many rows have ended, counted from the rounds."""
        a = self.aggregator
        ended = (a.status == VERIFIED).all(axis=1)
        ended[: a.accounts.begun] = True
        for r in a.rounds.values():
            ended[r.start : r.start + len(r.data)] = (r.stage == DONE).all(axis=1)
        return int(ended.sum())

    def run(self, most: int = 400) -> Cluster:
        """Tick to the end; a job that does not end is a failure."""
        while not self.aggregator.finished:
            assert self.ticks < most, f"not finished after {most} ticks"
            self.tick()
        return self

    def until(self, condition: Callable[[], bool], most: int = 200) -> None:
        """Tick until something holds."""
        while not condition():
            assert self.ticks < most, f"not reached after {most} ticks"
            self.tick()

    def kill(self, r: int) -> None:
        """A rank dies: it does nothing more, and rank 0 hears of it."""
        self.ranks[r].alive = False
        self.aggregator.lose(r, "died: test")

    @property
    def status(self) -> np.ndarray:
        """The rows' statuses (N,) as rank 0 has them."""
        return final_status(self.aggregator.status)

    def check(self) -> None:
        """What must hold of every run, however it went, in memory and by the journal."""
        aggregator = self.aggregator
        told = {}
        for task, (rows, status) in (*self.verifier.said.items(), *self.wide_verifier.said.items()):
            if task in self.verifier.joined:  # rank 0's own bundle, about rows that two ranks were ordered to prove
                assert sum(ordered == rows for _, ordered in self.bundles.values()) >= 2
                ordered, rank = rows, next((r.meta["rank"] for r in self.records("bundle") if r.meta["bundle"] == task), -1)
            else:
                rank, ordered = self.bundles[task]
            assert rows == ordered, "the verifier was shown other rows than were ordered"
            told.update({(row, rank): row for row, s in zip(rows, status, strict=True) if s == VERIFIED})
        rows, slots = np.nonzero(aggregator.status == VERIFIED)
        for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            rank = int(aggregator.rank_of[row, slot])
            assert (row, rank) in told, f"row {row} of rank {rank} was never verified"
        assert (aggregator.proved[rows, slots] == fixed(self.data[rows], wide=True) / 2.0**SCALE).all()
        for row in range(self.n_rows):
            ranks = aggregator.rank_of[row, aggregator.status[row] == VERIFIED].tolist()
            assert len(set(ranks)) == len(ranks), f"row {row} was verified twice of one rank"
        index = index_journal(self.journal.path)
        found = index.states.status
        if aggregator.draining:
            assert ((found == VERIFIED) == (self.status == VERIFIED)).all()
        else:
            assert not aggregator.rounds, "a round that has ended is still held"
            assert found.tolist() == self.status.tolist()
        good = index.answers.status == VERIFIED
        assert set(
            zip(index.answers.row[good].tolist(), index.answers.rank[good].tolist(), strict=True)
        ) == set(zip(rows.tolist(), aggregator.rank_of[rows, slots].tolist(), strict=True))
        self.index = index

    def check_sharing(self) -> None:
        """What must hold of rows that went to other ranks for speed: counted once each, and no rank twice."""
        moved_in, moved_out, copies, discarded = (dict.fromkeys(self.ranks, 0) for _ in range(4))
        had: dict[int, set[int]] = {}
        pairs: dict[int, int] = {}
        for record in self.records("move", "copy", "discard"):
            meta, rows = record.meta, record.arrays["rows"].tolist()
            if record.kind == "discard":
                discarded[meta["rank"]] += 1
                assert pairs.pop(meta["bundle"]) == meta["for"] and pairs.pop(meta["for"]) == meta["bundle"]
                continue
            for row in rows:
                assert meta["to"] not in had.setdefault(row, set()), f"row {row} went to a rank twice"
                had[row] |= {meta["from"], meta["to"]}
            if record.kind == "copy":
                copies[meta["to"]] += 1
                pairs[meta["bundle"]], pairs[meta["copy"]] = meta["copy"], meta["bundle"]
            else:
                moved_out[meta["from"]] += len(rows)
                moved_in[meta["to"]] += len(rows)
        for r, member in self.members.items():
            counted = member.rows_moved_in, member.rows_moved_out, member.copies, member.discarded
            assert counted == (moved_in[r], moved_out[r], copies[r], discarded[r])
        if not self.job.split.reassign or self.job.proof.coverage < 1:
            assert not had

    def check_file(self) -> None:
        """``check``, and that the file made of the journal says the same."""
        self.check()
        build_results(self.journal.path, self.folder / "results.h5")
        with read_results(self.folder / "results.h5") as results:
            assert results.row("status").tolist() == self.index.states.status.tolist()
            verified = results.row("status") == VERIFIED
            assert (results.proved_outputs()[verified] == fixed(self.data[verified], wide=True) / 2.0**SCALE).all()
            assert results.outputs()[verified].tobytes() == model(self.data)[verified].tobytes()

    def kept(self, rank: int) -> list[tuple[np.ndarray, bytes]]:
        """What the journal keeps of a rank's bundles: (status (n,), envelope)."""
        return [
            (r.arrays["status"], r.blobs["envelope"])
            for r in read_records(self.journal.path, kinds={"bundle"})
            if r.meta["rank"] == rank
        ]

    def records(self, *kinds: str) -> Iterator[Record]:
        """The journal's records of these kinds."""
        return read_records(self.journal.path, kinds=set(kinds))
