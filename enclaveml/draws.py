"""Which rows of a rank are proved where the job asks for fewer than all: drawn once its outputs are in."""

from __future__ import annotations

import secrets

import numpy as np

from enclaveml.accounts import Accounts
from enclaveml.ledger import Round
from enclaveml.roster import Member


def draw(accounts: Accounts, coverage: float, round_: Round, member: Member, local: np.ndarray,
         slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows to prove, without replacement, from fresh randomness; the others stay unproved.

    Rows that were taken from another rank are proved in any case, and so are those that an earlier session
    drew, and all rows of a rank that was caught before and may go on: the draw is among the rest.
    """
    free = (round_.attempt[local, slots] == 1) & (member.rejections == 0)
    free &= ~accounts.drawn_before[local + round_.start]
    rest = np.flatnonzero(free)
    if len(rest):
        seed = secrets.randbits(128)
        wanted = int(np.ceil(coverage * len(rest)))
        drawn = rest[np.random.Generator(np.random.PCG64(seed)).choice(len(rest), wanted, replace=False)]
        accounts.journal.append("draw", {"round": round_.number, "rank": member.rank, "seed": f"{seed:032x}",
                                        "of": len(rest), "drawn": wanted}, rows=local[drawn] + round_.start)
        free[drawn] = False
    accounts.end_unproved(round_, member.rank, local[free], slots[free])
    return local[~free], slots[~free]
