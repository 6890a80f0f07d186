"""Two runs of the suite beside each other: what changed beyond the noise.

The rule. A figure's noise is the range of its rounds, widened by DRIFT at both ends: two runs on an unchanged machine differ by
some per cent in all rounds alike (memory layout, temperature). A figure has changed where the two widened ranges have no value
in common. Were both runs alike, that would happen by chance in at most 2 of n + m over n such comparisons of n rounds with
m (all rounds of one run below all of the other's, Mann and Whitney 1947): in 2 of 20 at 3 rounds each, 2 of 252 at 5. With
fewer than LEAST rounds nothing is said. Where a figure is marked unstable in either run, a change is not claimed but
shown as to be measured again. Of runs on different machines only the ratios between a run's contenders are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from benchmarks.suite_figures import Figure, figures

#: By what a figure's range is widened at either end.
DRIFT = 0.02

#: Rounds that each run needs, at least.
LEAST = 3


class Verdict(Enum):
    """What is said of a figure that both runs have. Less is better in all of them."""

    SAME = "no change beyond noise"
    BETTER = "better"
    WORSE = "worse"
    UNSTABLE = "apart, but unstable: measure again"
    FEW = "too few rounds"


@dataclass(frozen=True)
class Change:
    """One figure in both runs; ``chance``: how often such a change is said of runs that are alike, at most."""

    before: Figure
    after: Figure
    verdict: Verdict
    chance: float

    @property
    def ratio(self) -> float:
        """After in before, by the medians."""
        return self.after.middle / self.before.middle


@dataclass(frozen=True)
class Comparison:
    """All figures of both runs; figures that one run alone has; and what differs between the runs themselves."""

    changes: tuple[Change, ...]
    only_before: tuple[Figure, ...]
    only_after: tuple[Figure, ...]
    differs: tuple[str, ...]

    @property
    def changed(self) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.verdict in (Verdict.BETTER, Verdict.WORSE))

    @property
    def worse(self) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.verdict is Verdict.WORSE)


def judge(before: Figure, after: Figure) -> Change:
    """Apply the rule to one figure."""
    n, m = len(before.rounds), len(after.rounds)
    chance = 2 / math.comb(n + m, n)
    if min(n, m) < LEAST:
        return Change(before, after, Verdict.FEW, chance)
    apart = after.low * (1 - DRIFT) > before.high * (1 + DRIFT) or after.high * (1 + DRIFT) < before.low * (1 - DRIFT)
    if not apart:
        verdict = Verdict.SAME
    elif before.unstable or after.unstable:
        verdict = Verdict.UNSTABLE
    else:
        verdict = Verdict.WORSE if after.middle > before.middle else Verdict.BETTER
    return Change(before, after, verdict, chance)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """Compare two documents of the suite."""
    one, other = ({f.key: f for f in figures(document)} for document in (before, after))
    alike = same_machine(before, after)
    shared = [key for key in one if key in other and (alike or key[2].startswith("time in "))]
    return Comparison(
        tuple(judge(one[key], other[key]) for key in shared),
        tuple(f for key, f in one.items() if key not in other), tuple(f for key, f in other.items() if key not in one),
        tuple(_differences(before, after, alike)))


def same_machine(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the two runs name the same processor, as many of them and as much memory."""
    return all(before["machine"].get(name) == after["machine"].get(name) for name in ("cpu", "cores", "memory_gb"))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], alike: bool) -> list[str]:
    told = []
    if not alike:
        told.append("the machines differ: only ratios between contenders of the same run are compared")
    if before["suite"] != after["suite"]:
        told.append(f"settings: {before['suite']} and {after['suite']}, which measure other amounts of work")
    for name in sorted({*before["machine"], *after["machine"]}):
        values = [str(document["machine"].get(name, "not there")) for document in (before, after)]
        if values[0] != values[1]:
            told.append(f"{name}: {values[0]} and {values[1]}")
    for which, document in (("first", before), ("second", after)):
        told += [f"{case['name']} failed in the {which} run: {case['error']}" for case in document["cases"] if case["error"]]
    return told
