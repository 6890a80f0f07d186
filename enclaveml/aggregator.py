"""Rank 0's side: which rank gets which rows, what is believed of what it sends back.

The aggregator is a state machine without MPI: ``run`` hands it the reports of each
tick and sends the orders that it puts into the boxes. What a row must pass before it
is ``verified`` stands in ``SOUNDNESS.md``; in short, the proof holds for a statement
that rank 0 built from its own rows and keys and from the float outputs that the rank
was bound to before it proved.

Letters: N rows in the dataset, B rows per bundle, D outputs per row, r replicas.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping

import numpy as np

from enclaveml import shards
from enclaveml.admission import admit
from enclaveml.errors import FormatError, RemoteFailure
from enclaveml.exchange import Order, Outbox, Report
from enclaveml.job import JobSpec
from enclaveml.journal import Journal
from enclaveml.ledger import CHECKING, DONE, IDLE, PROVING, READY, SENT, Bundle, Round, Unassigned, final_status
from enclaveml.provenance import utc_now
from enclaveml.results_schema import RowStatus
from enclaveml.resume import ResumeState
from enclaveml.roster import Fate, Member
from enclaveml.silence import Silence, limit_s
from enclaveml.zk.interface import Circuit, Verdict, Verifier

log = logging.getLogger(__name__)

# Rows of one round: enough to keep everybody busy, few enough that rank 0 holds two in memory.
ROUND_BYTES = 1 << 26
ROUND_ROWS = 1 << 16

# A row that failed without a lie (time-out, crashed child) is tried this often in all.
MAX_ATTEMPTS = 3

# An honest rank's float output differs from rank 0's by rounding on another device.
# A quarter of the tolerance is far above that (1e-5 at full float32 precision) and
# leaves no room for an output that was moved enough to matter.
HONEST_SHARE = 0.25

# As much of an envelope that could not be read is kept as evidence.
EVIDENCE_BYTES = 1 << 20


class Aggregator:
    """Decides over rows; the only one that calls a row verified.

    Args:
        read: dataset rows [start, stop) as (stop - start, *row_shape).
        reference: rank 0's own float model, rows (n, *row_shape) to (n, D).
        members: rank id to member; mutated as things happen.
        boxes: rank id to the outbox of its orders.
        circuit, verifier: None where nothing is proved (coverage 0).
        job_id: what workers label their envelopes with.
    """

    def __init__(self, job: JobSpec, n_rows: int, read: Callable[[int, int], np.ndarray], circuit: Circuit | None,
                 outputs: int, verifier: Verifier | None, members: Mapping[int, Member], boxes: Mapping[int, Outbox],
                 journal: Journal, reference: Callable[[np.ndarray], np.ndarray], row_bytes: int,
                 job_id: str = "") -> None:
        self.job, self.n_rows, self.circuit, self.members = job, n_rows, circuit, members
        self.outputs = outputs
        self._read, self._verifier, self._boxes = read, verifier, boxes
        self._journal, self._reference, self._job_id = journal, reference, job_id
        self.replicas = job.split.replicas if job.split.strategy == "redundant" else 1
        self.round_rows = max(1, min(ROUND_ROWS, ROUND_BYTES // max(1, row_bytes), n_rows))
        self.rounds: dict[int, Round] = {}
        self._next_round = 0
        self._n_rounds = -(-n_rows // self.round_rows)
        self._bundles: dict[int, Bundle] = {}
        self._checking: dict[int, tuple[Bundle, bytes]] = {}
        self._next_bundle = 1
        self.settled = np.zeros(n_rows, np.uint8)
        self.rank_of = np.full((n_rows, self.replicas), -1, np.int32)
        self.status = np.zeros((n_rows, self.replicas), np.uint8)
        self.proved = np.full((n_rows, self.replicas, outputs), np.nan, np.float64)
        self.proofs_verified = self.bundles_rejected = self.argmax_flips = 0
        self.verify_seconds = 0.0
        self._counted: set[int] = set()
        self.draining = False
        self._drained: set[int] = set()
        self._silence = Silence()

    # -- what the run asks -------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every row has ended, or, when draining, whatever was in hand."""
        if self.draining:
            waiting = {m.rank for m in self.members.values() if m.working} - self._drained
            return not waiting and not self._checking
        return self._next_round >= self._n_rounds and not self.rounds

    @property
    def rows_done(self) -> int:
        """Rows that have ended, of ``n_rows``."""
        return int((self.settled > 0).sum())

    def go_on(self, before: ResumeState) -> None:
        """Take over what earlier sessions verified, before the first step.

        The k-th answer to a row takes its k-th slot.
        """
        order = np.argsort(before.rows, kind="stable")
        rows = before.rows[order]
        slots = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = slots < self.replicas
        order, rows, slots = order[kept], rows[kept], slots[kept]
        self.status[rows, slots], self.rank_of[rows, slots] = RowStatus.VERIFIED, before.ranks[order]
        self.proved[rows, slots] = before.proved[order]
        self.settled[:] = (self.status == RowStatus.VERIFIED).all(axis=1)
        self._next_bundle, self._counted = before.next_bundle, set(before.rounds)

    def drain(self) -> None:
        """Stop early: what is in hand is finished and kept, nothing new is begun."""
        self.draining = True
        for member in self.members.values():
            if member.working:
                self._boxes[member.rank].put(Order("drain"))

    def step(self, reports: list[tuple[int, Report]]) -> None:
        """Take in a tick's reports, and verdicts that are ready; hand out what follows from them.

        Raises:
            RemoteFailure: a rank's own program failed; the job ends.
        """
        for rank, report in reports:
            self._silence.heard(rank)
            self._take(rank, report)
        for rank, seconds in self._silence.step(self._owing()).items():
            self._lose_silent(rank, seconds)
        for verdict in self._verifier.poll() if self._verifier else ():
            self._conclude(verdict)
        if not self.draining and self._stranded:
            self.draining = True  # nobody is left to compute, and not for lies: the job can be resumed
        if not self.draining:
            for round_ in self.rounds.values():
                self._hand_out_idle(round_)
                self._order_proofs(round_)
        for round_ in [r for r in self.rounds.values() if r.closed]:
            self._close(round_)
        if self._next_round >= self._n_rounds and not self.rounds:
            self.draining = False  # what was in hand was all there was
        while self._may_open:
            self._open_round()

    @property
    def _stranded(self) -> bool:
        members = self.members.values()
        return not any(m.working for m in members) and any(m.fate is Fate.LOST for m in members)

    def lose(self, rank: int, reason: str) -> None:
        """A rank died: its unfinished rows go to others."""
        member = self.members[rank]
        if member.fate is Fate.OK:
            self._end_member(member, Fate.LOST, reason)

    def _owing(self) -> dict[int, float]:
        """The ranks that owe an answer (outputs, a proof, that they are drained), and how long they may take (s)."""
        ranks = {m.rank for m in self.members.values() if m.working}
        if self.draining:
            owing = ranks - self._drained
        else:
            sent = [np.unique(r.rank[r.stage == SENT]).tolist() for r in self.rounds.values()]
            owing = ranks & {b.rank for b in self._bundles.values()}.union(*sent)
        attempts = dict.fromkeys(owing, 1)
        for bundle in self._bundles.values():
            if bundle.rank in owing:
                attempts[bundle.rank] = max(attempts[bundle.rank], bundle.attempt)
        return {rank: limit_s(self._timeout(attempt)) for rank, attempt in attempts.items()}

    def _lose_silent(self, rank: int, seconds: float) -> None:
        """A rank that answers nothing is given up; it is told to stop, and what it says later is not read."""
        bundles = sum(b.rank == rank for b in self._bundles.values())
        rows = sum(len(r.held_by(rank, SENT)[0]) for r in self.rounds.values())
        self._end_member(self.members[rank], Fate.LOST, f"has not answered for {seconds:.0f} s, with {bundles} bundles "
                                                        f"to prove and {rows} rows to infer in hand")
        self._boxes[rank].put(Order("drain"))

    # -- rounds ------------------------------------------------------------------

    @property
    def _may_open(self) -> bool:
        """Whether the next round is due: of those that are open no more than half is still to be inferred."""
        if self.draining or self._next_round >= self._n_rounds or len(self.rounds) >= 2:
            return False
        return all((r.stage == SENT).mean() <= 0.5 for r in self.rounds.values())

    def _open_round(self) -> None:
        number = self._next_round
        self._next_round += 1
        start, stop = self._bounds(number)
        if (self.status[start:stop] == RowStatus.VERIFIED).all():
            self._count(number)  # an earlier session did it all: its rows are not even read
            return
        round_ = self._make_round(number)
        fresh = round_.rows[(round_.stage == IDLE).all(axis=1)]
        ids, weights, able = self._takers()
        if not len(fresh) or able.sum() < self.replicas:
            return  # _hand_out_idle deals with the rest, or with everything
        plan = shards.split(self.job.split.strategy, fresh, weights, able, self.replicas)
        for p, rank in enumerate(ids):
            rows = plan.rows[plan.displs[p]: plan.displs[p] + plan.counts[p]]
            self._send(round_, rank, rows)

    def _takers(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Rank ids, their weights in the split, and which of them can be given rows, all (P,)."""
        ids = sorted(self.members)
        equal = self.job.split.strategy == "equal"
        weights = np.array([1.0 if equal else self.members[i].capacity for i in ids])
        return ids, weights, np.array([self.members[i].working for i in ids]) & (weights > 0)

    def _bounds(self, number: int) -> tuple[int, int]:
        """The rows of a round: from, and up to but not including."""
        start = number * self.round_rows
        return start, min(self.n_rows, start + self.round_rows)

    def _make_round(self, number: int) -> Round:
        """Open a round, with what is known of its rows ended as it was."""
        start, stop = self._bounds(number)
        round_ = Round(number, start, self._read(start, stop), self.replicas, self.outputs)
        round_.rank[:], round_.status[:] = self.rank_of[start:stop], self.status[start:stop]
        known = round_.status != RowStatus.PENDING
        round_.stage[known], round_.attempt[known] = DONE, 1
        self.rounds[number] = round_
        return round_

    def _send(self, round_: Round, rank: int, rows: np.ndarray) -> None:
        if len(rows):
            round_.assign(rank, rows)
            self.members[rank].rows += len(rows)
            self._boxes[rank].put(Order("infer", {"round": round_.number}, rows, round_.take(rows)))

    def _hand_out_idle(self, round_: Round) -> None:
        """Slots that were taken back go to a rank that has not failed them; where none is left they end."""
        rows = np.unique(round_.idle_rows())
        while len(rows):
            orphans = self._reassign(round_, rows, avoid=True)
            if len(orphans):
                orphans = self._reassign(round_, orphans, avoid=False)
            if len(orphans):
                self._give_up(round_, orphans)
            rows = np.unique(round_.idle_rows())

    def _reassign(self, round_: Round, rows: np.ndarray, avoid: bool) -> np.ndarray:
        """Send one idle slot of each row somewhere. Returns the rows that nobody may take."""
        ids, weights, able = self._takers()
        local, slots = round_.first_idle(rows)
        tried = round_.attempt[local, slots]
        forbidden = round_.forbidden(rows, ids, avoid)
        if not self.job.split.reassign:  # a row that was sent is seen by no further rank
            had = (round_.rank[local][:, :, None] == np.array(ids)).any(axis=1)
            forbidden |= (tried > 0)[:, None] & ~had
        if not avoid:  # every rank gets its own try; the same one again only so often
            forbidden |= (tried >= MAX_ATTEMPTS)[:, None]
        plan, orphans = shards.split_excluding(rows, weights, able, forbidden)
        for p, rank in enumerate(ids):
            self._send(round_, rank, plan.rows[plan.displs[p]: plan.displs[p] + plan.counts[p]])
        return orphans

    def _give_up(self, round_: Round, rows: np.ndarray) -> None:
        """End all idle slots of these rows as they were taken back, or as lost if nobody ever had them."""
        which, slots = np.nonzero(round_.stage[rows - round_.start] == IDLE)
        local = rows[which] - round_.start
        status = round_.status[local, slots]
        status[status == RowStatus.PENDING] = RowStatus.LOST
        self._finish(round_, local, slots, status)
        ranks, attempts = round_.rank[local, slots], round_.attempt[local, slots]
        for rank, code in sorted(set(zip(ranks.tolist(), status.tolist(), strict=True))):
            # Row by row once each: a row may have several such slots.
            mine = np.flatnonzero((ranks == rank) & (status == code))
            mine = mine[np.unique(local[mine], return_index=True)[1]]
            self._note(local[mine] + round_.start, RowStatus(code), "no rank is left that may take it", rank,
                       int(attempts[mine].max()))

    def _close(self, round_: Round) -> None:
        rows = round_.rows
        del self.rounds[round_.number]
        if 0 < self.job.proof.coverage < 1:  # workers still hold the rows that were not drawn
            for member in self.members.values():
                if member.working:
                    forget = {"start": int(rows[0]), "stop": int(rows[-1]) + 1}
                    self._boxes[member.rank].put(Order("forget", forget))
        self._mark_unverified(round_)
        self._count(round_.number)

    def _count(self, number: int) -> None:
        """Journal that a round is complete."""
        if number + 1 not in self._counted:
            start, stop = self._bounds(number)
            self._journal.append("round", {"counter": number + 1, "start": start, "rows": stop - start})
            self._counted.add(number + 1)
        self._journal.flush()

    def _mark_unverified(self, round_: Round) -> None:
        """Journal which status a row has that several replicas, and none of them verified, speak about."""
        if self.replicas > 1:
            status = final_status(round_.status)
            rows = np.flatnonzero(status != RowStatus.VERIFIED)
            if len(rows):
                self._journal.append("rows", {"reason": "no replica is verified"}, rows=rows + round_.start,
                                     status=status[rows])

    # -- how slots end -----------------------------------------------------------

    def _finish(self, round_: Round, local: np.ndarray, slots: np.ndarray, status: np.ndarray | int,
                proved: np.ndarray | None = None) -> None:
        """End slots with these statuses and proved outputs (m, D), in the round and in the job's tables."""
        round_.finish(local, slots, status)
        rows = local + round_.start
        self.status[rows, slots], self.rank_of[rows, slots] = status, round_.rank[local, slots]
        if proved is not None:
            self.proved[rows, slots] = proved
        self.settled[rows] = (round_.stage[local] == DONE).all(axis=1)

    def _take_back(self, round_: Round, local: np.ndarray, slots: np.ndarray, status: RowStatus) -> None:
        """Free slots for another rank; ``status`` is how they end if nobody may take them."""
        round_.release(local, slots, int(status))
        rows = local + round_.start
        self.status[rows, slots], self.rank_of[rows, slots] = status, round_.rank[local, slots]
        self.settled[rows] = 0

    # -- from a worker -----------------------------------------------------------

    def _take(self, rank: int, report: Report) -> None:
        member = self.members[rank]
        if report.kind == "drained":
            self._drained.add(rank)
            return
        if member.fate is not Fate.OK:
            return
        if report.kind == "error":
            code = report.meta.get("exit_code")
            raise RemoteFailure(f"{member} failed:\n{_told(report.meta.get('text'), 20000)}",
                                code if type(code) is int and 0 < code < 256 else 1)
        try:
            if report.kind == "outputs":
                self._take_outputs(rank, report)
            elif report.kind == "envelope":
                self._take_envelope(rank, report)
            elif report.kind == "failed":
                self._take_failure(rank, report)
            else:
                text = _told(report.meta.get("text"))
                raise Unassigned(text or f"a report of unknown kind {report.kind[:40]!r}")
        except Unassigned as error:
            self._blame(member, None, str(error), breach=True)

    def _take_outputs(self, rank: int, report: Report) -> None:
        rows = report.rows
        if rows is None or not len(rows):
            raise Unassigned("outputs of no row")
        round_ = self._round_of(rows)
        local, slots = round_.find(rank, rows, SENT)
        round_.output[local, slots] = report.outputs
        round_.stage[local, slots] = READY
        attempt = int(round_.attempt[local, slots].max())
        self._journal.append("outputs", {"rank": rank, "attempt": attempt, "round": round_.number}, rows=rows,
                             outputs=report.outputs)
        if self.job.proof.coverage == 0:
            self._end_unproved(round_, rank, local, slots)

    def _take_envelope(self, rank: int, report: Report) -> None:
        bundle = self._bundle_of(rank, report, "an envelope")
        round_ = self.rounds[bundle.round]
        local = bundle.rows - round_.start
        outputs = round_.output[local, bundle.slots]
        node_id = self.members[rank].node_id
        try:
            proof = admit(report.blob, self.circuit, self._job_id, node_id, bundle, round_.data[local], outputs)
        except FormatError as error:
            self._reject(bundle, report.blob[:EVIDENCE_BYTES], f"envelope: {error}")
            return
        round_.stage[local, bundle.slots] = CHECKING
        self._checking[bundle.id] = (bundle, report.blob)
        self._verifier.submit(bundle.id, round_.take(bundle.rows), proof, outputs)

    def _take_failure(self, rank: int, report: Report) -> None:
        bundle = self._bundle_of(rank, report, "a failure")
        member = self.members[rank]
        member.failures += 1
        text = _told(report.meta.get("text"))
        log.warning("%s could not prove bundle %d (%d rows from row %d): %s", member, bundle.id, len(bundle.rows),
                    bundle.rows[0], text)
        round_ = self.rounds[bundle.round]
        round_.avoid(bundle.rows, rank)
        self._note(bundle.rows, RowStatus.LOST, text, rank, bundle.attempt)
        self._take_back(round_, bundle.rows - round_.start, bundle.slots, RowStatus.LOST)

    def _bundle_of(self, rank: int, report: Report, what: str) -> Bundle:
        """The bundle that a report answers, which is thereby no longer waited for."""
        number = report.meta.get("bundle")
        bundle = self._bundles.get(number) if type(number) is int else None
        if bundle is None or bundle.rank != rank:
            strange = f"a bundle that is no number ({type(number).__name__})"
            named = f"bundle {number}" if type(number) is int else strange
            raise Unassigned(f"{what} of {named}, which rank {rank} was not given or has answered")
        return self._bundles.pop(bundle.id)

    def _round_of(self, rows: np.ndarray) -> Round:
        number = int(rows[0]) // self.round_rows
        if number not in self.rounds:
            raise Unassigned(f"row {rows[0]} is not in an open round")
        return self.rounds[number]

    # -- proofs ------------------------------------------------------------------

    def _order_proofs(self, round_: Round) -> None:
        """Make bundles of what is ready: full ones at once, a rank's last one when it owes no more outputs."""
        coverage = self.job.proof.coverage
        if coverage < 1 and (round_.stage == SENT).any():
            return  # Rows are drawn when all outputs are in, never before.
        local, slots = np.nonzero(round_.stage == READY)
        ranks = round_.rank[local, slots]
        owing = np.unique(round_.rank[round_.stage == SENT])
        b = self.circuit.rows if self.circuit else 0
        for rank in np.unique(ranks).tolist():
            mine = ranks == rank
            chosen = local[mine], slots[mine]
            if coverage < 1:
                chosen = self._draw(round_, self.members[rank], *chosen)
            end = len(chosen[0]) // b * b if rank in owing else len(chosen[0])
            for at in range(0, end, b):
                part = slice(at, min(at + b, end))
                self._order_bundle(round_, rank, chosen[0][part], chosen[1][part])

    def _draw(self, round_: Round, member: Member, local: np.ndarray,
              slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw the rows to prove, without replacement, from fresh randomness; the others stay unproved.

        Rows that were taken from another rank are proved in any case, and so are all rows
        of a rank that was caught before and may go on: the draw is among the rest.
        """
        free = (round_.attempt[local, slots] == 1) & (member.rejections == 0)
        rest = np.flatnonzero(free)
        if len(rest):
            seed = secrets.randbits(128)
            wanted = int(np.ceil(self.job.proof.coverage * len(rest)))
            drawn = rest[np.random.Generator(np.random.PCG64(seed)).choice(len(rest), wanted, replace=False)]
            self._journal.append("draw", {"round": round_.number, "rank": member.rank, "seed": f"{seed:032x}",
                                          "of": len(rest), "drawn": wanted}, rows=local[drawn] + round_.start)
            free[drawn] = False
        self._end_unproved(round_, member.rank, local[free], slots[free])
        return local[~free], slots[~free]

    def _end_unproved(self, round_: Round, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        if len(local):
            self._finish(round_, local, slots, RowStatus.UNPROVED)
            self._note(local + round_.start, RowStatus.UNPROVED, "not drawn", rank,
                       int(round_.attempt[local, slots].max()))

    def _order_bundle(self, round_: Round, rank: int, local: np.ndarray, slots: np.ndarray) -> None:
        rows = local.astype(np.int64) + round_.start
        bundle = Bundle(self._next_bundle, rank, round_.number, rows, slots, int(round_.attempt[local, slots].max()))
        self._next_bundle += 1
        round_.stage[local, slots] = PROVING
        self._bundles[bundle.id] = bundle
        self._boxes[rank].put(Order("prove", {"bundle": bundle.id, "round": bundle.round, "attempt": bundle.attempt,
                                              "timeout_s": self._timeout(bundle.attempt)}, rows))

    def _timeout(self, attempt: int) -> float:
        """Seconds that a bundle may take: one that ran out of time gets more on its next rank."""
        return self.job.proof.timeout_s * (2 if attempt > 1 else 1)

    def _conclude(self, verdict: Verdict) -> None:
        bundle, blob = self._checking.pop(verdict.task)
        member = self.members[bundle.rank]
        self.verify_seconds += verdict.seconds
        status = verdict.status
        if (status == RowStatus.REJECTED).any():
            self._reject(bundle, blob, verdict.text, verdict.seconds)
            return
        round_ = self.rounds[bundle.round]
        local = bundle.rows - round_.start
        good = status == RowStatus.VERIFIED
        self._record(bundle, blob, verdict.text, verdict.seconds, status, verdict)
        self.proofs_verified += bool(good.any())
        self.argmax_flips += int(verdict.argmax_differs[good].sum())
        member.proofs += 1
        member.rows_verified += int(good.sum())
        self._finish(round_, local[good], bundle.slots[good], RowStatus.VERIFIED, verdict.proved[good])
        if not good.all():
            self._judge_inconsistent(round_, bundle, ~good, verdict)

    def _judge_inconsistent(self, round_: Round, bundle: Bundle, bad: np.ndarray, verdict: Verdict) -> None:
        """Before anyone is blamed for a deviation, rank 0 computes the float outputs itself."""
        member = self.members[bundle.rank]
        local, slots = (bundle.rows - round_.start)[bad], bundle.slots[bad]
        said = round_.output[local, slots].astype(np.float64)
        own = np.asarray(self._reference(round_.data[local]), np.float64)
        with np.errstate(invalid="ignore"):
            close = np.abs(said - own) <= HONEST_SHARE * self.circuit.tolerance
        honest = (close | (np.isnan(said) & np.isnan(own)) | (said == own)).all(axis=1)
        member.inconsistent += len(local)
        if honest.any():
            rows = bundle.rows[bad][honest]
            log.warning("%d rows (first %d) of %s are inconsistent: the fixed-point plan is too coarse for them "
                        "(deviation up to %.4g, tolerance %.4g); nobody is blamed", len(rows), rows[0], member,
                        np.nanmax(verdict.deviation[bad][honest], initial=0.0), self.circuit.tolerance)
            self._finish(round_, local[honest], slots[honest], RowStatus.INCONSISTENT)
        if not honest.all():
            lied = bundle.rows[bad][~honest]
            round_.refuse(lied, member.rank)
            # Rejected, not inconsistent: that is about the row, and this about the rank.
            self._take_back(round_, local[~honest], slots[~honest], RowStatus.REJECTED)
            self._blame(member, bundle, f"the float output of row {lied[0]} ({len(lied)} rows in all) is neither "
                                        f"the model's nor the proof's: {verdict.text}")

    def _reject(self, bundle: Bundle, blob: bytes, text: str, seconds: float = 0.0) -> None:
        self._record(bundle, blob, text, seconds, np.full(len(bundle.rows), RowStatus.REJECTED, np.uint8))
        round_ = self.rounds[bundle.round]
        round_.refuse(bundle.rows, bundle.rank)
        self._take_back(round_, bundle.rows - round_.start, bundle.slots, RowStatus.REJECTED)
        self._blame(self.members[bundle.rank], bundle, text)

    def _blame(self, member: Member, bundle: Bundle | None, text: str, breach: bool = False) -> None:
        """Count a rejection against a rank; expel it when that is enough, or when it broke the protocol."""
        member.rejections += 1
        self.bundles_rejected += 1
        what = f"bundle {bundle.id} ({len(bundle.rows)} rows from row {bundle.rows[0]})" if bundle else "a report"
        member.evidence.append(f"{what}: {text}"[:2000])
        log.error("REJECTED: %s of %s: %s", what, member, text)
        self._suspect(member)
        if member.fate is Fate.OK and (breach or member.rejections >= self.job.proof.max_rejections):
            self._end_member(member, Fate.EXPELLED, f"{member.rejections} rejected; last: {text}"[:2000])

    def _suspect(self, member: Member) -> None:
        """What a caught rank said that was not drawn is not believed any more: others get those rows."""
        told = (self.rank_of == member.rank) & (self.status == RowStatus.UNPROVED)
        for number in np.unique(np.nonzero(told)[0] // self.round_rows):
            if int(number) not in self.rounds:
                self._make_round(int(number))
        for round_ in self.rounds.values():
            local, slots = np.nonzero((round_.rank == member.rank) & (round_.status == RowStatus.UNPROVED)
                                      & (round_.stage == DONE))
            if len(local):
                round_.refuse(local + round_.start, member.rank)
                rows = local + round_.start
                self._note(rows, RowStatus.SUSPECT, "of a rank that was caught", member.rank, 1)
                self._take_back(round_, local, slots, RowStatus.SUSPECT)

    def _end_member(self, member: Member, fate: Fate, reason: str) -> None:
        """From here on the rank is given nothing and not listened to; what it has in hand goes to others."""
        member.fate, member.fate_reason, member.fate_time = fate, reason, utc_now()
        taken = 0
        for round_ in self.rounds.values():
            # Slots that wait for another rank keep the status that they were taken back with;
            # proofs that are already here are judged by what they are, whoever sent them.
            local, slots = round_.held_by(member.rank, SENT, READY, PROVING)
            self._take_back(round_, local, slots, RowStatus.LOST)
            taken += len(local)
        for bundle in [b for b in self._bundles.values() if b.rank == member.rank]:
            del self._bundles[bundle.id]
        log.error("%s is %s; %d rows that it still had go to other ranks", member, fate.value, taken)
        self._journal.append("rank", {"rank": member.rank, "fate": fate.value, "fate_reason": reason,
                                      "fate_time": member.fate_time, "rows_verified": member.rows_verified})
        if fate is Fate.EXPELLED:
            self._boxes[member.rank].put(Order("drain"))

    # -- records -----------------------------------------------------------------

    def _note(self, rows: np.ndarray, status: RowStatus, reason: str, rank: int, attempt: int) -> None:
        """Journal what became of one rank's answer to these rows without a proof; of the rows where rank is -1."""
        whose = {"rank": rank, "attempt": attempt} if rank >= 0 else {}
        self._journal.append("rows", {"reason": reason, **whose}, rows=np.asarray(rows, np.int64),
                             status=np.full(len(rows), int(status), np.uint8))

    def _record(self, bundle: Bundle, blob: bytes, text: str, seconds: float, status: np.ndarray,
                verdict: Verdict | None = None) -> None:
        n, d = len(bundle.rows), self.outputs
        self._journal.append(
            "bundle",
            {"bundle": bundle.id, "rank": bundle.rank, "attempt": bundle.attempt, "round": bundle.round,
             "circuit_id": self.circuit.circuit_id, "verdict": text, "verify_seconds": seconds},
            rows=bundle.rows, status=np.asarray(status, np.uint8),
            proved=np.full((n, d), np.nan) if verdict is None else verdict.proved,
            deviation=np.full(n, np.nan) if verdict is None else verdict.deviation,
            argmax_differs=np.zeros(n, bool) if verdict is None else verdict.argmax_differs,
            envelope=blob,
        )


def _told(text: object, most: int = 2000) -> str:
    """Text that a rank sent, fit for the log and the file: cut, without control characters but line ends."""
    known = text[:most] if isinstance(text, str) else ""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in known)
