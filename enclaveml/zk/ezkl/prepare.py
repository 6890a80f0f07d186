"""From a model to a circuit with keys: search, set up, register, prove once; or from the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np

from enclaveml.errors import EnvironmentFault, FormatError, JobError, ProofError
from enclaveml.zk.ezkl import cost, field, keys, process, srs, statement
from enclaveml.zk.ezkl.bench import Bench, float_outputs, input_document
from enclaveml.zk.ezkl.export import model_hash
from enclaveml.zk.ezkl.files import COMPILED, FILES, PK, SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.plan import Candidate, Progress, work_of
from enclaveml.zk.ezkl.scratch import Scratch
from enclaveml.zk.ezkl.search import DEFAULT_TOLERANCE, Search, deviation
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.interface import MANIFEST, Circuit, CircuitRequest, ModelFunction, load_circuit

#: Sample rows that registration compares.
MAX_SAMPLES = 256

_SAMPLES = "samples.sha256"  # stays in the cache: a digest of few rows could be searched
_PLAN_VERSION = 4


def cache_key(function: ModelFunction, request: CircuitRequest, fingerprint: str, sized: bool = True) -> str:
    """The cache key: model, what the circuit must do, versions and, where ``sized``, the job's size.

    Size (expected rows, memory, cores, children; rows and memory only by their power of two) decides
    which circuit is cheapest. A job that gives rows per proof and scale gets the same one at any size.
    """
    size = {
        "expected": math.ceil(math.log2(max(1, request.expected_rows))),
        "memory": math.floor(math.log2(request.memory_gb)),
        "work": dataclasses.astuple(work_of(request))[1:],
    }
    return keys.key_of(
        {
            "plan": _PLAN_VERSION,
            "fingerprint": fingerprint,
            "row_shape": list(function.row_shape),
            "dtype": str(np.dtype(function.dtype)),
            "inputs": request.inputs,
            "tolerance": request.tolerance,
            "rows_per_proof": request.rows_per_proof,
            "scale": request.scale,
            "ezkl": metadata.version("ezkl"),
            "jax2onnx": metadata.version("jax2onnx"),
            "size": size if sized else None,
        }
    )


def prepare(
    function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, progress: Progress
) -> Circuit:
    """See ``ProofSystem.prepare``.

    Raises JobError for a model that cannot be proved, or not within the tolerance or the memory, and
    EnvironmentFault for a machine that does not serve.
    """
    rows = np.ascontiguousarray(sample_rows[:MAX_SAMPLES]).astype(function.dtype)
    if not len(rows) or rows.shape[1:] != tuple(function.row_shape):
        raise ValueError(f"sample rows are {rows.shape}, expected (S, {', '.join(map(str, function.row_shape))})")
    digest = hashlib.sha256(rows.tobytes()).hexdigest()
    cache = keys.Cache()
    fingerprint = function.fingerprint or model_hash(function)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    threads = max(threads, os.cpu_count() or 1)
    given = request.rows_per_proof is not None and request.scale is not None
    with contextlib.closing(process.Child(threads)) as child:

        def build(folder: Path) -> None:
            with contextlib.closing(Scratch()) as scratch:
                bench = Bench(function, request.inputs, child, scratch)
                _build(folder, bench, rows, request, cache, progress)
                (folder / _SAMPLES).write_text(digest, encoding="ascii")

        for sized in (False, True) if given else (True,):
            base = cache_key(function, request, fingerprint, sized)
            for key in (base, f"{base}-{digest[:16]}"):
                circuit = _load(cache.entry("circuits", key, build, request.setup_timeout_s, progress))
                if not sized and not _fits(circuit, request):
                    progress(f"cached circuit {circuit.circuit_id[:16]} takes more memory than this job has")
                    break
                if (circuit.folder / _SAMPLES).read_text(encoding="ascii") == digest:
                    return circuit
                try:
                    return _registered_again(circuit, function, rows, child)
                except JobError as error:  # other rows than the cached circuit was made for
                    progress(f"cached circuit {circuit.circuit_id[:16]} does not serve: {error}")
    raise AssertionError("an entry made for these sample rows was made for others")


def _fits(circuit: Circuit, request: CircuitRequest) -> bool:
    """Whether a rank's children, proving together, stay within its memory as measured at preparation."""
    return circuit.measured["prove_peak_bytes"] * request.children <= request.memory_gb * 1e9


def _load(folder: Path) -> Circuit:
    """A cache entry as a circuit, its id recomputed from its files."""
    circuit = load_circuit(folder)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if statement.circuit_id(circuit.files, settings, circuit.version) != circuit.circuit_id:
        raise FormatError(f"{folder}: circuit_id does not follow from the files; remove this folder")
    return circuit


def _registered_again(
    circuit: Circuit, function: ModelFunction, rows: np.ndarray, child: process.Child
) -> Circuit:
    """The cached circuit with deviation and agreement of these sample rows; JobError beyond tolerance."""
    settings = json.loads((circuit.folder / SETTINGS).read_text(encoding="utf-8"))
    with contextlib.closing(Scratch()) as scratch:
        bench = Bench.__new__(Bench)
        bench.child, bench.scratch, bench.timeout_s = child, scratch, 600.0
        found = _measure(
            bench, str(circuit.folder / COMPILED), settings, circuit.rows, rows,
            float_outputs(function, rows, max(2, min(64, circuit.rows))),
        )
    if not found["deviation"] <= circuit.tolerance:
        raise JobError(f"deviation {found['deviation']:.3g} on these sample rows, tolerance {circuit.tolerance:g}")
    return dataclasses.replace(circuit, **found, samples=len(rows))


def _measure(
    bench: Bench, compiled: str, settings: dict, bundle: int, rows: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Deviation and argmax agreement of the compiled circuit on sample rows."""
    try:
        trial = bench.witness(compiled, settings, bundle, rows)
    except ProofError as error:
        raise JobError(f"the sample rows do not fit the circuit: {error}") from error
    low, high = settings["run_args"]["lookup_range"]
    if not low <= trial.lookup[0] <= trial.lookup[1] <= high:
        raise JobError(f"lookups reach {trial.lookup}, the circuit's table is {low}..{high}")
    same = np.argmax(trial.outputs, axis=1) == np.argmax(truth, axis=1)
    return {"deviation": deviation(trial, truth), "agreement": float(same.mean())}


def _tolerance(request: CircuitRequest, found: float, progress: Progress) -> float:
    """The tolerance of the circuit: as asked, else 0.01, else twice what the sample rows need."""
    if request.tolerance is not None:
        if not found <= request.tolerance:
            raise JobError(
                f"the model's proved outputs deviate from its float outputs by {found:.3g} on the sample rows, "
                f"more than proof.tolerance {request.tolerance:g}"
            )
        return request.tolerance
    if not math.isfinite(found):
        raise JobError("the model's outputs on the sample rows are not finite")
    if 2 * found <= DEFAULT_TOLERANCE:
        return DEFAULT_TOLERANCE
    step = 10.0 ** (math.floor(math.log10(2 * found)) - 1)
    tolerance = math.ceil(2 * found / step) * step
    progress(f"tolerance {tolerance:.2g}: twice the deviation {found:.2g} of the sample rows")
    return tolerance


def _build(
    folder: Path, bench: Bench, rows: np.ndarray, request: CircuitRequest, cache: keys.Cache,
    progress: Progress,
) -> None:
    """Find, set up, register and prove once; the circuit's files and manifest into ``folder``."""
    try:
        truth = float_outputs(bench.function, rows, min(64, max(2, len(rows))))
        search = Search(bench, request, rows, truth, progress)
        ordered = search.candidates(search.accurate())
    except ProofError as error:
        raise JobError(f"the model cannot be made a circuit: {error}") from error
    problems: list[str] = []
    for candidate, settings in search.tried(ordered):
        try:
            progress(f"plan {candidate}: set-up, key about {candidate.key_bytes / 1e6:.0f} MB")
            _set_up(folder, bench, candidate, settings, rows, truth, request, cache, progress)
            return
        except ProofError as error:
            problems.append(f"{candidate}: {error}")
            progress(f"plan {candidate}: {error}")
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            if len(problems) == 4:
                break
    raise JobError("no circuit for this model could be set up:\n" + "\n".join(problems))


def _set_up(
    folder: Path, bench: Bench, candidate: Candidate, settings: dict, rows: np.ndarray, truth: np.ndarray,
    request: CircuitRequest, cache: keys.Cache, progress: Progress,
) -> None:
    choice, child = candidate.choice, bench.child
    path = {name: str(folder / name) for name in FILES}
    memory = int(request.memory_gb * 1e9)
    limit = request.setup_timeout_s
    shutil.copyfile(srs.own_srs(cache, child, choice.logrows, limit, progress), path[SRS])
    Path(path[VERIFIER_SRS]).write_bytes(srs.verifier_srs(Path(path[SRS])))
    bench.compile(choice, settings, path[COMPILED], path[SETTINGS])
    settings = statement.canonical_settings(json.loads(Path(path[SETTINGS]).read_text(encoding="utf-8")))
    Path(path[SETTINGS]).write_text(json.dumps(settings, sort_keys=True), encoding="utf-8")
    found = _measure(bench, path[COMPILED], settings, choice.rows, rows, truth)
    tolerance = _tolerance(request, found["deviation"], progress)
    child.kill()  # a fresh one, so that its peak memory is set-up's own
    setup = process.wait(
        child, "setup", limit, memory,
        circuit=path[COMPILED], vk=path[VK], pk=path[PK], srs=path[SRS],
    )
    proved = _prove_once(path, bench, settings, choice.rows, rows, request, memory)
    digests = {name: keys.sha256_file(folder / name) for name in FILES}
    version = metadata.version("ezkl")
    outputs = settings["model_instance_shapes"][-1]
    circuit = Circuit(
        system="ezkl",
        version=version,
        circuit_id=statement.circuit_id(digests, settings, version),
        model_hash=bench.model_hash,
        rows=choice.rows,
        outputs=math.prod(outputs) // choice.rows,
        row_shape=tuple(bench.function.row_shape),
        dtype=str(np.dtype(bench.function.dtype)),
        input_scale=settings["model_input_scales"][0],
        output_scale=settings["model_output_scales"][0],
        tolerance=tolerance,
        inputs=request.inputs,
        inputs_bounded=False,
        samples=len(rows),
        logrows=choice.logrows,
        srs_origin="own",
        settings={**choice.run_args(request.inputs), "blocks": candidate.blocks},
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
        },
    }
