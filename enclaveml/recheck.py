"""``proof.recheck``: rank 0 computes some unproved rows itself, in float. A spot check, and no proof.

It convinces rank 0 alone, of the rows that it computed: their statuses stay ``unproved``, the file keeps
which they were (``/rechecks``). A float output further from rank 0's own than two devices' rounding can be
(a quarter of the tolerance, as ``judging`` has it) is a lie: its rank is caught.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Mapping

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.judging import Judge
from enclaveml.ledger import DONE, Round
from enclaveml.results_schema import RowStatus
from enclaveml.roster import Member

log = logging.getLogger(__name__)


class Recheck:
    """Recomputes the part ``share`` of each rank's unproved rows, in the round before it is closed."""

    def __init__(self, share: float, accounts: Accounts, judge: Judge, members: Mapping[int, Member]) -> None:
        self._share, self._accounts, self._judge, self._members = share, accounts, judge, members

    def check(self, round_: Round) -> None:
        """Recheck what became unproved since the round was opened; a rank that lied loses its unproved rows."""
        if not self._share:
            return
        fresh = (round_.stage == DONE) & (round_.status == RowStatus.UNPROVED) & ~round_.rechecked
        for rank in np.unique(round_.rank[fresh]).tolist():
            local, slots = np.nonzero(fresh & (round_.rank == rank))
            round_.rechecked[local, slots] = True
            drawn = secrets.SystemRandom().sample(range(len(local)), math.ceil(self._share * len(local)))
            at = np.sort(np.array(drawn, np.int64))
            self._compare(round_, self._members[rank], len(local), local[at], slots[at])

    def _compare(self, round_: Round, member: Member, of: int, local: np.ndarray, slots: np.ndarray) -> None:
        honest, deviation = self._judge.compare_floats(round_.data[local], round_.output[local, slots])
        rows = local.astype(np.int64) + round_.start
        self._accounts.journal.append(
            "recheck", {"rank": member.rank, "round": round_.number, "of": of, "differ": int((~honest).sum()),
                        "allowed": self._judge.allowed, "deviation": float(deviation[honest].max(initial=0.0))}, rows=rows)
        if not honest.all():
            lied = rows[~honest]
            round_.refuse(lied, member.rank)
            self._judge.blame(member, None, f"the float output of row {lied[0]} ({len(lied)} of {len(rows)} rechecked) is "
                                            f"not the model's: it deviates by {np.nanmax(deviation[~honest], initial=0):.4g}, "
                                            f"allowed {self._judge.allowed:.4g}")
