"""Running a suite: cases one after the other, in each its contenders in turns, every turn timed and checked.

A case opens its contenders, callables of the round's number that do their work, check it, and say how long it took; a wrong
result raises WrongResult and ends the case, and the suite's exit status is then 1. Rounds interleave all
contenders of a case, each round beginning with another one, so that what disturbs the machine disturbs all.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.busy import Moment, others
from benchmarks.common import WrongResult
from benchmarks.machine import machine
from enclaveml.progress import significant

#: Of the JSON document; one that says another is refused.
FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """A turn as its contender has it: units done (rows, proofs, MB), seconds by the clock, and CPU seconds if they are known."""

    units: float
    seconds: float
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Contender:
    """One way of doing a case's work. ``turn`` takes the round's number, from 0."""

    name: str
    turn: Callable[[int], Timing]
    detail: str = ""


@dataclass(frozen=True)
class Case:
    """What is measured. ``what`` says what is timed and what is checked; the first contender is what others are put beside.

    open: takes the setting ("quick" or "full") and an empty folder, and yields the contenders.
    settings: those to which the case belongs.
    """

    name: str
    what: str
    unit: str
    open: Callable[[str, Path], AbstractContextManager[Sequence[Contender]]]
    settings: tuple[str, ...] = ("quick", "full")


def run_suite(cases: Sequence[Case], setting: str, rounds: int, command: str,
              keep: Callable[[Mapping[str, Any]], None], say: Callable[[str], None]) -> dict[str, Any]:
    """Run the cases; returns the suite's document (see ``_document``).

    command: the command line as typed. keep: gets the document after every case, so that what was measured is
    there if the rest is cut off. say: gets progress lines.
    """
    began, found = time.monotonic(), []
    started, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]

    def document() -> dict[str, Any]:
        return {"format": FORMAT, "suite": setting, "command": command, "machine": machine(), "started": started,
                "seconds": time.monotonic() - began, "load_before": load, "load_after": os.getloadavg()[0],
                "rounds": rounds, "cases": found}

    for number, case in enumerate(cases, 1):
        head = f"[{number}/{len(cases)}] {case.name}"
        say(f"{head}: preparing")
        found.append(run_case(case, setting, rounds, lambda text, head=head: say(f"{head}: {text}")))
        keep(document())
    return document()


def run_case(case: Case, setting: str, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """One case's part of the document. A failure of any kind is told in it under ``error``."""
    done: dict[str, Any] = {"name": case.name, "what": case.what, "unit": case.unit, "error": "", "wrong": False, "others": None,
                            "command": f"python -m benchmarks --{setting} --rounds {rounds} --only {case.name}",
                            "prepare_seconds": 0.0, "contenders": []}
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="enclaveml-benchmark-") as name, \
                case.open(setting, Path(name)) as contenders:
            done["prepare_seconds"] = time.monotonic() - began
            done["contenders"] = [{"name": c.name, "detail": c.detail, "turns": []} for c in contenders]
            before = Moment.now()
            _rounds(case, contenders, done["contenders"], rounds, say)
            done["others"] = others(before, Moment.now())
    except Exception as error:  # noqa: BLE001 the other cases go on; the report and the exit status tell of it
        done["error"], done["wrong"] = f"{type(error).__name__}: {error}"[:2000], isinstance(error, WrongResult)
        traceback.print_exc(file=sys.stderr)
        say(f"FAILED: {done['error']}")
    return done


def _rounds(case: Case, contenders: Sequence[Contender], into: Sequence[dict[str, Any]], rounds: int,
            say: Callable[[str], None]) -> None:
    began, turns = time.monotonic(), rounds * len(contenders)
    for number in range(rounds):
        for place in range(len(contenders)):
            which = (number + place) % len(contenders)
            contender, load, before = contenders[which], os.getloadavg()[0], Moment.now()
            timing = contender.turn(number)
            if not (timing.units > 0 and timing.seconds > 0):
                raise WrongResult(f"{contender.name}: {timing.units:g} {case.unit}s in {timing.seconds:g} s")
            busy = others(before, Moment.now())
            into[which]["turns"].append(asdict(timing) | {"round": number, "load": load, "others": busy})
            told = number * len(contenders) + place + 1
            left = (time.monotonic() - began) / told * (turns - told)
            cpu = "" if timing.cpu_seconds is None else f" ({significant(timing.cpu_seconds / timing.units)} CPU s)"
            foreign = "" if busy is None else f", others on {busy:.1f} processors"
            say(f"round {number + 1}/{rounds}: {contender.name}: {significant(timing.seconds / timing.units)} s a "
                f"{case.unit}{cpu}; load {load:.1f}{foreign}; about {left:.0f} s left of this case")
