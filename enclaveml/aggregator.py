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
import time
from collections.abc import Callable, Mapping

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.admission import admit
from enclaveml.beacon import Beacon
from enclaveml.bundles import Bundles
from enclaveml.circuits import Circuits
from enclaveml.copies import Copies
from enclaveml.dispatch import Dispatch
from enclaveml.draws import Draws
from enclaveml.errors import FormatError, RemoteFailure
from enclaveml.exchange import Order, Outbox, Report
from enclaveml.job import JobSpec
from enclaveml.joints import Joints
from enclaveml.journal import Journal
from enclaveml.judging import Judge
from enclaveml.ledger import CHECKING, READY, SENT, Bundle, Round, Unassigned, sensible_seconds
from enclaveml.pace import Pace
from enclaveml.recheck import Recheck
from enclaveml.results_schema import RowStatus
from enclaveml.resume import ResumeState
from enclaveml.roster import Fate, Member
from enclaveml.round_size import ROUND_BYTES, ROUND_ROWS, rows_of_a_round
from enclaveml.sharing import Sharing
from enclaveml.silence import Silence, limit_s
from enclaveml.speeds import Speeds

log = logging.getLogger(__name__)

# As much of an envelope that could not be read is kept as evidence.
EVIDENCE_BYTES = 1 << 20


class Aggregator:
    """Decides over rows; the only one that calls a row verified.

    It takes reports in and decides what comes next; the parts do it: ``accounts`` (what is
    known of the rows), ``dispatch`` (who is sent what), ``bundles`` (who proves what),
    ``copies`` and ``sharing`` (who helps whom), ``judge`` (what is believed).

    Args:
        read: dataset rows [start, stop) as (stop - start, *row_shape).
        reference: rank 0's own float model, rows (n, *row_shape) to (n, D).
        members: rank id to member; mutated as things happen.
        boxes: rank id to the outbox of its orders.
        circuits: with none in it where nothing is proved (coverage 0).
        job_id: what workers label their envelopes with.
        input_key: the job's, where circuits mask their inputs.
        spend: called before each proof is ordered; raises where no more may be made.
        clock: seconds that never go back; how fast ranks are is measured by it.
    """

    def __init__(self, job: JobSpec, n_rows: int, read: Callable[[int, int], np.ndarray],
                 circuits: Circuits, outputs: int, members: Mapping[int, Member],
                 boxes: Mapping[int, Outbox], journal: Journal, reference: Callable[[np.ndarray], np.ndarray],
                 row_bytes: int, job_id: str = "", clock: Callable[[], float] = time.monotonic,
                 spend: Callable[[], None] = lambda: None, input_key: bytes | None = None) -> None:
        self.job, self.members = job, members
        self._circuits, self._boxes, self._job_id = circuits, boxes, job_id
        replicas = job.split.replicas if job.split.strategy == "redundant" else 1
        full = circuits.primary.rows if circuits.primary else 0
        at_once = full * sum(m.children for m in members.values() if m.computes)
        round_rows = max(1, min(rows_of_a_round(row_bytes, at_once, ROUND_ROWS, ROUND_BYTES), n_rows))
        if job.proof.beacon is not None:
            round_rows = n_rows  # all outputs come before the one draw (run.py has checked that they fit)
        self.accounts = Accounts(journal, read, n_rows, round_rows, replicas, outputs)
        self.pace = Pace(members, clock)
        by_speed = job.split.capacity == "throughput"
        self._speeds = Speeds(job, self.accounts, self.pace, members, full) if by_speed else None
        self.dispatch = Dispatch(job, self.accounts, members, boxes, self._speeds)
        self._beacon = None
        if job.proof.beacon is not None:
            self._beacon = Beacon(job.proof.beacon, job.proof.beacon_wait_s, journal)
        draws = Draws(job, self.accounts, self._beacon)
        self.bundles = Bundles(job, self.accounts, circuits, members, boxes, self.pace, draws, spend,
                               job_id, input_key)
        self.copies = Copies(self.accounts, self.bundles, members, boxes)
        self.sharing = Sharing(job, self.accounts, self.bundles, self.copies, self.pace, members)
        self.judge = Judge(job, self.accounts, self.bundles, circuits, self.copies, members, boxes, reference)
        self._joints = Joints(self.accounts, self.bundles, self.copies, circuits, self.judge, self.pace, members, job_id)
        self._recheck = Recheck(job.proof.recheck, self.accounts, self.judge, members)
        self._checking: dict[int, tuple[Bundle, bytes]] = {}
        self.draining = False
        self._drained: set[int] = set()
        self._silence = Silence()

    # -- what the run asks -------------------------------------------------------

    @property
    def replicas(self) -> int:
        """How many ranks each row is sent to."""
        return self.accounts.replicas

    @property
    def outputs(self) -> int:
        """Outputs per row, D."""
        return self.accounts.outputs

    @property
    def rounds(self) -> dict[int, Round]:
        """The open rounds by number."""
        return self.accounts.rounds

    @property
    def status(self) -> np.ndarray:
        """Each answer's status, (N, r) uint8."""
        return self.accounts.status

    @property
    def rank_of(self) -> np.ndarray:
        """Whose each answer is, (N, r) int32, -1 nobody's."""
        return self.accounts.rank_of

    @property
    def proved(self) -> np.ndarray:
        """The proved outputs, (N, r, D) float64, NaN where nothing is verified."""
        return self.accounts.proved

    @property
    def proofs_verified(self) -> int:
        """Bundles with a row that was verified."""
        return self.judge.proofs_verified

    @property
    def bundles_rejected(self) -> int:
        """Bundles, and reports, that were rejected."""
        return self.judge.bundles_rejected

    @property
    def fallback_rows(self) -> int:
        """Answers that were verified at the fallback circuit."""
        return self.judge.fallback_rows

    @property
    def argmax_flips(self) -> int:
        """Verified rows whose argmax differs between float output and proof."""
        return self.judge.argmax_flips

    @property
    def verify_seconds(self) -> float:
        """Time that all verdicts took, in seconds."""
        return self.judge.verify_seconds

    @property
    def finished(self) -> bool:
        """Whether every row has ended, or, when draining, whatever was in hand."""
        if self.draining:
            waiting = {m.rank for m in self.members.values() if m.working} - self._drained
            return not waiting and not self._checking
        # An answer that is here is judged, even where its rows have ended: it may be a lie.
        return self.accounts.all_ended and not self._checking

    @property
    def rows_done(self) -> int:
        """Rows that have ended, of ``n_rows``."""
        return int((self.accounts.settled > 0).sum())

    def go_on(self, before: ResumeState) -> None:
        """Take over what earlier sessions verified, before the first step."""
        self.accounts.go_on(before)
        self.bundles.next_bundle = before.next_bundle
        if self._beacon is not None:
            self._beacon.go_on(before.sealed)

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
        passed = self.pace.tick()
        if not self.job.proof.coverage:
            self._measure_inference(passed, reports)
        for rank, report in reports:
            if report.kind != "drained" or self.draining:  # else it answers nothing that was asked
                self._silence.heard(rank)
            self._take(rank, report)
        for rank, seconds in self._silence.step(self._owing()).items():
            self._lose_silent(rank, seconds)
        for verdict in self._circuits.poll():
            self._joints.conclude(*self._checking.pop(verdict.task), verdict)
        if not self.draining and self._stranded:
            self.draining = True  # nobody is left to compute, and not for lies: the job can be resumed
        if not self.draining and self._beacon is not None and self._beacon.late:
            log.warning("no later value of the beacon came in %.0f s: stopping; put one there and --resume",
                        self.job.proof.beacon_wait_s)
            self.drain()
        if not self.draining:
            for round_ in self.rounds.values():
                self.dispatch.hand_out_idle(round_)
                self.bundles.order(round_)
            self.sharing.step()
        for round_ in [r for r in self.rounds.values() if r.closed]:
            self._recheck.check(round_)
            if round_.closed:
                self._close(round_)
        if self.accounts.all_ended:
            self.draining = False  # what was in hand was all there was
        while self._may_open:
            self._open_round()

    def _measure_inference(self, passed: float, reports: list[tuple[int, Report]]) -> None:
        """Where nothing is proved, count what each rank inferred while it had rows to infer."""
        owing = self.accounts.count(max(self.members) + 1, SENT)
        said, told = dict.fromkeys(self.members, 0), dict.fromkeys(self.members, 0.0)
        for rank, report in reports:
            said[rank] += 0 if report.rows is None else len(report.rows)
            told[rank] += sensible_seconds(report.meta.get("seconds"), 0.0)
        for rank in np.flatnonzero(owing).tolist():
            self.pace.inferred(rank, min(said[rank], int(owing[rank])), passed, told[rank])

    @property
    def _stranded(self) -> bool:
        members = self.members.values()
        return not any(m.working for m in members) and any(m.fate is Fate.LOST for m in members)

    def lose(self, rank: int, reason: str) -> None:
        """A rank died: its unfinished rows go to others."""
        member = self.members[rank]
        if member.fate is Fate.OK:
            self.judge.end_member(member, Fate.LOST, reason)

    def _owing(self) -> dict[int, float]:
        """The ranks that owe an answer (outputs, a proof, that they are drained), and for how long at most (s)."""
        ranks = {m.rank for m in self.members.values() if m.working}
        if self.draining:
            owing = ranks - self._drained
        else:
            sent = [r.ranks_at(SENT).tolist() for r in self.rounds.values()]
            owing = {r for r in ranks if self.bundles.in_hand(r) or self.copies.inferring(r)}.union(*sent) & ranks
        first, later = (limit_s(self.bundles.timeout(attempt)) for attempt in (1, 2))
        return {rank: later if self.bundles.tries_again(rank) else first for rank in owing}

    def _lose_silent(self, rank: int, seconds: float) -> None:
        """A rank that answers nothing is given up; it is told to stop, and what it says later is not read."""
        bundles = len(self.bundles.hand(rank))
        rows = sum(len(r.held_by(rank, SENT)[0]) for r in self.rounds.values())
        self.judge.end_member(self.members[rank], Fate.LOST,
                              f"has not answered for {seconds:.0f} s, with {bundles} bundles to prove and "
                              f"{rows} rows to infer in hand")
        self._boxes[rank].put(Order("drain"))

    # -- rounds ------------------------------------------------------------------

    @property
    def _may_open(self) -> bool:
        """Whether the next round is due: no more than half of those that are open is still to be inferred.

        By throughput: where a rank is at the last of what it has, since shares are better measured late.
        Where nothing is proved: as soon as its rows are read, so that ranks that only infer always have the next ones.
        """
        if self.draining or self.accounts.all_opened or len(self.rounds) >= 2:
            return False
        if self._speeds:
            return self._speeds.due()
        if not self.job.proof.coverage:
            return not self.rounds or self.accounts.is_ahead
        return all((r.stage == SENT).mean() <= 0.5 for r in self.rounds.values())

    def _open_round(self) -> None:
        round_ = self.accounts.next(self._next_rows)
        if round_ is not None:
            self.dispatch.split(round_)
        if not self.job.proof.coverage:  # proofs give rank 0 time enough to read
            self.accounts.read_ahead(self._next_rows)

    @property
    def _next_rows(self) -> int:
        by_speed = self._speeds is not None and self._beacon is None  # a beacon's one round is the job
        return self._speeds.round_rows() if by_speed else self.accounts.round_rows

    def _close(self, round_: Round) -> None:
        # Workers still hold the rows that were not drawn, and those that they could be asked for again.
        if 0 < self.job.proof.coverage < 1 or self._circuits.fallback is not None:
            self.dispatch.forget(round_)
        self.accounts.close(round_)

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
            elif report.kind == "slice":
                if (joined := self._joints.take(rank, report)) is not None:
                    self._checking[joined[0].id] = joined
            elif report.kind == "failed":
                self._take_failure(rank, report)
            elif report.kind == "cancelled":
                self._take_cancelled(rank, report)
            else:
                text = _told(report.meta.get("text"))
                raise Unassigned(text or f"a report of unknown kind {report.kind[:40]!r}")
        except Unassigned as error:
            self.judge.blame(member, None, str(error), breach=True)

    def _take_outputs(self, rank: int, report: Report) -> None:
        rows = report.rows
        if rows is None or not len(rows):
            raise Unassigned("outputs of no row")
        if self.copies.take_outputs(rank, report):
            return
        round_ = self.accounts.round_of(rows)
        local, slots = round_.find(rank, rows, SENT)
        round_.output[local, slots] = report.outputs
        round_.stage[local, slots] = READY
        attempt = int(round_.attempt[local, slots].max())
        self.accounts.journal.append("outputs", {"rank": rank, "attempt": attempt, "round": round_.number},
                                     rows=rows, outputs=report.outputs)
        if self.job.proof.coverage == 0:
            self.accounts.end_unproved(round_, rank, local, slots)

    def _take_envelope(self, rank: int, report: Report) -> None:
        bundle = self.bundles.answered(rank, report, "an envelope", proved=True).timed(report.meta)
        data, node_id = self.accounts.data(bundle), self.members[rank].node_id
        try:
            proof = admit(report.blob, self._circuits.of(bundle), self._job_id, node_id, bundle, data)
        except FormatError as error:
            self.judge.reject(bundle, report.blob[:EVIDENCE_BYTES], f"envelope: {error}")
            return
        if self.copies.holds(bundle):
            round_ = self.rounds[bundle.round]
            round_.stage[bundle.rows - round_.start, bundle.slots] = CHECKING
        self._checking[bundle.id] = (bundle, report.blob)
        self._circuits.submit(bundle, data, proof, self.bundles.nonce(bundle), self.bundles.input_key(bundle))

    def _take_failure(self, rank: int, report: Report) -> None:
        bundle = self.bundles.answered(rank, report, "a failure")
        member = self.members[rank]
        try:
            out = _overflowed(bundle, report.meta.get("overflow"))
        except Unassigned:
            self.judge.fall(bundle, RowStatus.LOST)  # it is in nobody's hand any more: end_member would not see it
            raise
        if out.any():
            self._take_overflow(bundle, out, _told(report.meta.get("text")))
            return
        member.failures += 1
        text = _told(report.meta.get("text"))
        log.warning("%s could not prove bundle %d (%d rows from row %d): %s", member, bundle.id,
                    len(bundle.rows), bundle.rows[0], text)
        needed = not self.copies.discarded(bundle)
        if needed:
            self.accounts.failed(bundle, np.ones(len(bundle.rows), bool), text)
        self.judge.fall(bundle, RowStatus.LOST)
        if needed:
            round_ = self.rounds[bundle.round]
            self.judge.unproven(member, round_, bundle.rows - round_.start, bundle.slots)

    def _take_overflow(self, bundle: Bundle, out: np.ndarray, text: str) -> None:
        rows = bundle.rows[out]
        log.warning("%d of the %d rows of bundle %d (first %d) leave the range of the %s circuit, says %s: %s; nobody "
                    "is blamed", len(rows), len(out), bundle.id, rows[0], self._circuits.of(bundle).role,
                    self.members[bundle.rank], text)
        self.judge.overflow(bundle, out, text)

    def _take_cancelled(self, rank: int, report: Report) -> None:
        bundle = self.bundles.answered(rank, report, "a cancellation")
        needed = not self.copies.discarded(bundle)
        self.judge.fall(bundle, RowStatus.LOST)
        if needed:
            raise Unassigned(f"a cancellation of bundle {bundle.id}, which is needed")


def _overflowed(bundle: Bundle, said: object) -> np.ndarray:
    """The rows of a bundle, (n,) bool, that its rank says its circuit has no witness for.

    Raises Unassigned for places that the bundle has not.
    """
    out = np.zeros(len(bundle.rows), bool)
    for place in said if isinstance(said, list) else ():
        if type(place) is not int or not 0 <= place < len(out):
            raise Unassigned(f"a failure of rows that bundle {bundle.id} has not")
        out[place] = True
    return out


def _told(text: object, most: int = 2000) -> str:
    """Text that a rank sent, fit for the log and the file: cut, without control characters but line ends."""
    known = text[:most] if isinstance(text, str) else ""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in known)
