"""What ``enclaveml doctor`` found: one line each, with the remedy where something is to be mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True)
class Finding:
    """``check`` is what was looked at, ``text`` what was found, ``remedy`` what to do ("" where it is ok)."""

    check: str
    state: str
    text: str
    remedy: str = ""

    def line(self, who: str = "") -> str:
        """``warning  scratch   /nfs/tmp is nfs4, not node-local: set ENCLAVEML_SCRATCH ...``."""
        said = f"{who}: {self.text}" if who else self.text
        return f"{self.state:<8} {self.check:<9} {said}" + (f": {self.remedy}" if self.remedy else "")


def ok(check: str, text: str) -> Finding:
    """Nothing to mend."""
    return Finding(check, OK, text)


def merged(found: Sequence[Sequence[Finding]]) -> list[tuple[Finding, tuple[int, ...]]]:
    """Each finding once, with the ranks that have it (``found[p]`` are rank p's), in the order of rank 0's."""
    ranks: dict[Finding, list[int]] = {}
    for rank, mine in enumerate(found):
        for finding in mine:
            ranks.setdefault(finding, []).append(rank)
    order = list(dict.fromkeys(finding.check for finding in ranks))
    return sorted(((f, tuple(r)) for f, r in ranks.items()), key=lambda pair: order.index(pair[0].check))


def numbers(ranks: Sequence[int]) -> str:
    """``rank 3``, ``ranks 0-2, 5``."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"rank{'' if len(ranks) == 1 else 's'} {', '.join(parts)}"
