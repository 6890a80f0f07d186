"""From a model to a batch circuit: from the cache, or quantised, committed, proved int8, and proved and verified once."""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from enclaveml.capacity import allowed_cores
from enclaveml.errors import FormatError, JobError, ProofError
from enclaveml.zk import keys, process
from enclaveml.zk.batch import statement
from enclaveml.zk.batch.activations import short
from enclaveml.zk.batch.files import (
    KEY,
    SEED,
    MODEL_HASH,
    REGISTRATIONS,
    SETTINGS,
    WEIGHTS,
    WEIGHTS_PROOF,
    canonical,
    files_of,
    write_weights,
)
from enclaveml.zk.batch.format import INPUT_KEY, WEIGHT_SEED, VerificationKey
from enclaveml.zk.batch.openings import begin_count
from enclaveml.zk.batch.programs import PROVER, VERIFIER
from enclaveml.zk.batch.prover import proof_of
from enclaveml.zk.batch.quantise import Quantised, quantise
from enclaveml.zk.batch.rows_of_a_proof import key_of
from enclaveml.zk.batch.verifier import TIMEOUT_S
from enclaveml.zk.batch.verify.api import proof_bytes
from enclaveml.zk.export import model_hash
from enclaveml.zk.interface import MANIFEST, Circuit, CircuitRequest, ModelFunction, load_circuit
from enclaveml.zk.keys import sha256_file
from enclaveml.zk.rows import Progress, padded, sampled
from enclaveml.zk.scratch import Scratch, private

#: Of the quantiser and this module: another version, other circuits.
_PLAN_VERSION = 6  # 6: functions of a ReLU; tables of steep functions made for the rows' values

#: The order that the proof at preparation is made for; no run gives it.
_NONCE = bytes(32)


@dataclass(frozen=True)
class Laid:
    """A quantised model with its roots: all that its id needs."""

    quantised: Quantised
    key: VerificationKey
    settings: dict

    @property
    def circuit_id(self) -> str:
        """See ``statement.circuit_id``."""
        return statement.circuit_id(self.key.to_bytes(), self.settings)


def prepare(function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, progress: Progress) -> Circuit:
    """See ``ProofSystem.prepare``.

    Raises JobError for a model or a request that no batch proof serves, EnvironmentFault for a machine that does not.
    """
    check_request(request)
    if request.hides_weights:
        return _registration(function, sample_rows, request, progress)
    rows, digest = sampled(function, sample_rows)
    fingerprint = function.fingerprint or model_hash(function)
    size = [request.expected_rows if request.rows_per_proof is None else 0, math.floor(2 * math.log2(request.memory_gb)),
            request.cores, request.children]
    key = keys.key_of({
        "system": "batch", "protocol": statement.VERSION, "plan": _PLAN_VERSION, "fingerprint": fingerprint, "samples": digest,
        "row_shape": list(function.row_shape), "dtype": str(np.dtype(function.dtype)), "tolerance": request.tolerance,
        "agreement": request.agreement, "rows_per_proof": request.rows_per_proof, "size": size,
        "jax2onnx": metadata.version("jax2onnx"), "jax": metadata.version("jax"),
        **({} if request.inputs == "public" else {"inputs": request.inputs}),
    })

    folder = keys.Cache().entry("circuits", key, lambda folder: _build(folder, function, rows, request, progress), request.setup_timeout_s,
                                progress)
    return _loaded(folder)


def _registration(function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, progress: Progress) -> Circuit:
    """A circuit that hides the weights: registered now, under a seed of its own, or that of the job to go on with.

    The seed is one job's and counted for it alone (``openings.py``), so that no count can be lost or be begun twice; what the weights are, as
    integers, is found anew, which is deterministic.
    """
    cache = keys.Cache()
    if not request.registration:
        rows, _ = sampled(function, sample_rows)
        folder = cache.new(REGISTRATIONS, lambda folder: _build(folder, function, rows, request, progress))
        begin_count(folder)
        return _loaded(folder)
    folder = cache.load(REGISTRATIONS, request.registration)
    if folder is None:
        raise JobError(f"the job to go on with has a registration of its weights, circuit {request.registration}, and its folder is not in this "
                       f"cache ({cache.root / REGISTRATIONS}), or is damaged: give the cache of the machine that began the job "
                       "(ENCLAVEML_CACHE), or start anew with --force")
    return _loaded(folder)


def _loaded(folder: Path) -> Circuit:
    """The circuit of a folder of the cache. Raises FormatError where its id does not follow from its files."""
    circuit = load_circuit(folder)
    settings = json.loads((folder / SETTINGS).read_bytes())
    if statement.circuit_id((folder / KEY).read_bytes(), settings) != circuit.circuit_id:
        raise FormatError(f"{folder}: circuit_id does not follow from the files; remove this folder")
    return circuit


def check_request(request: CircuitRequest) -> None:
    """Raise JobError for what batch proofs cannot do yet; a job file is refused before it comes to that."""
    if request.inputs not in ("public", "committed") or request.bounded or request.srs is not None or request.scale is not None:
        raise JobError("inputs of batch proofs are public or committed, the circuit does not bound them, and there is neither an SRS "
                       "nor a scale to be given")


def lay(function: ModelFunction, rows: np.ndarray, request: CircuitRequest, child: process.Child, scratch: Scratch,
        seed: Path | None = None) -> Laid:
    """Quantise the model on rows (S, *row_shape), commit to its weights, and choose the rows of a proof.

    seed: the file of what hidden weights are hidden by.
    """
    found = quantise(function, rows, request)
    matrices = [each.matrix for each in found.model.layers]
    key = key_of(found.model, request)
    write_weights(scratch.file(WEIGHTS), matrices)
    settings = statement.settings_of(found.model, tuple(function.row_shape), str(np.dtype(function.dtype)), request.inputs)
    if request.hides_weights:
        assert seed is not None, "weights are hidden by a seed"
        return Laid(found, register(key, scratch, child, seed, request.setup_timeout_s), settings)
    reply = process.wait(child, "commit", request.setup_timeout_s, weights=str(scratch.file(WEIGHTS)),
                         shapes=[list(matrix.shape) for matrix in matrices])
    return Laid(found, replace(key, roots=tuple(bytes.fromhex(root) for root in reply.value["roots"])), settings)


def register(key: VerificationKey, scratch: Scratch, child: process.Child, seed: Path, limit: float) -> VerificationKey:
    """The key that hides the weights in the scratch folder's WEIGHTS by a seed's file, with their root."""
    reply = process.wait(child, "register", limit, key=scratch.write("unregistered", key.to_bytes()), weights=str(scratch.file(WEIGHTS)),
                         seed=str(seed))
    return replace(key, roots=(bytes.fromhex(reply.value["root"]),))


def _build(folder: Path, function: ModelFunction, rows: np.ndarray, request: CircuitRequest, progress: Progress) -> str:
    """The circuit's files and manifest into ``folder``; its id. Raises JobError where no batch proof serves."""
    try:
        return _made(folder, function, rows, request, progress).circuit_id
    except ProofError as error:
        raise JobError(f"the model cannot be proved in batches: {error}") from error


def _made(folder: Path, function: ModelFunction, rows: np.ndarray, request: CircuitRequest, progress: Progress) -> Circuit:
    limit, memory = request.setup_timeout_s, int(request.memory_gb * 1e9)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(contextlib.closing(Scratch()))
        prover, checker = (stack.enter_context(contextlib.closing(process.Child(program, len(allowed_cores()))))
                           for program in (PROVER, VERIFIER))
        seed = folder / SEED if request.hides_weights else None
        if seed:
            with open(seed, "xb", opener=private) as handle:
                handle.write(os.urandom(WEIGHT_SEED))
        laid = lay(function, rows, request, prover, scratch, seed)
        found, key, model = laid.quantised, laid.key, laid.quantised.model
        files = files_of(request.hides_weights)
        path = {name: str(folder / name) for name in files}
        secret = {"seed": str(seed)} if seed else {}
        (folder / KEY).write_bytes(key.to_bytes())
        (folder / SETTINGS).write_bytes(canonical(laid.settings))
        write_weights(folder / WEIGHTS, [each.matrix for each in model.layers])
        progress(f"plan {_plan(key, found)}: committing to {found.weights:,} weights, proving that they are int8")
        ranged = process.wait(prover, "weights_proof", limit, memory, key=path[KEY], weights=path[WEIGHTS], **secret)
        (folder / WEIGHTS_PROOF).write_bytes(ranged.block)
        process.wait(checker, "verify_weights", TIMEOUT_S, key=path[KEY], proof=path[WEIGHTS_PROOF])
        measured = _prove_once(path, key, laid, rows, prover, checker, scratch, limit, memory)
    circuit = Circuit(
        system="batch",
        version=statement.VERSION,
        circuit_id=laid.circuit_id,
        model_hash=statement.hidden_model_hash(seed.read_bytes(), found.model_hash) if seed else found.model_hash,
        rows=key.real_rows,
        outputs=key.outputs,
        row_shape=tuple(function.row_shape),
        dtype=laid.settings["dtype"],
        input_scale=model.input_scale,
        output_scale=model.output_scale,
        tolerance=found.tolerance,
        inputs=request.inputs,
        inputs_bounded=False,
        deviation=found.measured.deviation,
        agreement=found.measured.agreement,
        samples=len(rows),
        logrows=key.rows.bit_length() - 1,
        proof_bytes=proof_bytes(key),
        srs_origin="none",
        settings={**laid.settings, "mask_rows": key.masks, "weights": found.weights,
                  "range_bits": key.range_bits, "activations": [each.to_json() for each in found.held],
                  "input_range": [key.input_low, key.input_high],
                  "layers": [layer.to_json() for layer in key.layers], "widths": widths_of(key)},
        measured={**measured, "setup_seconds": ranged.seconds, "key_bytes": sum((folder / name).stat().st_size for name in files)},
        files={name: sha256_file(folder / name) for name in files},
        folder=folder,
        hides_weights=request.hides_weights,
    )
    if seed:
        (folder / MODEL_HASH).write_text(found.model_hash, encoding="ascii")
    (folder / MANIFEST).write_text(json.dumps(circuit.manifest(), indent=1), encoding="utf-8")
    progress(f"circuit {circuit.circuit_id[:16]}: {_plan(key, found)}, deviation {circuit.deviation:.2g} (tolerance {circuit.tolerance:g}), argmax "
             f"agreement {circuit.agreement:.4f} on {len(rows)} rows, one proof {measured['prove_cpu_seconds']:.2g} CPU s for {key.real_rows} rows")
    return circuit


def _prove_once(
    path: dict[str, str], key: VerificationKey, laid: Laid, rows: np.ndarray, prover: process.Child, checker: process.Child,
    scratch: Scratch, limit: float, memory: int,
) -> dict[str, float]:
    """Prove the first sample rows twice (once to compile), compare with the reference, verify. Returns what it took."""
    model = laid.quantised.model
    some = rows[: key.real_rows]
    x = padded(np.clip(model.quantise(some), key.input_low, key.input_high), key.real_rows)
    about = {"key": path[KEY], "inputs": scratch.write("inputs", x.astype("<i2").tobytes()), "nonce": _NONCE.hex()}
    if key.masks:
        about["input_key"] = bytes(INPUT_KEY).hex()
    call = {**about, "weights": path[WEIGHTS], **({"seed": path[SEED]} if key.weight_rows else {})}
    compiled = process.wait(prover, "prove", limit, memory, **call)
    made = process.wait(prover, "prove", limit, memory, **call)
    proof = proof_of(made.block, key)
    if not np.array_equal(proof.outputs, model.run(x)):
        raise ProofError("the prover's outputs on the sample rows are not those of the integer model")
    if len(proof.computation) != proof_bytes(key):
        raise ProofError(f"a proof of {len(proof.computation)} bytes, where this key's have {proof_bytes(key)}")
    checked = process.wait(
        checker, "verify_masked" if key.masks else "verify", TIMEOUT_S, **about,
        outputs=scratch.write("outputs", proof.outputs.astype("<i4").tobytes()), proof=scratch.write("proof", proof.computation))
    return {
        "witness_seconds": 0.0, "compile_seconds": compiled.seconds - made.seconds, "prove_seconds": made.seconds,
        "prove_cpu_seconds": made.cpu_seconds, "prove_peak_bytes": made.peak_bytes,
        "verify_seconds": checked.seconds, "verify_cpu_seconds": checked.cpu_seconds,
    }


def widths_of(key: VerificationKey) -> list[int]:
    """Features of the inputs and of each layer."""
    return [key.width, *(layer.features for layer in key.layers)]


def _plan(key: VerificationKey, found: Quantised) -> str:
    widths = "-".join(map(str, widths_of(key)))
    shifts = ",".join(str(layer.shift) for layer in key.hidden) or "none"
    masks = f" masks={key.masks}" if key.masks else ""
    masks += f" weights hidden for {key.weight_openings - 1} proofs" if key.weight_rows else ""
    return f"batch B={key.real_rows}{masks} layers={widths} activations={short(found.held)} shifts={shifts} range={key.range_bits}"
