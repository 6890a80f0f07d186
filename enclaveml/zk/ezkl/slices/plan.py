"""The plan of a circuit in slices: numerics slice by slice, then one domain size and one number of rows for all.

Each slice is searched for as a model of its own (``search.py``), its sample rows what the slice before gives on
the sample rows *in fixed point*, at the scale at which that gives them: nothing is rounded between slices, so that the
field elements are the same on both sides. A slice is at first let deviate as a whole model is, from what it should give on those
rows; that is a guide and no more, for what counts is the end of the chain beside the float model, on every sample row. Where
that is too far off, slices are searched for with a part of the tolerance (SHARES), and scales get finer.

Commitments to the same values are equal only in circuits of the same domain, so all slices have the same 2^k rows; and a
bundle is the same rows in each, so they have the same B. Of these pairs the one is taken that the whole chain is
cheapest at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.zk import process
from enclaveml.zk.ezkl import cost
from enclaveml.zk.ezkl.layouts import Layouts, TooLarge
from enclaveml.zk.ezkl.onnx_run import run
from enclaveml.zk.ezkl.plan import SETUP_SHARE, Candidate, Progress, work_of
from enclaveml.zk.ezkl.probes import Probe
from enclaveml.zk.ezkl.search import SCALES, Search
from enclaveml.zk.ezkl.slices import format
from enclaveml.zk.ezkl.slices.bench import SliceBench, Whole, benches_of
from enclaveml.zk.interface import DEFAULT_TOLERANCE, CircuitRequest
from enclaveml.zk.scratch import Scratch

#: Parts of the tolerance that each slice is searched with, in order.
SHARES = (1.0, 1 / 16)

#: Values between slices are given on as float64 while planning: below 2^MIDDLE_BITS in fixed point, headroom included.
MIDDLE_BITS = 51

#: Of each slice, candidates whose rows per proof the whole chain is laid out at, the cheapest of each domain size.
_SIZES = 4

_MOST = "in {} slices, the most that this model can be cut into, it is too large all the same: {}"

#: Times that a decomposition is widened where the sample rows need more.
_WIDER = 6


@dataclass
class Part:
    """One slice in planning: its sample rows (S, *row_shape) float64, the search, and what was chosen.

    bits: what a decomposition must hold. outputs (S, W): the slice's outputs on the sample rows.
    """

    bench: SliceBench
    search: Search
    rows: np.ndarray
    probe: Probe
    bits: float
    outputs: np.ndarray
    candidate: Candidate | None = None


def request_of_slice(request: CircuitRequest, bench: SliceBench) -> CircuitRequest:
    """What is asked of one slice; its tolerance is the search's ``limit``, its agreement the chain's matter."""
    return replace(
        request, inputs=bench.inputs, bounded=request.bounded and not bench.start, tolerance=None, agreement=0.0, slices=1
    )


def refuse_too_large(benches: Sequence[SliceBench], request: CircuitRequest, rows: np.ndarray) -> None:
    """Raise TooLarge where a slice fits memory in no layout."""
    scale = SCALES[-1] if request.scale is None else request.scale
    for number, bench in enumerate(benches):
        try:
            Layouts(bench, request_of_slice(request, bench), rows).refuse_too_large(scale)
        except TooLarge as error:
            raise TooLarge(f"slice {number + 1} of {len(benches)}: {error}") from error


def planned(
    whole: Whole, rows: np.ndarray, truth: np.ndarray, request: CircuitRequest, child: process.Child, scratch: Callable[[], Scratch],
    progress: Progress,
) -> list[Part]:
    """The model cut and planned: in as many slices as asked for, or in as few as have a plan that fits memory.

    rows, truth: as in :func:`plan_chain`. Raises TooLarge where no number of slices fits, JobError where the model cannot be cut or
    proved so; a chain that is not accurate enough ends the search, since more slices are no finer.
    """
    problem: TooLarge | None = None
    for benches in cut(whole, rows, request, child, scratch, progress):
        try:
            return plan_chain(benches, rows, truth, request, progress)
        except TooLarge as error:
            if request.slices is not None:
                raise
            progress(f"{len(benches)} slices are too large: {error}")
            problem = error
    raise TooLarge(_MOST.format(len(benches), problem)) from problem


def cut(
    whole: Whole, rows: np.ndarray, request: CircuitRequest, child: process.Child, scratch: Callable[[], Scratch], progress: Progress
) -> Iterator[list[SliceBench]]:
    """A bench for each slice: as many as asked for; or first as few as may fit memory one at a time, then ever more.

    Whether they do fit, a search says (:func:`plan_chain`): only what no layout can make fit is left out here.
    Raises TooLarge where the last number of slices was left out, JobError where the model cannot be cut so.
    """
    graph = whole.graph()

    def benches(count: int) -> list[SliceBench]:
        return benches_of(whole, graph.names(count), request.inputs, child, [scratch() for _ in range(count)])

    def told(found: list[SliceBench]) -> list[SliceBench]:
        progress(f"cut into {len(found)} slices, at {', '.join(bench.end for bench in found[:-1])}")
        return found

    if request.slices is not None:
        found = benches(request.slices)
        refuse_too_large(found, request, rows)
        yield told(found)
        return
    most = min(format.MOST, len(graph.places) + 1)
    if most < 2:
        raise TooLarge("the model cannot be cut: there is no value through which everything flows, but its input and output")
    for count in range(2, most + 1):
        found = benches(count)
        try:
            refuse_too_large(found, request, rows)
        except TooLarge as error:
            if count == most:
                raise TooLarge(_MOST.format(most, error)) from error
            continue
        yield told(found)


def plan_chain(
    benches: Sequence[SliceBench], rows: np.ndarray, truth: np.ndarray, request: CircuitRequest, progress: Progress
) -> list[Part]:
    """A candidate for each slice: the same rows per proof and domain size, scales that fit each other.

    rows: (S, *row_shape) sample rows. truth: (S, D) float64, what the float model says of them.
    Raises JobError where none holds the sample rows within tolerance, agreement and memory.
    """
    limit = DEFAULT_TOLERANCE if request.tolerance is None else request.tolerance
    best: tuple[float, float, list[Part]] | None = None
    for share in SHARES:
        parts = _numerics(benches, rows, request, limit * share, progress)
        gap = np.abs(parts[-1].outputs - truth)
        off = float(gap.max(initial=0.0)) if np.isfinite(gap).all() else math.inf
        agreed = float((parts[-1].outputs.argmax(axis=1) == truth.argmax(axis=1)).mean())
        progress(f"{len(parts)} slices at scales {scales_of(parts)}: the chain deviates by {off:.2g} on {len(rows)} sample rows, "
                 f"argmax agreement {agreed:.4f}")
        if best is None or off < best[0]:
            best = off, agreed, parts
        if request.scale is not None or (off * 2 <= limit and agreed >= request.agreement):
            break  # at a scale that is given, less of the tolerance changes nothing
    off, agreed, parts = best
    if agreed < request.agreement:
        raise JobError(f"the proved outputs of the model in {len(benches)} slices have the argmax of its float outputs on {agreed:.4f} of the "
                       f"sample rows, less than proof.agreement {request.agreement:g}; lower proof.agreement (0 where outputs are no "
                       "classes), or give a finer proof.scale")
    if request.tolerance is not None and not off <= request.tolerance:
        raise JobError(f"the proved outputs of the model in {len(benches)} slices deviate from its float outputs by {off:.3g} on the sample "
                       f"rows, more than proof.tolerance {request.tolerance:g}; raise proof.tolerance or give a finer proof.scale")
    _lay_out(parts, request, progress)
    return parts


def scales_of(parts: Sequence[Part]) -> str:
    """The scales between the slices and of their weights, for people."""
    return ", ".join(f"{p.probe.numerics.input_scale}+{p.probe.numerics.scale}" for p in parts)


def _numerics(
    benches: Sequence[SliceBench], rows: np.ndarray, request: CircuitRequest, limit: float, progress: Progress
) -> list[Part]:
    """Each slice's numerics, by its own search; each begins with the outputs of the one before."""
    parts: list[Part] = []
    scale: int | None = None
    for number, bench in enumerate(benches):
        def tell(line: str, number: int = number) -> None:
            progress(f"slice {number + 1} of {len(benches)}: {line}")

        truth = run(bench.canonical, rows.astype(bench.function.dtype))
        search = Search(bench, request_of_slice(request, bench), rows, truth, tell, input_scale=scale, whole=False)
        search.limit = limit
        try:
            probes = search.accurate()
            if bench.end:
                probes = [p for p in probes if _middle_bits(search, p, truth) < MIDDLE_BITS]
            if not probes:
                raise JobError(f"values after it have more than {MIDDLE_BITS} bits in fixed point: give a coarser proof.scale")
            found = next(search.tried(search.candidates(probes)), None)
            if found is None:
                raise JobError(search.why_none())
        except ProofError as error:
            raise JobError(f"slice {number + 1} of the model cannot be made a circuit: {error}") from error
        except JobError as error:
            raise type(error)(f"slice {number + 1} of {len(benches)}: {error}") from error
        candidate, settings = found
        numerics = candidate.choice.numerics
        probe = next(p for p in search.found if p.numerics == numerics)
        outputs = search.outputs[numerics]
        parts.append(Part(bench, search, rows, probe, probe.bits + search.headroom, outputs))
        (scale,) = settings["model_output_scales"]
        if bench.end:
            rows = outputs.reshape(len(outputs), *benches[number + 1].function.row_shape)
    return parts


def _middle_bits(search: Search, probe: Probe, truth: np.ndarray) -> float:
    """Bits of the largest value after a slice on the sample rows, with headroom, as these numerics scale it."""
    (scale,) = search.settings_of(probe)["model_output_scales"]
    return scale + search.headroom + math.log2(max(1.0, float(np.abs(truth).max(initial=0.0))))


def _lay_out(parts: Sequence[Part], request: CircuitRequest, progress: Progress) -> None:
    """Put into each part a candidate that holds the sample rows; the chain's rows and domain size are the cheapest."""
    for _ in range(_WIDER):
        for part, candidate in zip(parts, _cheapest(parts, request), strict=True):
            part.candidate = candidate
        narrow = False
        for number, part in enumerate(parts):
            if problem := part.search.problem(part.candidate):
                text, lasting = problem
                progress(f"slice {number + 1}, plan {part.candidate}: {text}")
                if lasting:
                    raise JobError(f"slice {number + 1} of {len(parts)}: {text}")
                part.bits = part.candidate.choice.legs * math.log2(part.candidate.choice.base) + 0.5
                narrow = True
        if not narrow:
            return
    raise JobError(f"no circuit in {len(parts)} slices for this model holds the sample rows (values exceed every decomposition tried)")


def _cheapest(parts: Sequence[Part], request: CircuitRequest) -> list[Candidate]:
    """A candidate for each slice at the pair of rows per proof and domain size that the job is predicted cheapest at.

    Of those that the prediction cannot tell apart, the one with the smallest keys: Freivalds' columns make a key grow with the
    square of their blocks, and with it set-up, which takes longer than a proof where weights are many.
    """
    work = work_of(request)
    chains: list[tuple[float, float, list[Candidate]]] = []
    for rows in _sizes(parts, request):
        at: list[dict[int, Candidate]] = []
        for part in parts:
            cheap: dict[int, Candidate] = {}
            for one in _laid(part, replace(request, rows_per_proof=rows)):
                known = cheap.get(one.choice.logrows)
                if known is None or one.prove_seconds < known.prove_seconds:
                    cheap[one.choice.logrows] = one
            at.append(cheap)
        for logrows in set.intersection(*(set(cheap) for cheap in at)):
            chain = [cheap[logrows] for cheap in at]
            seconds = sum(one.prove_seconds for one in chain) * (work.waves(rows) + SETUP_SHARE)
            chains.append((seconds, sum(one.key_bytes for one in chain), chain))
    if not chains:
        raise TooLarge(f"the model's {len(parts)} slices fit {request.memory_gb:g} GB of memory at no common number of rows a proof; more "
                       "slices (proof.slices) are smaller ones")
    near = min(seconds for seconds, _, _ in chains) * (1 + cost.ERROR)
    _, _, best = min((c for c in chains if c[0] <= near), key=lambda c: c[1])
    return [_exact(part, one) for part, one in zip(parts, best, strict=True)]


def _sizes(parts: Sequence[Part], request: CircuitRequest) -> list[int]:
    """Rows per proof that are worth laying all slices out at."""
    if request.rows_per_proof is not None:
        return [max(2, request.rows_per_proof)]
    found = {2}
    for part in parts:
        kept: dict[int, int] = {}
        for one in sorted(_laid(part, request), key=lambda c: c.job_seconds):
            logrows = one.choice.logrows
            if kept.get(logrows, 0) < _SIZES:
                kept[logrows] = kept.get(logrows, 0) + 1
                found.add(one.choice.rows)
    return sorted(found)


def _laid(part: Part, request: CircuitRequest) -> list[Candidate]:
    """Every layout of a part that fits a prover's memory and the SRS, and holds what its decomposition must."""
    layouts = Layouts(part.bench, request_of_slice(request, part.bench), part.rows)
    found = layouts.that_fit(layouts.of(part.probe, part.search.headroom))
    return [c for c in found if c.choice.legs * math.log2(c.choice.base) >= part.bits]


def _exact(part: Part, candidate: Candidate) -> Candidate:
    """The candidate with the blocks that its exact settings take."""
    blocks = cost.blocks(part.bench.settings(candidate.choice)["num_rows"], candidate.choice.logrows)
    return replace(candidate, blocks=max(blocks, candidate.blocks))
