"""What rank 0 makes of a verdict: rows verified, honest deviations, lies and what they cost their rank.

Letters: n rows in a bundle, D outputs per row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.bundles import Bundles
from enclaveml.circuits import Circuits
from enclaveml.copies import Copies
from enclaveml.exchange import Order, Outbox
from enclaveml.job import JobSpec
from enclaveml.ledger import DONE, DUE, PROVING, READY, SENT, WIDE, Bundle, Round
from enclaveml.provenance import utc_now
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Fate, Member
from enclaveml.zk.interface import DEFAULT_TOLERANCE, Verdict

log = logging.getLogger(__name__)

# An honest rank's float output differs from rank 0's by rounding on another device.
# A quarter of the tolerance is far above that (1e-5 at full float32 precision) and
# leaves no room for an output that was moved enough to matter.
HONEST_SHARE = 0.25


class Judge:
    """Believes, takes back and expels. ``reference``: rank 0's own float model, rows to (n, D)."""

    def __init__(self, job: JobSpec, accounts: Accounts, bundles: Bundles, circuits: Circuits,
                 copies: Copies, members: Mapping[int, Member], boxes: Mapping[int, Outbox],
                 reference: Callable[[np.ndarray], np.ndarray]) -> None:
        self._job, self._accounts, self._bundles, self._circuits = job, accounts, bundles, circuits
        self._copies, self._members, self._boxes, self._reference = copies, members, boxes, reference
        tolerance = circuits.primary.tolerance if circuits.primary else job.proof.tolerance or DEFAULT_TOLERANCE
        #: Largest deviation of an honest float output from rank 0's own.
        self.allowed = HONEST_SHARE * tolerance
        self.proofs_verified = self.bundles_rejected = self.argmax_flips = self.fallback_rows = 0
        self.verify_seconds = 0.0

    def conclude(self, bundle: Bundle, blob: bytes, verdict: Verdict) -> None:
        """Take in the verdict on a bundle whose envelope was ``blob``."""
        member = self._members[bundle.rank]
        self.verify_seconds += verdict.seconds
        status = verdict.status
        if verdict.undecided:
            self._leave_undecided(bundle, verdict.text)
            return
        if (status == RowStatus.REJECTED).any():
            self.reject(bundle, blob, verdict.text, verdict.seconds)
            return
        if self._copies.discarded(bundle):
            self._judge_discarded(bundle, verdict)
            return
        self._copies.settle(bundle)
        round_ = self._accounts.rounds[bundle.round]
        local = bundle.rows - round_.start
        good = status == RowStatus.VERIFIED
        self._accounts.record(bundle, self._circuits.of(bundle).circuit_id, blob, verdict.text, verdict.seconds, status,
                              verdict)
        self.proofs_verified += bool(good.any())
        self.argmax_flips += int(verdict.argmax_differs[good].sum())
        member.proofs += 1
        member.rows_verified += int(good.sum())
        self.fallback_rows += int(good.sum()) if bundle.fallback else 0
        self._accounts.finish(round_, local[good], bundle.slots[good], RowStatus.VERIFIED,
                              verdict.proved[good])
        if not good.all():
            self._judge_inconsistent(round_, bundle, ~good, verdict)

    def _leave_undecided(self, bundle: Bundle, text: str) -> None:
        """Rank 0 could not look at a proof: nothing is believed of it and nobody is blamed, as where its rank had failed."""
        text = f"rank 0 could not verify: {text}"
        member = self._members[bundle.rank]
        log.warning("bundle %d (%d rows from row %d) of %s: %s; nobody is blamed", bundle.id, len(bundle.rows), bundle.rows[0], member, text)
        needed = not self._copies.discarded(bundle)
        if needed:
            self._accounts.failed(bundle, np.ones(len(bundle.rows), bool), text)
        self.fall(bundle, RowStatus.LOST)
        if needed:  # its drawn rows were to be tested: without a proof by rank 0 itself
            round_ = self._accounts.rounds[bundle.round]
            self.unproven(member, round_, bundle.rows - round_.start, bundle.slots)

    def _judge_inconsistent(self, round_: Round, bundle: Bundle, bad: np.ndarray, verdict: Verdict) -> None:
        """Before anyone is blamed for a deviation, rank 0 computes the float outputs itself."""
        member = self._members[bundle.rank]
        local, slots = (bundle.rows - round_.start)[bad], bundle.slots[bad]
        honest = self._honest(bundle, bad)
        member.inconsistent += len(local)
        if honest.any():
            rows = bundle.rows[bad][honest]
            log.warning("%d rows (first %d) of %s are inconsistent: the fixed-point plan is too coarse for "
                        "them (deviation up to %.4g, tolerance %.4g); nobody is blamed", len(rows), rows[0], member,
                        np.nanmax(verdict.deviation[bad][honest], initial=0.0),
                        self._circuits.of(bundle).tolerance)
            round_.coarse[local[honest], slots[honest]] = True
            # No proof is within the tolerance of what is no number.
            again = honest & np.isfinite(bundle.outputs[bad]).all(axis=1) & self._may_widen(bundle)
            self._accounts.finish(round_, local[honest & ~again], slots[honest & ~again], RowStatus.INCONSISTENT)
            round_.output[local, slots] = bundle.outputs[bad]  # of whoever holds them now
            if member.working:
                round_.stage[local[again], slots[again]] = WIDE
            else:  # it has left since it proved them
                self._accounts.take_back(round_, local[again], slots[again], RowStatus.LOST)
        if not honest.all():
            lied = bundle.rows[bad][~honest]
            round_.refuse(lied, member.rank)
            # Rejected, not inconsistent: that is about the row, and this about the rank.
            self._accounts.take_back(round_, local[~honest], slots[~honest], RowStatus.REJECTED)
            self.blame(member, bundle, _lie(lied, verdict))

    def _honest(self, bundle: Bundle, bad: np.ndarray) -> np.ndarray:
        """For which of a bundle's rows ``bad`` (n,) bool the rank's float output is the model's."""
        return self.compare_floats(self._accounts.data(bundle)[bad], bundle.outputs[bad])[0]

    def _judge_discarded(self, bundle: Bundle, verdict: Verdict) -> None:
        """Another rank's proof of these rows came first: this one is of no use, unless it shows a lie."""
        self._copies.ended(bundle)
        bad = verdict.status != RowStatus.VERIFIED
        lied = bundle.rows[bad][~self._honest(bundle, bad)] if bad.any() else bundle.rows[:0]
        if len(lied):
            self.blame(self._members[bundle.rank], bundle, _lie(lied, verdict))

    def fall(self, bundle: Bundle, status: RowStatus) -> None:
        """A bundle came to nothing: its rows are free for others, unless another rank proves them already."""
        if not self._copies.fall(bundle):
            round_ = self._accounts.rounds[bundle.round]
            self._accounts.take_back(round_, bundle.rows - round_.start, bundle.slots, status)
        self._copies.ended(bundle)

    def compare_floats(self, data: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rank 0 computes rows (n, *row_shape) itself: which of the outputs said (n, D) are the model's (n,)
        bool, and by how much each deviates (n,) float64."""
        said = said.astype(np.float64)
        own = np.asarray(self._reference(data), np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.abs(said - own)
            same = (np.isnan(said) & np.isnan(own)) | (said == own)
            apart[same] = 0.0
            return (apart <= self.allowed).all(axis=1), apart.max(axis=1, initial=0.0)

    def unproven(self, member: Member, round_: Round, local: np.ndarray, slots: np.ndarray) -> None:
        """A rank did not prove rows that were drawn: it may have failed, or seen that they would give it away.

        So rank 0 computes them itself. Without this, whoever lies about rows could fail, or leave, as soon as
        one of them is drawn, and its other rows would pass for unproved ones of an honest rank.
        """
        drawn = round_.drawn[local, slots]
        local, slots = local[drawn], slots[drawn]
        if not len(local):
            return
        honest, deviation = self.compare_floats(round_.data[local], round_.output[local, slots])
        if not honest.all():
            lied = local[~honest] + round_.start
            round_.refuse(lied, member.rank)
            self.blame(member, None, f"row {lied[0]} ({len(lied)} rows in all) was drawn and not proved, and its float output "
                                     f"is not the model's: it deviates by {np.nanmax(deviation[~honest], initial=0):.4g}, "
                                     f"allowed {self.allowed:.4g}")

    def _may_widen(self, bundle: Bundle) -> bool:
        """Whether a bundle's rows have another circuit to be proved at."""
        return self._circuits.fallback is not None and not bundle.fallback

    def overflow(self, bundle: Bundle, out: np.ndarray, text: str) -> None:
        """Take in that a bundle's circuit has no witness for these of its rows, (n,) bool, as its rank says.

        They go to the fallback, or come back where that is what failed; the others are ordered again.
        Where another rank proves the bundle as well, or has, it is left to that one.
        """
        if not self._copies.holds(bundle) or self._copies.has(bundle):
            # Neither its other rows, nor one that the fallback may still hold, have failed with this rank.
            if not self._copies.discarded(bundle) and not self._may_widen(bundle):
                self._accounts.failed(bundle, out, text)
            self.fall(bundle, RowStatus.LOST)
            return
        round_ = self._accounts.rounds[bundle.round]
        local, slots = bundle.rows - round_.start, bundle.slots
        round_.output[local, slots] = bundle.outputs  # of whoever holds them now
        round_.stage[local[~out], slots[~out]] = WIDE if bundle.fallback else DUE
        if self._may_widen(bundle):
            round_.stage[local[out], slots[out]] = WIDE
            return
        self._accounts.failed(bundle, out, text)
        self._accounts.take_back(round_, local[out], slots[out], RowStatus.LOST)
        self.unproven(self._members[bundle.rank], round_, local[out], slots[out])

    def reject(self, bundle: Bundle, blob: bytes, text: str, seconds: float = 0.0) -> None:
        """Believe nothing of a bundle, and blame its rank."""
        # What another rank's proof made of rows that it did not verify is not to be overruled by a later record.
        if not self._copies.discarded(bundle) or self._verified(bundle):
            self._accounts.record(bundle, self._circuits.of(bundle).circuit_id, blob, text, seconds,
                                  np.full(len(bundle.rows), RowStatus.REJECTED, np.uint8))
        if bundle.round in self._accounts.rounds:
            self._accounts.rounds[bundle.round].refuse(bundle.rows, bundle.rank)
        self.fall(bundle, RowStatus.REJECTED)
        self.blame(self._members[bundle.rank], bundle, text)

    def _verified(self, bundle: Bundle) -> bool:
        return bool((self._accounts.status[bundle.rows, bundle.slots] == RowStatus.VERIFIED).all())

    def blame(self, member: Member, bundle: Bundle | None, text: str, breach: bool = False) -> None:
        """Count a rejection against a rank; expel it when that is enough, or when it broke the protocol."""
        member.rejections += 1
        self.bundles_rejected += 1
        what = f"bundle {bundle.id} ({len(bundle.rows)} rows from row {bundle.rows[0]})" if bundle else "a report"
        member.evidence.append(f"{what}: {text}"[:2000])
        log.error("REJECTED: %s of %s: %s", what, member, text)
        self._suspect(member)
        if member.fate is Fate.OK and (breach or member.rejections >= self._job.proof.max_rejections):
            self.end_member(member, Fate.EXPELLED, f"{member.rejections} rejected; last: {text}"[:2000])

    def _suspect(self, member: Member) -> None:
        """What a caught rank said that was not drawn is not believed any more: others get those rows."""
        told = (self._accounts.rank_of == member.rank) & (self._accounts.status == RowStatus.UNPROVED)
        for number in np.unique(self._accounts.numbers(np.nonzero(told)[0])):
            if int(number) not in self._accounts.rounds:
                self._accounts.make_round(int(number))
        for round_ in self._accounts.rounds.values():
            local, slots = np.nonzero((round_.rank == member.rank) & (round_.status == RowStatus.UNPROVED)
                                      & (round_.stage == DONE))
            if len(local):
                round_.refuse(local + round_.start, member.rank)
                rows = local + round_.start
                self._accounts.note(rows, RowStatus.SUSPECT, "of a rank that was caught", member.rank, 1)
                self._accounts.take_back(round_, local, slots, RowStatus.SUSPECT)

    def end_member(self, member: Member, fate: Fate, reason: str) -> None:
        """From here on the rank is given nothing and not listened to; what it has in hand goes to others."""
        member.fate, member.fate_reason, member.fate_time = fate, reason, utc_now()
        self._copies.leave(member.rank)
        taken, owed = 0, []
        for round_ in self._accounts.rounds.values():
            # Slots that wait for another rank keep the status that they were taken back with;
            # proofs that are already here are judged by what they are, whoever sent them.
            owed.append((round_, *round_.held_by(member.rank, DUE, WIDE, PROVING)))
            local, slots = round_.held_by(member.rank, SENT, READY, DUE, WIDE, PROVING)
            self._accounts.take_back(round_, local, slots, RowStatus.LOST)
            taken += len(local)
        self._bundles.drop(member.rank)
        log.error("%s is %s; %d rows that it still had go to other ranks", member, fate.value, taken)
        self._accounts.journal.append("rank", {
            "rank": member.rank, "fate": fate.value, "fate_reason": reason, "fate_time": member.fate_time,
            "rows_verified": member.rows_verified})
        if fate is Fate.EXPELLED:
            self._boxes[member.rank].put(Order("drain"))
        else:
            for held in owed:
                self.unproven(member, *held)


def _lie(rows: np.ndarray, verdict: Verdict) -> str:
    return (f"the float output of row {rows[0]} ({len(rows)} rows in all) is neither the model's nor the proof's: "
            f"{verdict.text}")
