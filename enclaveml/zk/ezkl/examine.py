"""Whether a model can be proved, and where its cost would sit: everything of a plan but set-up and keys."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.capacity import allowed_cores
from enclaveml.errors import JobError, ProofError
from enclaveml.zk import process
from enclaveml.zk.export import HASH_BATCH
from enclaveml.zk.ezkl.advice import USUAL_SCALE, Advice, advise, refusals
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.layers import Layer, layers, modules_of
from enclaveml.zk.ezkl.layouts import TooLarge
from enclaveml.zk.ezkl.plan import Candidate, Progress, work_of
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.search import Search
from enclaveml.zk.ezkl.slices.bench import Whole
from enclaveml.zk.ezkl.slices.plan import planned
from enclaveml.zk.ezkl.tolerance import tolerance_of
from enclaveml.zk.interface import CircuitRequest, ModelFunction
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.scratch import Scratch

#: Rows that the ONNX document is run on: its reference evaluator is slow.
ONNX_ROWS = 8

#: Cells of a circuit beyond which its layers are measured at 2 rows a proof: a cut takes about a microsecond a cell.
LAYER_CELLS = 1 << 18


@dataclass(frozen=True)
class Examination:
    """What was found of one model.

    truth (S, D) float64: the float model's outputs on the sample rows. onnx (n, D): the exported document's
    on the first n. proved (S, D): the witness's at the plan's scales. candidate: the plan that comes first; slices: where the model is cut, each slice's plan instead.
    layers: at ``layers_at`` rows a proof. row_seconds: predicted CPU seconds a row. memory: predicted peak, bytes. wall: predicted seconds for the job.
    tolerance: what the circuit would get. refused: why it cannot be proved, else ""; what follows is then missing where it was not reached.
    """

    advice: tuple[Advice, ...] = ()
    refused: str = ""
    model_hash: str = ""
    truth: np.ndarray | None = None
    onnx: np.ndarray | None = None
    proved: np.ndarray | None = None
    candidate: Candidate | None = None
    slices: tuple[Candidate, ...] = ()
    key_bytes: float = math.nan
    layers: tuple[Layer, ...] = ()
    layers_at: int = 0
    tolerance: float = math.nan

    @property
    def plans(self) -> tuple[Candidate, ...]:
        """The plan, or those of the slices; none where there is none."""
        return self.slices or (() if self.candidate is None else (self.candidate,))

    @property
    def proof_seconds(self) -> float:
        """CPU seconds of one proof, of all slices."""
        return sum(plan.prove_seconds for plan in self.plans) if self.plans else math.nan

    @property
    def row_seconds(self) -> float:
        return self.proof_seconds / self.plans[0].choice.rows if self.plans else math.nan

    @property
    def memory(self) -> float:
        """A child holds one slice's key at a time."""
        return max((plan.peak_bytes for plan in self.plans), default=math.nan)


def examine(
    function: ModelFunction, rows: np.ndarray, request: CircuitRequest, progress: Progress, weights: Mapping[str, Any] = {}
) -> Examination:
    """Export, compare and plan a model on sample rows (S, *row_shape), without keys. weights: the model's, by name, to tell its layers by.

    Never raises for a model that cannot be proved: that is ``refused``.
    """
    rows = np.ascontiguousarray(rows).astype(function.dtype)
    found = Examination()
    with contextlib.closing(process.Child(EZKL, len(allowed_cores()))) as child, contextlib.closing(Scratch()) as scratch:
        bench = Bench(function, request.inputs, child, scratch)
        try:
            progress("exporting the model to ONNX")
            document = Path(bench.document(2)).read_bytes()
            found = replace(found, model_hash=bench.model_hash, advice=tuple(advise(bench.canonical, request.scale or USUAL_SCALE)))
            truth = float_outputs(function, rows, min(64, max(2, len(rows))))
            found = replace(found, truth=truth, onnx=_run(document, rows[:ONNX_ROWS]))
            progress("looking for a circuit: witnesses of the sample rows at several scales")
            search = Search(bench, request, rows, truth, progress)
            if request.slices is not None and request.slices > 1:
                return _cut(found, function, rows, request, child, progress, weights)
            try:
                search.refuse_too_large()
                first = next(search.tried(search.candidates(search.accurate())), None)
            except TooLarge as error:  # before the search or after it: as in EzklSystem.prepare
                if request.slices is not None:
                    raise
                progress(f"{error}; it is cut into slices (proof.slices: auto)")
                return _cut(found, function, rows, request, child, progress, weights)
            if first is None:
                raise JobError(search.why_none())
            candidate, _ = first
            proved = search.outputs[candidate.choice.numerics]
            found = replace(found, proved=proved, candidate=candidate, key_bytes=candidate.key_bytes,
                            advice=tuple(advise(bench.canonical, candidate.choice.numerics.scale)))
            found = replace(found, tolerance=tolerance_of(request, function, proved, truth, progress))
            progress("measuring the cost of each layer")
            at = 2 if _cells(bench, candidate) > LAYER_CELLS else candidate.choice.rows
            return replace(found, layers=_layers(bench, candidate, at, modules_of(bench.canonical, weights)), layers_at=at)
        except (JobError, ProofError) as error:
            return replace(found, refused=(refusals(bench.canonical) if found.advice else "") + str(error))


def job_seconds(examination: Examination, request: CircuitRequest) -> float:
    """Predicted wall seconds of proving the job, on the cores of the request."""
    plans = examination.plans
    return examination.proof_seconds * work_of(request).waves(plans[0].choice.rows) if plans else math.nan


def _cut(
    found: Examination, function: ModelFunction, rows: np.ndarray, request: CircuitRequest, child: process.Child, progress: Progress,
    weights: Mapping[str, Any],
) -> Examination:
    """The examination of the model in slices; each slice's layers are told apart. Raises JobError, ProofError."""
    assert found.truth is not None
    with contextlib.ExitStack() as stack:
        whole = Whole(function)
        parts = planned(whole, rows, found.truth, request, child,
                        lambda: stack.enter_context(contextlib.closing(Scratch())), progress)
        pairs = [(part.bench, part.candidate) for part in parts if part.candidate is not None]
        plans = tuple(candidate for _, candidate in pairs)
        proved = parts[-1].outputs
        found = replace(found, tolerance=tolerance_of(request, function, proved, found.truth, progress))
        progress("measuring the cost of each layer")
        at = 2 if max(_cells(*pair) for pair in pairs) > LAYER_CELLS else plans[0].choice.rows
        modules = modules_of(whole.document(HASH_BATCH), weights)
        told = [replace(each, slice=number) for number, pair in enumerate(pairs, 1) for each in _layers(*pair, at, modules)]
        return replace(found, proved=proved, slices=plans, key_bytes=sum(plan.key_bytes for plan in plans), layers=tuple(told), layers_at=at)


def _cells(bench: Bench, candidate: Candidate) -> int:
    """About how many cells a circuit has."""
    return bench.settings(candidate.choice)["num_rows"] * candidate.choice.inner


def _layers(bench: Bench, candidate: Candidate, rows: int, modules: Mapping[str, str]) -> tuple[Layer, ...]:
    """The layers of a circuit at so many rows a proof."""
    choice = replace(candidate.choice, rows=rows)
    return tuple(layers(bench, choice, Path(bench.document(rows, choice.bound)).read_bytes(), modules))


def _run(document: bytes, rows: np.ndarray) -> np.ndarray:
    """Outputs (n, D) float64 of an ONNX document of batch 2 by onnx's reference evaluator."""
    from enclaveml.zk.ezkl.onnx_run import run

    return run(document, rows)
