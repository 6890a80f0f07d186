"""Which rows of a rank are proved where the job asks for fewer than all: drawn once its outputs are in.

A draw is among the rows of one rank in one round, after all outputs of the round: what a rank said
of a row never depends on whether it is drawn. Rounds keep memory bounded; that they are drawn from apart
costs nearly nothing and weakens no statement (``sampling.py``). With a beacon the whole job is one round.
"""

from __future__ import annotations

import logging
import math
import secrets

import numpy as np

from enclaveml import sampling
from enclaveml.accounts import Accounts
from enclaveml.beacon import Beacon
from enclaveml.job import JobSpec, ProofSpec
from enclaveml.ledger import READY, SENT, Round
from enclaveml.roster import Member

log = logging.getLogger(__name__)


class Draws:
    """Draws the rows to prove. ``beacon``: where their seeds are from, None for fresh randomness of rank 0."""

    def __init__(self, job: JobSpec, accounts: Accounts, beacon: Beacon | None = None) -> None:
        self._proof, self._accounts, self._beacon = job.proof, accounts, beacon

    def due(self, round_: Round) -> bool:
        """Whether the rows to prove may be drawn: all outputs of the round are in, and the beacon's value is there."""
        if (round_.stage == SENT).any():
            return False
        if self._beacon is None:
            return True
        local, slots = np.nonzero((round_.stage == READY) & (round_.attempt == 1) & ~round_.drawn)
        if not len(local):
            return True  # there is nothing to draw from
        return self._beacon.ready(round_.number, local + round_.start, round_.rank[local, slots],
                                  round_.output[local, slots])

    def draw(self, round_: Round, member: Member, local: np.ndarray,
             slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw the rows to prove, without replacement; the others stay unproved.

        Rows that were taken from another rank are proved in any case, and so are those that an earlier session
        drew, and all rows of a rank that was caught before and may go on: the draw is among the rest.
        """
        free = (round_.attempt[local, slots] == 1) & ~round_.drawn[local, slots] & (member.rejections == 0)
        rest = np.flatnonzero(free)
        if len(rest):
            seed = self._beacon.seed(member.rank) if self._beacon else secrets.token_hex(32)
            wanted = rows_to_draw(self._proof, len(rest), len(round_.data) == self._accounts.n_rows)
            rows = local[rest] + round_.start
            drawn = sampling.pick(rows, wanted, seed)
            self._accounts.journal.append(
                "draw", {"round": round_.number, "rank": member.rank, "seed": seed, "of": len(rest),
                         "drawn": wanted, "confidence": confidence(self._proof), "start": round_.start,
                         "stop": round_.start + len(round_.data)}, rows=rows[drawn])
            free[rest[drawn]] = False
        round_.drawn[local[~free], slots[~free]] = True
        self._accounts.end_unproved(round_, member.rank, local[free], slots[free])
        return local[~free], slots[~free]


def rows_to_draw(proof: ProofSpec, population: int, only_round: bool) -> int:
    """How many of a rank's rows in a round are to be proved."""
    if proof.audit is None:
        return math.ceil(proof.coverage * population)
    return sampling.to_draw(population, proof.audit.undetected_bad_rows, proof.audit.confidence, only_round)


def confidence(proof: ProofSpec) -> float:
    """The confidence at which the job's draws are spoken of."""
    return sampling.CONFIDENCE if proof.audit is None else proof.audit.confidence
