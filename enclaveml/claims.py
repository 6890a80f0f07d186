"""What the draws of a job say of each rank's rows, from its journal when the file is made and from the file in an audit.

A line per (session, rank) that has rows which ended unproved. Its strata are the rank's draws; a drawn row
counts as right where a proof of that rank verified it and as wrong in any other case: a rank that fails
to prove the rows that would give it away gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml.sampling import Stratum, strata_bad_at_most, words


@dataclass(frozen=True)
class Lines:
    """Rows by the session and rank that answered them: session, rank, row, all (K,)."""

    session: np.ndarray
    rank: np.ndarray
    row: np.ndarray

    def of(self, session: int, rank: int) -> np.ndarray:
        """The rows of one rank."""
        return self.row[(self.session == session) & (self.rank == rank)]


@dataclass(frozen=True)
class Claim:
    """Of ``population`` rows that were drawn from, ``most`` can be wrong, at ``confidence``; ``text`` says so."""

    population: int
    most: int
    confidence: float
    text: str


def claims(draws: Sequence[Mapping[str, Any]], nodes: Mapping[tuple[int, int], str], proved: Lines,
           unproved: Lines) -> dict[tuple[int, int], Claim]:
    """(session, rank) to its claim.

    draws: session, rank, of, confidence and rows (l,) of each draw. nodes: (session, rank) to node id. proved:
    rows of which a proof was verified. unproved: answers that ended unproved.

    Raises ValueError for draws that cannot be (more drawn than there were).
    """
    found = {}
    for session, rank in sorted({(d["session"], d["rank"]) for d in draws}):
        if not len(unproved.of(session, rank)):
            continue
        mine = [d for d in draws if (d["session"], d["rank"]) == (session, rank)]
        good = proved.of(session, rank)
        strata = [Stratum(d["of"], len(d["rows"]), int((~np.isin(d["rows"], good)).sum())) for d in mine]
        confidence = min(d["confidence"] for d in mine)
        population, most = sum(s.population for s in strata), strata_bad_at_most(strata, confidence)
        unseen = sum(s.unseen for s in strata)
        text = words(population, most, f"{nodes.get((session, rank)) or f'rank {rank}'}'s", confidence=confidence)
        if unseen:
            text += f" ({unseen} of {sum(s.drawn for s in strata)} drawn rows, not verified, count as wrong)"
        elif len(strata) > 1:
            text += f" (drawn in {len(strata)} rounds)"
        found[session, rank] = Claim(population, most, confidence, text)
    return found
