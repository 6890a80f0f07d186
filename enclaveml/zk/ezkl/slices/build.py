"""A circuit in slices built: plan, set up each slice, register the chain against the float model, prove once, verify."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.srs_file import verifier_srs
from enclaveml.zk import keys, process
from enclaveml.zk.export import HASH_BATCH
from enclaveml.zk.ezkl import cost, field, srs, statement
from enclaveml.zk.ezkl.bench import input_document
from enclaveml.zk.ezkl.document import text
from enclaveml.zk.ezkl.files import COMPILED, FILES, PK, SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.plan import Progress
from enclaveml.zk.ezkl.slices import format
from enclaveml.zk.ezkl.slices.bench import Whole
from enclaveml.zk.ezkl.slices.format import Slice, file_of
from enclaveml.zk.ezkl.slices.plan import Part, planned
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.ezkl.tolerance import tolerance_of
from enclaveml.zk.interface import MANIFEST, SLICED, Circuit, CircuitRequest, ModelFunction
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.scratch import Scratch


def build_slices(
    folder: Path, function: ModelFunction, rows: np.ndarray, request: CircuitRequest, child: process.Child, cache: keys.Cache,
    progress: Progress,
) -> None:
    """Cut, plan, set up, register and prove once; the circuit's files and manifest into ``folder``.

    Raises JobError for a model that cannot be cut so, or not be proved within tolerance, agreement or memory.
    """
    whole = Whole(function)
    with contextlib.ExitStack() as stack:
        def scratch() -> Scratch:
            return stack.enter_context(contextlib.closing(Scratch()))

        try:
            truth = float_outputs(function, rows, min(64, max(2, len(rows))))
            parts = planned(whole, rows, truth, request, child, scratch, progress)
            _set_up(folder, whole, parts, rows, truth, request, cache, progress)
        except ProofError as error:
            raise JobError(f"the model cannot be made a circuit in slices: {error}") from error


def _set_up(
    folder: Path, whole: Whole, parts: Sequence[Part], rows: np.ndarray, truth: np.ndarray, request: CircuitRequest,
    cache: keys.Cache, progress: Progress,
) -> None:
    child, limit, memory = parts[0].bench.child, request.setup_timeout_s, int(request.memory_gb * 1e9)
    choices = [part.candidate.choice for part in parts]
    logrows, bundle = choices[0].logrows, choices[0].rows
    shutil.copyfile(srs.whole_srs(cache, child, logrows, request.srs, limit, progress), folder / SRS)
    (folder / VERIFIER_SRS).write_bytes(verifier_srs(folder / SRS))
    all_settings: list[dict[str, Any]] = []
    values = rows
    for number, part in enumerate(parts):  # compiled, and run one after the other on the sample rows
        path = {name: str(folder / file_of(number, name)) for name in FILES}
        bench, choice = part.bench, choices[number]
        bench.compile(choice, bench.settings(choice), path[COMPILED], path[SETTINGS])
        settings = statement.canonical_settings(json.loads(Path(path[SETTINGS]).read_text(encoding="utf-8")))
        Path(path[SETTINGS]).write_text(json.dumps(settings, sort_keys=True), encoding="utf-8")
        all_settings.append(settings)
        trial = bench.witness(path[COMPILED], settings, bundle, values)
        low, high = choice.lookup
        if not low <= trial.lookup[0] <= trial.lookup[1] <= high:
            raise JobError(f"slice {number + 1}: lookups reach {trial.lookup}, the circuit's table is {low}..{high}")
        if choice.bound:
            bench.check_bound(choice, path[COMPILED], settings, values)
        values = trial.outputs
        if bench.end:
            values = values.reshape(len(rows), *parts[number + 1].bench.function.row_shape)
    gap = np.abs(values - truth)
    found = {
        "deviation": float(gap.max(initial=0.0)) if np.isfinite(gap).all() else math.inf,
        "agreement": float((values.argmax(axis=1) == truth.argmax(axis=1)).mean()),
    }
    if found["agreement"] < request.agreement:
        raise JobError(f"argmax agreement {found['agreement']:.4f} on the sample rows, less than proof.agreement {request.agreement:g}")
    tolerance = tolerance_of(request, whole.function, values, truth, progress)
    seconds = peak = 0.0
    for number, part in enumerate(parts):
        path = {name: str(folder / file_of(number, name)) for name in FILES}
        progress(f"slice {number + 1} of {len(parts)}, plan {part.candidate}: set-up, key about {part.candidate.key_bytes / 1e6:.0f} MB")
        child.kill()  # a fresh one, so that its peak memory is set-up's own
        made = process.wait(child, "setup", limit, memory, circuit=path[COMPILED], vk=path[VK], pk=path[PK], srs=path[SRS])
        seconds, peak = seconds + made.seconds, max(peak, made.peak_bytes)
    proved = _prove_once(folder, parts, all_settings, bundle, rows, request, memory // request.children)
    names = sorted({file_of(number, name) for number in range(len(parts)) for name in FILES})
    digests = {name: keys.sha256_file(folder / name) for name in names}
    version = metadata.version("ezkl")
    slices = []
    for number, (part, settings) in enumerate(zip(parts, all_settings, strict=True)):
        choice, bench = choices[number], part.bench
        files = {name: digests[file_of(number, name)] for name in FILES}
        slices.append(Slice(
            number=number, last=not bench.end, inputs=bench.inputs, start=bench.start, end=bench.end,
            circuit_id=statement.circuit_id(files, settings, version, choice.bound), rows=bundle, width=bench.width,
            outputs=part.outputs.shape[1], input_scale=settings["model_input_scales"][0],
            output_scale=settings["model_output_scales"][0], logrows=logrows, proof_bytes=proved["bytes"][number],
            settings={**choice.run_args(bench.inputs, bench.outputs), "blocks": part.candidate.blocks, "bound": choice.bound,
                      "weights": bench.weights},
        ))
    circuit = Circuit(
        system=SLICED,
        version=version,
        circuit_id=format.circuit_id([each.circuit_id for each in slices]),
        model_hash=hashlib.sha256(whole.document(HASH_BATCH)).hexdigest(),
        rows=bundle,
        outputs=slices[-1].outputs,
        row_shape=tuple(whole.function.row_shape),
        dtype=str(np.dtype(whole.function.dtype)),
        input_scale=slices[0].input_scale,
        output_scale=slices[-1].output_scale,
        tolerance=tolerance,
        inputs=request.inputs,
        inputs_bounded=bool(choices[0].bound),
        samples=len(rows),
        logrows=logrows,
        srs_origin=srs.origin(request.srs),
        settings={"bound": choices[0].bound, "slices": format.manifest_of(slices)},
        measured={
            "setup_seconds": seconds,
            "setup_peak_bytes": peak,
            "key_bytes": sum(os.path.getsize(folder / file_of(number, PK)) for number in range(len(parts))),
            "largest_key_bytes": max(os.path.getsize(folder / file_of(number, PK)) for number in range(len(parts))),
            "predicted_prove_cpu_seconds": sum(part.candidate.prove_seconds for part in parts),
            "predicted_peak_bytes": max(cost.peak_bytes(part.candidate.key_bytes) for part in parts),
            **proved["measured"],
        },
        proof_bytes=sum(proved["bytes"]),
        files=digests,
        folder=folder,
        **found,
    )
    format.slices_of(circuit)  # what somebody else will hold against it
    (folder / MANIFEST).write_text(json.dumps(circuit.manifest(), indent=1), encoding="utf-8")
    progress(
        f"circuit {circuit.circuit_id[:16]}: {len(slices)} slices, {bundle} rows a proof, deviation {found['deviation']:.2g} (tolerance "
        f"{tolerance:g}), argmax agreement {found['agreement']:.4f} on {len(rows)} rows, one proof "
        f"{proved['measured']['prove_cpu_seconds']:.1f} CPU s"
    )


def _prove_once(
    folder: Path, parts: Sequence[Part], settings: Sequence[dict], bundle: int, rows: np.ndarray, request: CircuitRequest, memory: int
) -> dict[str, Any]:
    """Prove the first sample rows slice by slice, verify each proof and the links: lengths, seconds and memory.

    One child makes all witnesses and all proofs, as a prover's does (``prover.py``), so that its peak is one's: what a proof
    leaves behind is there while the next is made.
    """
    child, limit = parts[0].bench.child, request.setup_timeout_s
    felts = values = statement.input_felts(rows[:bundle], bundle, settings[0]["model_input_scales"][0])
    paths = [{name: str(folder / file_of(number, name)) for name in FILES} for number in range(len(parts))]
    child.kill()
    witnesses: list[process.Reply] = []
    for part, path in zip(parts, paths, strict=True):
        scratch = part.bench.scratch
        witnesses.append(process.wait(child, "witness", limit, data=scratch.write("once-input", input_document(values)),
                                      circuit=path[COMPILED], output=str(scratch.file("once-witness"))))
        values = witnesses[-1].block
    proofs = [
        process.wait(child, "prove", limit, memory, witness=str(part.bench.scratch.file("once-witness")), circuit=path[COMPILED],
                     pk=path[PK], srs=path[SRS], proof=str(part.bench.scratch.file("once-proof")))
        for part, path in zip(parts, paths, strict=True)
    ]
    verified: list[process.Reply] = []
    gave = b""
    for number, (part, path, witness, proof) in enumerate(zip(parts, paths, witnesses, proofs, strict=True)):
        bench, scratch = part.bench, part.bench.scratch
        tie = b""
        if number == 0 and (call := tie_call(request.inputs, felts, path, scratch, "once-felts", limit)):
            tie = tie_bytes(request.inputs, process.wait(child, call.name, call.timeout_s, **call.args).value)
            if request.inputs == "committed" and tie != proof.block[: len(tie)]:
                raise ProofError("the proof made at preparation commits to another input")
        elif number and gave != proof.block[: statement.COMMITMENT_BYTES]:
            raise ProofError(f"slices {number} and {number + 1} commit to the same values differently, so that nothing would link them")
        at = statement.COMMITMENT_BYTES if bench.inputs == "committed" else 0
        gave = proof.block[at : at + statement.COMMITMENT_BYTES]
        field.from_felts(witness.block)
        shown = {"public": felts, "hashed": tie, "committed": b""}[bench.inputs] + (b"" if bench.end else witness.block)
        document = scratch.write("once-document", text(shown, proof.block))
        verified.append(process.wait(child, "verify", limit, proof=document, settings=path[SETTINGS], vk=path[VK], srs=path[VERIFIER_SRS]))
        scratch.drop("once-input", "once-felts", "once-document", "once-witness", "once-proof")
        if verified[-1].value["valid"] is not True:
            raise ProofError(f"the proof of slice {number + 1} made at preparation does not verify")
    return {
        "bytes": [len(proof.block) for proof in proofs],
        "measured": {
            "witness_seconds": sum(reply.seconds for reply in witnesses),
            "prove_seconds": sum(reply.seconds for reply in proofs),
            "prove_cpu_seconds": sum(reply.cpu_seconds for reply in proofs),
            "prove_peak_bytes": float(max(reply.peak_bytes for reply in proofs)),
            "verify_seconds": sum(reply.seconds for reply in verified),
            "verify_cpu_seconds": sum(reply.cpu_seconds for reply in verified),
        },
    }
