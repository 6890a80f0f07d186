"""The ranks as the aggregator knows them: who they are, what they did, what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Fate(Enum):
    """How a rank ended; the value is what the log and the file say."""

    OK = "ok"
    EXPELLED = "expelled"
    LOST = "lost"


@dataclass
class Member:
    """One rank. ``capacity`` is its weight in the split; ``computes`` whether it gets rows at all.

    children: how many provers it runs. rows_moved_in, rows_moved_out: rows not begun that it took over
    from, or lost to, another rank for speed. copies: bundles of others that it proved as well.
    discarded: its bundles that were not needed, because another rank's proof of them came first.
    """

    rank: int
    node_id: str
    host: str
    local_rank: int
    device: str
    memory_gb: float
    cores: float
    capacity: float
    computes: bool
    children: int = 1
    fate: Fate = Fate.OK
    fate_reason: str = ""
    fate_time: str = ""
    rows: int = 0
    rows_verified: int = 0
    proofs: int = 0
    rejections: int = 0
    inconsistent: int = 0
    failures: int = 0
    rows_moved_in: int = 0
    rows_moved_out: int = 0
    copies: int = 0
    discarded: int = 0
    evidence: list[str] = field(default_factory=list)

    @property
    def working(self) -> bool:
        """Whether it may be given rows."""
        return self.computes and self.fate is Fate.OK

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.node_id} on {self.host})"
