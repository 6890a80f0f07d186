"""From a model to a circuit in slices: from the cache, or built into it (``build.py``)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np

from enclaveml.capacity import allowed_cores
from enclaveml.errors import FormatError
from enclaveml.zk import keys, process
from enclaveml.zk.export import model_hash
from enclaveml.zk.ezkl import statement
from enclaveml.zk.ezkl.files import FILES, SETTINGS
from enclaveml.zk.ezkl.plan import Progress
from enclaveml.zk.ezkl.prepare import cache_key
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.slices import format
from enclaveml.zk.ezkl.slices.build import build_slices
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction, load_circuit
from enclaveml.zk.rows import sampled

_PLAN_VERSION = 3  # 3: as of zk/ezkl/prepare.py's 12


def prepare_slices(function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, progress: Progress) -> Circuit:
    """See ``ProofSystem.prepare``. A cached circuit serves the sample rows that it was registered with, and no others.

    Raises JobError for a model that cannot be cut or proved so, or not within tolerance, agreement or memory, and
    EnvironmentFault for a machine that does not serve.
    """
    rows, digest = sampled(function, sample_rows)
    cache = keys.Cache()
    fingerprint = function.fingerprint or model_hash(function)
    key = keys.key_of({"slices": request.slices, "slices_plan": _PLAN_VERSION, "samples": digest,
                       "whole": cache_key(function, request, fingerprint)})
    with contextlib.closing(process.Child(EZKL, len(allowed_cores()))) as child:
        folder = cache.entry(
            "circuits", key, lambda place: build_slices(place, function, rows, request, child, cache, progress),
            request.setup_timeout_s, progress,
        )
    circuit = load_circuit(folder)
    for each in format.slices_of(circuit):
        settings = json.loads((folder / each.file(SETTINGS)).read_text(encoding="utf-8"))
        files = {name: circuit.files[each.file(name)] for name in FILES}
        if statement.circuit_id(files, settings, circuit.version, str(each.settings["bound"])) != each.circuit_id:
            raise FormatError(f"{folder}: circuit_id does not follow from the files; remove this folder")
    return circuit
