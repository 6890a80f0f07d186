"""Bundles of a circuit in slices whose proof two ranks make together. SLICES.md tells the whole.

A rank that is idle proves a bundle that another has begun, as a copy (``copies.py``), from the last slice on; both report each
slice as it is proved. As soon as every slice is there from one or the other, rank 0 joins them into one proof and has it
verified: a bundle of its own (*joint*), about the float outputs of the rank that holds the rows. Until that is verified
both go on, so that whoever fails, leaves or lies costs nothing but its own work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from enclaveml.accounts import Accounts
from enclaveml.bundle_envelope import sealed
from enclaveml.bundles import Bundles
from enclaveml.circuits import Circuits
from enclaveml.copies import Copies
from enclaveml.errors import FormatError
from enclaveml.exchange import Report
from enclaveml.judging import Judge
from enclaveml.ledger import Bundle, Unassigned
from enclaveml.pace import Pace
from enclaveml.roster import Member
from enclaveml.slice_report import unpack
from enclaveml.zk.interface import REJECTED, Proof, Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Joint:
    """original, copy: the two orders that a joined proof is of. by: of each slice, whose of them its proof is."""

    original: Bundle
    copy: Bundle
    by: tuple[Bundle, ...]


class Joints:
    """The slices that are there of bundles in flight, and the joined proofs in the verifier. ``members``: by rank id."""

    def __init__(self, accounts: Accounts, bundles: Bundles, copies: Copies, circuits: Circuits, judge: Judge, pace: Pace,
                 members: Mapping[int, Member], job_id: str) -> None:
        self._accounts, self._bundles, self._copies, self._circuits = accounts, bundles, copies, circuits
        self._judge, self._pace, self._members, self._job_id = judge, pace, members, job_id
        self._there: dict[int, dict[int, Proof]] = {}
        self._joints: dict[int, _Joint] = {}
        self._tried: set[int] = set()
        self._said: set[tuple[int, int]] = set()

    def take(self, rank: int, report: Report) -> tuple[Bundle, bytes] | None:
        """Take in one slice's proof; where with it every slice of the bundle is there, the joint that goes to the verifier, and its envelope.

        Raises Unassigned for a slice that the rank was not asked for, or bytes that are none.
        """
        number, which = report.meta.get("bundle"), report.meta.get("slice")
        bundle = self._bundles.given(rank, number)
        slices = self._bundles.slices
        if bundle is None or slices == 1 or bundle.fallback or type(which) is not int or not 0 <= which < slices:
            raise Unassigned(f"slice {str(which)[:20]} of bundle {str(number)[:20]}, which rank {rank} was not given or has answered")
        if (bundle.id, which) in self._said:  # also of one that is cancelled: else a rank could keep itself from being silent for ever
            raise Unassigned(f"slice {which + 1} of bundle {bundle.id} twice")
        self._said.add((bundle.id, which))
        self._there = {id_: parts for id_, parts in self._there.items() if id_ in self._bundles.waiting}
        if bundle.id not in self._bundles.waiting:
            return None  # it is cancelled, and its rank does not know that yet
        parts = self._there.setdefault(bundle.id, {})
        try:
            parts[which] = unpack(report.blob, self._circuits.of(bundle), which)
        except FormatError as error:
            raise Unassigned(f"bundle {bundle.id}: {error}") from error
        pair = self._copies.pair(bundle)
        return None if pair is None or pair[1].id in self._tried else self._join(*pair)

    def _join(self, original: Bundle, copy: Bundle) -> tuple[Bundle, bytes] | None:
        """The joint of the two, in the verifier; None where a slice is missing yet."""
        whose = [next((b for b in (original, copy) if number in self._there.get(b.id, {})), None) for number in range(self._bundles.slices)]
        by = tuple(bundle for bundle in whose if bundle is not None)
        if len(by) < len(whose):
            return None
        self._tried.add(copy.id)
        parts = [self._there[bundle.id][number] for number, bundle in enumerate(by)]
        proof = Proof(b"".join(part.computation for part in parts), parts[0].commitment, parts[-1].outputs)
        joint = Bundle(self._bundles.number(), original.rank, original.round, original.rows, original.slots, original.attempt, original.outputs)
        data, circuit = self._accounts.data(joint), self._circuits.of(joint)
        blob = sealed(circuit, joint.rows, data, joint.outputs, proof, node_id=self._members[joint.rank].node_id, job_id=self._job_id,
                      round=joint.round, bundle=joint.id, attempt=joint.attempt)
        self._joints[joint.id] = _Joint(original, copy, by)
        self._circuits.submit_joined(joint, data, proof)
        log.info("bundle %d is bundle %d of %s, whose slices %s are of %s", joint.id, original.id, self._members[original.rank],
                 ", ".join(str(i + 1) for i, bundle in enumerate(by) if bundle is copy), self._members[copy.rank])
        return joint, blob

    def conclude(self, bundle: Bundle, blob: bytes, verdict: Verdict) -> None:
        """Take in the verdict on any bundle; of a joint, blame or settle its two ranks."""
        joint = self._joints.pop(bundle.id, None)
        if joint is None:
            self._judge.conclude(bundle, blob, verdict)
            return
        pair = self._copies.pair(joint.original)
        live = pair is not None and pair[1].id == joint.copy.id
        if (verdict.status == REJECTED).any():
            self._blame(joint, blob, verdict, live)
        elif live:  # else one of them was faster with all of it
            for one in (joint.original, joint.copy):
                if proved := sum(each is one for each in joint.by):
                    self._pace.took_part(one, proved / len(joint.by))
            self._copies.settle_joined(joint.original, joint.copy, bundle)
            self._judge.conclude(bundle, blob, verdict)

    def _blame(self, joint: _Joint, blob: bytes, verdict: Verdict, live: bool) -> None:
        """Blame the ranks whose slices are wrong; whoever's are not goes on proving the bundle."""
        self._judge.verify_seconds += verdict.seconds
        wrong = [one for one in (joint.original, joint.copy) if any(joint.by[number] is one for number in verdict.faults)]
        if not wrong:
            log.warning("the slices of bundle %d from %s and %s do not make a proof (%s); whose fault it is, is not known: both prove it whole",
                        joint.original.id, self._members[joint.original.rank], self._members[joint.copy.rank], verdict.text)
        for one in wrong:
            mine = ", ".join(str(number + 1) for number in verdict.faults if joint.by[number] is one)
            text = f"slice {mine} of a bundle that two ranks prove is wrong: {verdict.text}"
            if not live or one.id not in self._bundles.waiting:
                self._judge.blame(self._members[one.rank], one, text)
                continue
            self._judge.reject(one, blob, text)
            if one.id in self._bundles.waiting:  # its rank may go on, with other bundles
                self._copies.let_go(one)
