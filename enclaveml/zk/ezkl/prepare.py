"""From a model to a circuit with keys: from the cache, or built into it (``build.py``)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from importlib import metadata
from pathlib import Path

import numpy as np

from enclaveml.capacity import allowed_cores
from enclaveml.errors import FormatError, JobError
from enclaveml.zk import keys, process
from enclaveml.zk.export import model_hash
from enclaveml.zk.ezkl import srs, statement
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.build import build_circuit, measure
from enclaveml.zk.ezkl.fallback import NONE, build_fallback, fallback_request
from enclaveml.zk.ezkl.files import COMPILED, SETTINGS
from enclaveml.zk.ezkl.layouts import TooLarge
from enclaveml.zk.ezkl.plan import Progress, work_of
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction, load_circuit
from enclaveml.zk.rows import float_outputs, sampled
from enclaveml.zk.scratch import Scratch

_SAMPLES = "samples.sha256"  # stays in the cache: a digest of few rows could be searched
_TOO_LARGE = "too-large.txt"
_PLAN_VERSION = 12  # 12: one tolerance for outputs of any size refused; 11: no tolerance beyond what rounding explains; comparisons and casts rewritten


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
            "bounded": request.bounds_inputs,
            "srs": srs.origin(request.srs),
            "tolerance": request.tolerance,
            "agreement": request.agreement,
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
    rows, digest = sampled(function, sample_rows)
    cache = keys.Cache()
    fingerprint = function.fingerprint or model_hash(function)
    given = request.rows_per_proof is not None and request.scale is not None
    with contextlib.closing(process.Child(EZKL, len(allowed_cores()))) as child:

        def build(folder: Path) -> None:
            with contextlib.closing(Scratch()) as scratch:
                bench = Bench(function, request.inputs, child, scratch)
                build_circuit(folder, bench, rows, request, cache, progress)
                (folder / _SAMPLES).write_text(digest, encoding="ascii")

        for sized in (False, True) if given else (True,):
            base = cache_key(function, request, fingerprint, sized)
            for key in (base, f"{base}-{digest[:16]}"):
                circuit = _load(cache.entry("circuits", key, build, request.setup_timeout_s, progress))
                if not sized and not _fits(circuit, request):
                    progress(f"cached circuit {circuit.circuit_id[:16]} takes more memory than this job has")
                    break
                if served := _serves(circuit, function, rows, digest, child, request, progress):
                    return served
    raise AssertionError("an entry made for these sample rows was made for others")


def prepare_if_it_fits(
    function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, progress: Progress
) -> Circuit:
    """As :func:`prepare`, for a caller that knows what to do with a model that is too large: that it is, is kept in the cache.

    The answer holds for one size of job, memory and sample rows, from all of which it follows; a search for it may take minutes.
    Raises TooLarge with the same text each time.
    """
    _, digest = sampled(function, sample_rows)
    cache = keys.Cache()
    key = keys.key_of({
        "too_large": cache_key(function, request, function.fingerprint or model_hash(function)), "samples": digest,
        "memory_gb": request.memory_gb, "expected_rows": request.expected_rows, "children": request.children,
    })
    if known := cache.load("plans", key, progress):
        raise TooLarge((known / _TOO_LARGE).read_text(encoding="utf-8"))
    try:
        return prepare(function, sample_rows, request, progress)
    except TooLarge as error:
        text = str(error)
        cache.entry("plans", key, lambda folder: _write(folder / _TOO_LARGE, text), request.setup_timeout_s, progress)
        raise


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def prepare_fallback(
    function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, primary: Circuit, progress: Progress
) -> Circuit | None:
    """The fallback of a circuit that :func:`prepare` gave for the same arguments; see ``fallback.py``.

    None, with the reasons in a log line, where there is none. Raises EnvironmentFault.
    """
    rows, digest = sampled(function, sample_rows)
    cache = keys.Cache()
    key = keys.key_of({
        "plan": _PLAN_VERSION, "fallback_of": primary.circuit_id, "tolerance": primary.tolerance,
        "agreement": request.agreement,
        "memory": math.floor(4 * math.log2(max(0.01, fallback_request(request, primary, 0).memory_gb))),
    })
    with contextlib.closing(process.Child(EZKL, len(allowed_cores()))) as child:

        def build(folder: Path) -> None:
            with contextlib.closing(Scratch()) as scratch:
                bench = Bench(function, request.inputs, child, scratch)
                build_fallback(folder, bench, rows, request, primary, cache, progress)
                (folder / _SAMPLES).write_text(digest, encoding="ascii")

        for name in (key, f"{key}-{digest[:16]}"):
            folder = cache.entry("circuits", name, build, request.setup_timeout_s, progress)
            if (folder / NONE).exists():
                why = (folder / NONE).read_text(encoding="utf-8").splitlines()
                progress(f"no fallback circuit: of {len(why)} tried none serves; the last: {why[-1]}")
                return None
            if served := _serves(_load(folder), function, rows, digest, child, request, progress):
                return served
    raise AssertionError("an entry made for these sample rows was made for others")


def _serves(
    circuit: Circuit, function: ModelFunction, rows: np.ndarray, digest: str, child: process.Child,
    request: CircuitRequest, progress: Progress,
) -> Circuit | None:
    """The cached circuit, held against these sample rows; None where it was made for others and does not serve."""
    if (circuit.folder / _SAMPLES).read_text(encoding="ascii") == digest:
        return circuit
    try:
        return _registered_again(circuit, function, rows, child, request.agreement)
    except JobError as error:
        progress(f"cached circuit {circuit.circuit_id[:16]} does not serve: {error}")
        return None


def _fits(circuit: Circuit, request: CircuitRequest) -> bool:
    """Whether a rank's children, proving together, stay within its memory as measured at preparation."""
    return circuit.measured["prove_peak_bytes"] * request.children <= request.memory_gb * 1e9


def _load(folder: Path) -> Circuit:
    """A cache entry as a circuit, its id recomputed from its files."""
    circuit = load_circuit(folder)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if statement.circuit_id(circuit.files, settings, circuit.version, circuit.bound) != circuit.circuit_id:
        raise FormatError(f"{folder}: circuit_id does not follow from the files; remove this folder")
    return circuit


def _registered_again(
    circuit: Circuit, function: ModelFunction, rows: np.ndarray, child: process.Child, agreement: float
) -> Circuit:
    """The cached circuit with deviation and agreement of these sample rows; JobError beyond what is asked."""
    settings = json.loads((circuit.folder / SETTINGS).read_text(encoding="utf-8"))
    with contextlib.closing(Scratch()) as scratch:
        bench = Bench(function, circuit.inputs, child, scratch)
        found = measure(
            bench, str(circuit.folder / COMPILED), settings, circuit.rows, rows,
            float_outputs(function, rows, max(2, min(64, circuit.rows))),
        )
    if not found["deviation"] <= circuit.tolerance:
        raise JobError(f"deviation {found['deviation']:.3g} on these sample rows, tolerance {circuit.tolerance:g}")
    if found["agreement"] < agreement:
        raise JobError(f"argmax agreement {found['agreement']:.4f} on these sample rows, less than {agreement:g}")
    return dataclasses.replace(circuit, **found, samples=len(rows))
