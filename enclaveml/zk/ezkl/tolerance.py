"""How far a circuit's outputs may be from the float model's, and what is no rounding but another function.

Where a job gives ``proof.tolerance`` that is the bound. Where it gives none, the bound follows what the sample rows need, but
only as far as rounding goes: of each output at most PART of its largest value there (or 0.01, where that is more). A circuit
further off than that may prove something else than the model, so the job is refused until the user allows it in so many words.

Rounding shrinks with the scale, by half for each bit. A deviation that does not is a step in the model (round, a comparison,
argmax) which rounding tips over, or an operator that ezkl compiles to another function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.onnx_run import run
from enclaveml.zk.ezkl.plan import Progress
from enclaveml.zk.ezkl.probes import Probe
from enclaveml.zk.interface import DEFAULT_TOLERANCE, CircuitRequest, ModelFunction
from enclaveml.zk.rows import rounded_up

#: Part of an output's largest float value on the sample rows that the deviation may have where no tolerance is given. The
#: deepest networks measured here (an encoder, a residual network, a million parameters) are off by less than 0.002 of theirs,
#: at coarse scales too; a flag or a count that is wrong by 1 is more than a hundredth of anything below 100.
PART = 0.01

#: Bits of scale between two probes for their deviations to be compared: rounding leaves 1/16 of the coarser one's.
APART_BITS = 4

#: Part of an output's largest value that the float model's own float32 arithmetic may be off by, at any scale.
FLOAT32_PART = 1e-4


def tolerance_of(
    request: CircuitRequest, function: ModelFunction, outputs: np.ndarray, truth: np.ndarray, progress: Progress
) -> float:
    """The tolerance of a circuit whose witnesses give ``outputs`` (S, D) where the float model gives ``truth`` (S, D).

    As asked, else 0.01, else twice what the sample rows need. Raises JobError where they need more than is given, and
    where none is given and some output needs more than PART of its largest value, or more than the smallest output may have.
    """
    gaps = np.abs(outputs - truth)
    found = float(gaps.max(initial=0.0)) if np.isfinite(gaps).all() else math.inf
    if request.tolerance is not None:
        if not found <= request.tolerance:
            raise JobError(
                f"the model's proved outputs deviate from its float outputs by {found:.3g} on the sample rows, "
                f"more than proof.tolerance {request.tolerance:g}"
            )
        return request.tolerance
    if not math.isfinite(found):
        raise JobError("the model's outputs on the sample rows are not finite")
    start, biggest = 0, []
    sizes = function.output_sizes or (truth.shape[1],)
    for number, size in enumerate(sizes):
        mine = slice(start, start + size)
        start += size
        off, largest = (float(np.abs(a[:, mine]).max(initial=0.0)) for a in (gaps, truth))
        biggest.append(largest)
        if off > max(DEFAULT_TOLERANCE, PART * largest):
            which = f"output {number + 1} of {len(sizes)}: " if len(sizes) > 1 else ""
            raise JobError(
                f"{which}the model's proved outputs deviate from its float outputs by {off:.3g} on the sample rows; "
                f"where a job gives no proof.tolerance, {PART:g} of the largest, {largest:.3g}, or {DEFAULT_TOLERANCE:g} is allowed: find out "
                f"why it is so far off, or give a finer proof.scale, or proof.tolerance: {rounded_up(2 * off):g} if results that far off "
                "serve you"
            )
    if 2 * found <= DEFAULT_TOLERANCE:
        return DEFAULT_TOLERANCE
    tolerance = rounded_up(2 * found)
    if tolerance > rounded_up(2 * max(DEFAULT_TOLERANCE, PART * min(biggest))):  # rows are held to one number for all outputs
        raise JobError(
            f"the model's proved outputs deviate from its float outputs by {found:.3g} on the sample rows: a tolerance of {tolerance:g} "
            f"for every output, of which the smallest goes up to {min(biggest):.3g}, would hold that one to nothing; bring the outputs to "
            f"one size, give a finer proof.scale, or proof.tolerance: {tolerance:g} if that serves you"
        )
    progress(f"tolerance {tolerance:.2g}: twice the deviation {found:.2g} of the sample rows")
    return tolerance


def another_function(bench: Bench, probes: Sequence[Probe], rows: np.ndarray, truth: np.ndarray, limit: float) -> str:
    """What to say where an output's deviation, beyond ``limit``, stays as it is while the scale gets finer; "" where none does.

    probes: of whole models, at scales of inputs and weights alike. rows (S, ...) and truth (S, D) of the sample.
    """
    alike = [p for p in probes if p.gaps is not None and p.numerics.scale == p.numerics.input_scale and np.isfinite(p.gaps).all()]
    if not alike:
        return ""
    fine = max(alike, key=lambda p: (p.numerics.scale, -p.deviation))
    coarse = [p for p in alike if p.numerics.scale <= fine.numerics.scale - APART_BITS]
    if not coarse:
        return ""
    least = np.min([p.gaps.max(axis=0) for p in coarse], axis=0)  # of each output column
    here = fine.gaps.max(axis=0)
    floor = np.maximum(limit, FLOAT32_PART * np.abs(truth).max(axis=0, initial=0.0))
    wrong = np.flatnonzero((here > floor) & (4 * here > least))
    if not len(wrong):
        return ""
    column = int(wrong[here[wrong].argmax()])
    row = int(fine.gaps[:, column].argmax())
    scale = min(p.numerics.scale for p in coarse)
    return (
        f"output {column} deviates from the float model's by {here[column]:.3g} at scale {fine.numerics.scale}, no less than at "
        f"scale {scale} (sample row {row}): this is no rounding. {_whose(bench, rows[row], truth[row, column], column)}. proof.tolerance above that lets it pass where it is meant"
    )


def _whose(bench: Bench, row: np.ndarray, true: float, column: int) -> str:
    """Who makes another function of the model: the export, or ezkl."""
    step = ("Either a step in the model (round, a comparison, argmax) is tipped over by rounding, or {} compiles an operator to "
            "another function (LAYERS.md has the known ones): take it out of the model, or do it outside")
    try:
        exported = float(run(bench.canonical, row[None].astype(bench.function.dtype))[0, column])
    except Exception:  # the reference evaluator has kinds of its own, and lacks operators; the refusal stands without it
        return step.format("the export or ezkl")
    if abs(exported - true) > max(1e-3, FLOAT32_PART * 10 * abs(true)):
        return f"The exported ONNX document gives {exported:.4g} where the model gives {true:.4g}: the export makes another function of it"
    return step.format("ezkl")
