"""A circuit built: search, set up, register against the float model, prove once, verify."""

from __future__ import annotations

import json
import math
import os
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.srs_file import verifier_srs
from enclaveml.zk import keys, process
from enclaveml.zk.ezkl import cost, field, srs, statement
from enclaveml.zk.ezkl.advice import USUAL_SCALE, advise, refusals
from enclaveml.zk.ezkl.bench import Bench, Trial, input_document
from enclaveml.zk.ezkl.files import COMPILED, FILES, PK, SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.plan import SETUP_SHARE, Candidate, Progress, work_of
from enclaveml.zk.ezkl.plan_table import PLAN, Table
from enclaveml.zk.ezkl.probes import deviation, flips
from enclaveml.zk.ezkl.search import NoWitness, Search
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.ezkl.tolerance import tolerance_of
from enclaveml.zk.interface import MANIFEST, Circuit, CircuitRequest, load_circuit
from enclaveml.zk.rows import float_outputs

#: Layouts that are proved beside the one predicted cheapest, at most.
RUNNERS_UP = 2

#: Proofs' time that a trial takes: set-up about one, the proof itself, the witness of the sample rows.
TRIAL_PROOFS = 2.5


def measure(
    bench: Bench, compiled: str, settings: dict, bundle: int, rows: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Deviation and argmax agreement of the compiled circuit on sample rows."""
    trial = run_rows(bench, compiled, settings, bundle, rows)
    return {"deviation": deviation(trial, truth), "agreement": 1 - flips(trial, truth) / len(rows)}


def run_rows(bench: Bench, compiled: str, settings: dict, bundle: int, rows: np.ndarray) -> Trial:
    """Witnesses of the sample rows through the compiled circuit. Raises JobError for rows that do not fit it."""
    try:
        trial = bench.witness(compiled, settings, bundle, rows)
    except ProofError as error:
        raise JobError(f"the sample rows do not fit the circuit: {error}") from error
    low, high = settings["run_args"]["lookup_range"]
    if not low <= trial.lookup[0] <= trial.lookup[1] <= high:
        raise JobError(f"lookups reach {trial.lookup}, the circuit's table is {low}..{high}")
    return trial


def build_circuit(
    folder: Path, bench: Bench, rows: np.ndarray, request: CircuitRequest, cache: keys.Cache, progress: Progress
) -> None:
    """Find, set up, register and prove once; the circuit's files, manifest and PLAN into ``folder``.

    Raises JobError for a model that cannot be proved, or not within the tolerance, agreement or memory.
    """
    try:
        truth = float_outputs(bench.function, rows, min(64, max(2, len(rows))))
        search = Search(bench, request, rows, truth, progress)
        search.refuse_too_large()
        ordered = search.candidates(search.accurate())
    except ProofError as error:
        raise JobError(f"the model cannot be made a circuit: {refusals(bench.canonical)}{error}") from error
    except NoWitness as error:
        hints = "".join(f"\n  {one}" for one in advise(bench.canonical, request.scale or USUAL_SCALE))
        raise JobError(f"{error}{hints}") from error
    set_up_best(folder, search, ordered, cache)


def set_up_best(folder: Path, search: Search, ordered: list[Candidate], cache: keys.Cache) -> None:
    """Set up the candidate that comes first, register it and prove once; its files into ``folder``.

    Where the job is so long that what the prediction may be wrong by is worth it, the runners-up are set
    up and proved once too, and the cheapest by measurement is kept.

    Raises JobError where none can be set up, or none keeps the agreement.
    """
    request, progress = search.request, search.progress
    work = work_of(request)
    table = Table(search, ordered)
    kept: tuple[float, Path] | None = None
    best: Candidate | None = None
    for candidate, settings in search.tried(ordered):
        if best is not None and not worth_trying(best, candidate):
            break
        place = folder / f"trial-{len(table.problems) + len(table.measured)}"
        place.mkdir()
        try:
            progress(f"plan {candidate}: set-up, key about {candidate.key_bytes / 1e6:.0f} MB")
            circuit = _set_up(place, search, candidate, settings, cache)
        except ProofError as error:
            table.fail(candidate, str(error))
            progress(f"plan {candidate}: {error}")
            shutil.rmtree(place)
            if len(table.problems) == 4:
                break
            continue
        seconds = circuit.measured["prove_cpu_seconds"] * (work.waves(circuit.rows) + SETUP_SHARE)
        table.measure(candidate, circuit)
        best = best or candidate
        if kept is None or seconds < kept[0]:
            if kept is not None:
                shutil.rmtree(kept[1])
            kept = seconds, place
        else:
            shutil.rmtree(place)
        if len(table.measured) == 1 + RUNNERS_UP or request.rows_per_proof is not None:
            break
    if kept is None and not table.problems:
        raise JobError(search.why_none())
    if kept is None:
        lines = "\n".join(f"{choice}: {error}" for choice, error in table.problems.items())
        raise JobError("no circuit for this model could be set up:\n" + lines)
    for path in kept[1].iterdir():
        path.rename(folder / path.name)
    kept[1].rmdir()
    (folder / PLAN).write_text(json.dumps(table.document(load_circuit(folder)), indent=1), encoding="utf-8")


def worth_trying(best: Candidate, other: Candidate) -> bool:
    """Whether another layout may save more, within the prediction's error, than its trial takes."""
    if (other.choice.logrows, other.choice.inner, other.blocks) == (
        best.choice.logrows, best.choice.inner, best.blocks
    ):
        return False
    may_save = best.job_seconds - other.job_seconds + cost.ERROR * best.job_seconds
    return may_save > TRIAL_PROOFS * other.prove_seconds


def _set_up(folder: Path, search: Search, candidate: Candidate, settings: dict, cache: keys.Cache) -> Circuit:
    bench, rows, request, progress = search.bench, search.rows, search.request, search.progress
    choice, child = candidate.choice, bench.child
    path = {name: str(folder / name) for name in FILES}
    memory = int(request.memory_gb * 1e9)
    limit = request.setup_timeout_s
    shutil.copyfile(srs.whole_srs(cache, child, choice.logrows, request.srs, limit, progress), path[SRS])
    Path(path[VERIFIER_SRS]).write_bytes(verifier_srs(Path(path[SRS])))
    bench.compile(choice, settings, path[COMPILED], path[SETTINGS])
    settings = statement.canonical_settings(json.loads(Path(path[SETTINGS]).read_text(encoding="utf-8")))
    Path(path[SETTINGS]).write_text(json.dumps(settings, sort_keys=True), encoding="utf-8")
    trial = run_rows(bench, path[COMPILED], settings, choice.rows, rows)
    found = {"deviation": deviation(trial, search.truth), "agreement": 1 - flips(trial, search.truth) / len(rows)}
    tolerance = tolerance_of(request, bench.function, trial.outputs, search.truth, progress)
    if choice.bound:
        bench.check_bound(choice, path[COMPILED], settings, rows)
    child.kill()  # a fresh one, so that its peak memory is set-up's own
    setup = process.wait(
        child, "setup", limit, memory,
        circuit=path[COMPILED], vk=path[VK], pk=path[PK], srs=path[SRS],
    )
    # So many prove at a time: a proof that takes more than its part is killed here, and the plan with it.
    proved = _prove_once(path, bench, settings, choice.rows, rows, request, memory // request.children)
    digests = {name: keys.sha256_file(folder / name) for name in FILES}
    version = metadata.version("ezkl")
    outputs = settings["model_instance_shapes"][-1]
    circuit = Circuit(
        system="ezkl",
        version=version,
        circuit_id=statement.circuit_id(digests, settings, version, choice.bound),
        model_hash=bench.model_hash,
        rows=choice.rows,
        outputs=math.prod(outputs) // choice.rows,
        row_shape=tuple(bench.function.row_shape),
        dtype=str(np.dtype(bench.function.dtype)),
        input_scale=settings["model_input_scales"][0],
        output_scale=settings["model_output_scales"][0],
        tolerance=tolerance,
        inputs=request.inputs,
        inputs_bounded=bool(choice.bound),
        samples=len(rows),
        logrows=choice.logrows,
        srs_origin=srs.origin(request.srs),
        settings={**choice.run_args(request.inputs), "blocks": candidate.blocks, "bound": choice.bound,
                  "weights": bench.weights},
        measured={
            "setup_seconds": setup.seconds,
            "setup_peak_bytes": setup.peak_bytes,
            "key_bytes": os.path.getsize(path[PK]),
            "predicted_prove_cpu_seconds": candidate.prove_seconds,
            "predicted_peak_bytes": cost.peak_bytes(candidate.key_bytes),
            **proved["measured"],
        },
        proof_bytes=proved["bytes"],
        files=digests,
        folder=folder,
        **found,
    )
    (folder / MANIFEST).write_text(json.dumps(circuit.manifest(), indent=1), encoding="utf-8")
    progress(
        f"circuit {circuit.circuit_id[:16]}: {candidate}, deviation {found['deviation']:.2g} (tolerance "
        f"{tolerance:g}), argmax agreement {found['agreement']:.4f} on {len(rows)} rows, one proof "
        f"{proved['measured']['prove_cpu_seconds']:.1f} CPU s for {choice.rows} rows"
    )
    return circuit


def _prove_once(
    path: dict[str, str], bench: Bench, settings: dict, bundle: int, rows: np.ndarray,
    request: CircuitRequest, memory: int,
) -> dict:
    """Prove and verify the first sample rows: a proof's exact length, seconds and memory."""
    child, scratch = bench.child, bench.scratch
    felts = statement.input_felts(rows[:bundle], bundle, settings["model_input_scales"][0])
    files = {name: str(scratch.file(f"once-{name}")) for name in ("witness", "proof", "document", "felts")}
    child.kill()
    witness = process.wait(
        child, "witness", request.setup_timeout_s,
        data=scratch.write("once-input", input_document(felts)), circuit=path[COMPILED], output=files["witness"],
    )
    proof = process.wait(
        child, "prove", request.setup_timeout_s, memory,
        witness=files["witness"], circuit=path[COMPILED], pk=path[PK], srs=path[SRS], proof=files["proof"],
    )
    outputs = field.from_felts(witness.block)
    tie = b""
    if call := tie_call(request.inputs, felts, path, scratch, "once-felts", request.setup_timeout_s):
        tie = tie_bytes(request.inputs, process.wait(child, call.name, call.timeout_s, **call.args).value)
    if request.inputs == "committed" and tie != proof.block[: len(tie)]:
        raise ProofError("the proof made at preparation commits to another input")
    document = statement.proof_document(
        request.inputs, proof.block, outputs, felts=felts, digest=tie, commitment=tie
    )
    document = scratch.write("once-document", document)
    verified = process.wait(
        child, "verify", request.setup_timeout_s,
        proof=document, settings=path[SETTINGS], vk=path[VK], srs=path[VERIFIER_SRS],
    )
    scratch.drop("once-input", *(f"once-{name}" for name in files))
    if verified.value["valid"] is not True:
        raise ProofError("the proof made at preparation does not verify")
    return {
        "bytes": len(proof.block),
        "measured": {
            "witness_seconds": witness.seconds,
            "prove_seconds": proof.seconds,
            "prove_cpu_seconds": proof.cpu_seconds,
            "prove_peak_bytes": proof.peak_bytes,
            "verify_seconds": verified.seconds,
            "verify_cpu_seconds": verified.cpu_seconds,
        },
    }
