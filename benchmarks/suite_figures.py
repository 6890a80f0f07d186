"""What a suite's document says of each contender: seconds a unit, their spread, and whether they are stable.

The noise of a figure is the range of its rounds. A figure is marked unstable where that range is wide, or where others kept
the machine busy meanwhile (CPU seconds and ratios, which that hardly changes, only by their range).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

#: Widest range of a stable figure's rounds, in its median.
WIDEST = 0.15

#: Processors that others may keep busy, on average over a case, while its figures count as stable.
FOREIGN = 0.2


@dataclass(frozen=True)
class Figure:
    """One number measured in every round: what is measured, in words, and the rounds' values, all above 0."""

    case: str
    contender: str
    metric: str
    rounds: tuple[float, ...]
    unstable: tuple[str, ...] = ()

    @property
    def middle(self) -> float:
        return median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)

    @property
    def spread(self) -> float:
        """The rounds' range in their median."""
        return (self.high - self.low) / self.middle

    @property
    def key(self) -> tuple[str, str, str]:
        return self.case, self.contender, self.metric


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """Every figure of a document: per contender seconds a unit by the clock, CPU seconds a unit where they were measured,
    and the ratio to the case's first contender, round by round, which a slower machine hardly changes."""
    return [figure for case in document["cases"] for figure in case_figures(case)]


def case_figures(case: Mapping[str, Any]) -> list[Figure]:
    """The figures of one case of a document; none of a case that failed, whose rounds are not whole."""
    if case["error"]:
        return []
    busy = case["others"]
    disturbed = (f"others on {busy:.1f} processors",) if busy is not None and busy > FOREIGN else ()
    found: list[Figure] = []
    for contender in case["contenders"]:
        found += _of(case, contender, disturbed)
    return found


def _of(case: Mapping[str, Any], contender: Mapping[str, Any], disturbed: tuple[str, ...]) -> list[Figure]:
    turns, first = contender["turns"], case["contenders"][0]

    def figure(metric: str, values: Sequence[float], marks: tuple[str, ...]) -> Figure:
        made = Figure(case["name"], contender["name"], metric, tuple(values))
        clock = "CPU " if metric.startswith("CPU ") else ""
        wide = (f"{clock}rounds {100 * made.spread:.0f} % apart",) if made.spread > WIDEST else ()
        return Figure(made.case, made.contender, metric, made.rounds, (*wide, *marks))

    seconds = [turn["seconds"] / turn["units"] for turn in turns]
    made = [figure(f"s a {case['unit']}", seconds, disturbed)]
    if all(turn["cpu_seconds"] for turn in turns):
        made.append(figure(f"CPU s a {case['unit']}", [turn["cpu_seconds"] / turn["units"] for turn in turns], ()))
    if contender is not first:
        beside = {turn["round"]: turn["seconds"] / turn["units"] for turn in first["turns"]}
        ratios = [s / beside[turn["round"]] for s, turn in zip(seconds, turns, strict=True)]
        made.append(figure(f"time in that of {first['name']}", ratios, ()))
    return made
