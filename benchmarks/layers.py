"""Which layers can be proved, and how exactly: the table in ``enclaveml/LAYERS.md``, made by trying each.

``python -m benchmarks.layers`` tries every case of ``layer_cases.py`` and writes the table; ``python -m
benchmarks.layers NAME...`` prints the lines of some. ``tests/test_layers.py`` holds the file against what is found.
A case is one layer on random rows: exported, compiled, and its witness compared with the float outputs at several
scales. No keys, no proofs: a witness is what a proof is about. A minute on one core.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.layer_cases import CASES, Case
from enclaveml.errors import JobError, ProofError
from enclaveml.zk import process
from enclaveml.zk.ezkl.advice import advise
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.plan import Choice, Numerics
from enclaveml.zk.ezkl.probes import WIDE
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.tolerance import DEFAULT_TOLERANCE
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.scratch import Scratch

TARGET = Path(__file__).resolve().parents[1] / "enclaveml" / "LAYERS.md"

#: Scales tried, and rows of each case.
SCALES = (8, 10, 13)
ROWS = 8

EXACT, WITHIN, REFUSED = "exact", "within tolerance", "refused"


@dataclass(frozen=True)
class Found:
    """What a case gave: its state, the largest deviation at each of SCALES (empty where refused), cells of the
    circuit for each output value at the state's scale, tables of lookups, what to know or to do, and how many different
    float outputs the rows give (of one only, agreement would show nothing)."""

    name: str
    state: str
    deviations: tuple[float, ...] = ()
    cells: int = 0
    tables: int = 0
    note: str = ""
    distinct: int = 0

    def line(self) -> str:
        """The table's line."""
        off = [_off(value, scale) for value, scale in zip(self.deviations, SCALES, strict=False)] or [""] * len(SCALES)
        cost = [f"{self.cells:,}", str(self.tables or "")] if self.deviations else ["", ""]
        return f"| {' | '.join([self.name, self.state, *off, *cost, self.note])} |"


def _off(value: float, scale: int) -> str:
    """A deviation in words that rounding elsewhere does not change: exact, or its power of ten from above."""
    if value <= 2.0 ** -(scale + 1):
        return "exact"
    return f"< 1e{math.floor(math.log10(value)) + 1:+d}" if math.isfinite(value) else "no witness"


def examine(case: Case, child: process.Child) -> Found:
    """Try one case."""
    function, rows = case.make(ROWS)
    distinct = 0
    with contextlib.closing(Scratch()) as scratch:
        bench = Bench(function, "public", child, scratch)
        try:
            wrong = [a for a in advise(bench.canonical) if a.refused]
            truth = None if wrong else float_outputs(function, rows, ROWS)
            found = [] if truth is None else _trials(bench, rows, truth)
            distinct = 0 if truth is None else len(np.unique(truth))
        except (JobError, ProofError) as error:
            return Found(case.name, REFUSED, note=f"{case.note or str(error).splitlines()[0]}")
    if wrong:
        return Found(case.name, REFUSED, note=f"{wrong[0].why}: {wrong[0].instead}")
    deviations = tuple(off for off, _, _ in found)
    good = [i for i, off in enumerate(deviations) if off <= DEFAULT_TOLERANCE]
    if not good:
        return Found(case.name, f"off by more than {DEFAULT_TOLERANCE:g}", deviations, *found[-1][1:], case.note, distinct)
    exact = all(off <= 2.0 ** -(scale + 1) for off, scale in zip(deviations, SCALES, strict=True))
    state = EXACT if exact else f"{WITHIN} from scale {SCALES[good[0]]}"
    return Found(case.name, state, deviations, *found[good[0]][1:], case.note, distinct)


def _trials(bench: Bench, rows: np.ndarray, truth: np.ndarray) -> list[tuple[float, int, int]]:
    """At each of SCALES the deviation, cells for each output value, and lookups' tables.

    Raises ProofError where no scale gives a witness.
    """
    found: list[tuple[float, int, int]] = []
    problem: ProofError | None = None
    for scale in SCALES:
        choice = Choice(Numerics(scale, 1, scale), WIDE[0], 2, inner=2, logrows=16, rows=ROWS)
        settings = bench.settings(choice)
        cells = math.ceil(settings["num_rows"] * choice.inner / truth.size)
        off = math.inf
        try:
            outputs = bench.trial(Choice(choice.numerics, *WIDE, inner=2, logrows=16, rows=ROWS), rows).outputs
            gap = np.abs(outputs - truth)
            off = float(gap.max()) if np.all(np.isfinite(gap)) else math.inf
        except ProofError as error:
            problem = error
        found.append((off, cells, len(settings["required_lookups"])))
    if problem is not None and all(math.isinf(off) for off, _, _ in found):
        raise problem
    return found


def examined(names: Sequence[str] = ()) -> list[Found]:
    """The cases of these names, or all, in the table's order."""
    with contextlib.closing(process.Child(EZKL, 1)) as child:
        return [examine(case, child) for case in CASES if not names or case.name in names]


def document(found: Sequence[Found]) -> str:
    """The whole file."""
    heads = ["layer or function", "state", *(f"at scale {scale}" for scale in SCALES), "cells a value", "tables", "what to know"]
    return "\n".join([
        "# Layers, and what a proof makes of them",
        "",
        "Made by `python -m benchmarks.layers`, held by `tests/test_layers.py`; not to be edited. Each line is one",
        f"layer or function on {ROWS} random rows of about unit size (multiples of 1/16, or of 1/2 for comparisons: no scale here rounds them),",
        "exported and run in fixed point beside its own float outputs. `enclaveml check job.yaml` says the same of a whole",
        "model, on its own rows.",
        "",
        "- **exact**: every output is the float one to half a step of the scale. **Within tolerance from scale s**: the",
        f"  largest deviation is at most {DEFAULT_TOLERANCE:g}, the default of `proof.tolerance`, from that scale on. **Refused**:",
        "  no circuit, or one for another function; a job with it ends with status 2 and says what to change.",
        "- The scale is the number of fractional bits (`proof.scale`; without it the plan chooses). A deviation is given",
        "  by the power of ten that it stays below.",
        "- **Cells a value**: cells of the circuit for each output value at that scale, with a division after every product",
        "  (multiplier 1); the plan chooses fewer divisions where values stay in range, and shares matrix products over the",
        "  rows of a proof. A ReLU's 11 to 16 cells are the measure. **Tables**: kinds of lookup; their table must fit the",
        "  circuit, so a fine scale costs a large one.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(one.line() for one in found),
        "",
    ])


if __name__ == "__main__":
    if wanted := sys.argv[1:]:
        for one in examined(wanted):
            print(one.line())
    else:
        TARGET.write_text(document(examined()), encoding="utf-8")
