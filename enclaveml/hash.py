"""``enclaveml hash``: the model hash, for ``model.hash`` in a job and for whoever audits its results.

Where a job hides its weights, hash and circuit follow from a registration's seed too, so its folder must be given.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enclaveml.circuits import prepare_circuits
from enclaveml.errors import EnvironmentFault, FormatError, JobError
from enclaveml.job import load_job
from enclaveml.prepare import load_function, request_of
from enclaveml.zk.interface import PRIMARY, SLICED
from enclaveml.zk.systems import system_of

log = logging.getLogger(__name__)


def model_hash(job_path: Path, overrides: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of the job's model as a canonical ONNX document, weights included.

    Raises:
        JobError: the job or its model cannot be read or exported.
    """
    job = load_job(job_path, overrides)
    from enclaveml.zk import export

    return export.model_hash(load_function(job)[0])


def circuit_ids(job_path: Path, overrides: Sequence[str] = (), srs: Path | None = None,
                like: Path | None = None) -> dict[str, str]:
    """Id (hex) to role of each of the job's circuits, rebuilt from the model: for ``enclaveml audit --circuit-id``.

    srs: the SRS file that the aggregator used; None: the job's, else this machine's own. like: a results file whose
    circuits' settings are taken; None: those that the plan chooses for one rank of this machine.

    Raises:
        JobError: the job or its model cannot be read, or made such a circuit.
        EnvironmentFault: no such SRS, or another one than the results file has.
    """
    job = load_job(job_path, overrides)
    srs = srs or job.proof.srs
    wanted = _like(like) if like else []
    if job.proof.hides_weights or any(manifest.get("weights") == "hidden" for manifest, *_ in wanted):
        raise JobError("--circuit: the circuit of a job that hides its weights follows from the seed of its registration too, not from model and "
                       "data alone; give --registration FOLDER, the folder in rank 0's cache that the job's log names")
    from enclaveml.zk.ezkl import rebuild
    from enclaveml.zk.ezkl.slices import rebuild as slices

    def progress(line: str) -> None:
        log.info("%s", line)

    function, samples, n = load_function(job)
    if not like:
        circuits = prepare_circuits(job, function, samples, n, request_of(job, n, 1))
        if job.proof.system == "batch" or srs is None or srs == job.proof.srs:
            return {circuit.circuit_id: circuit.role for circuit in circuits}
        wanted = [(circuit.manifest(), b"", system_of(circuit.system).auditor_files(circuit)["settings"]) for circuit in circuits]
    found: dict[str, str] = {}
    for manifest, there, settings in wanted:
        if manifest.get("system") == "batch":
            from enclaveml.zk.batch.rebuild import rebuilt_id

            found[rebuilt_id(function, samples, request_of(job, n, 1), _rows(manifest, like))] = PRIMARY
            continue
        if manifest.get("system") == SLICED:
            rebuilt, part = slices.rebuilt_id(function, manifest, settings, srs, progress)
        else:
            rebuilt, part = rebuild.rebuilt_id(function, rebuild.choice_of(manifest), manifest["inputs"], srs, progress,
                                               like=_mapping(settings))
        if there and part != there:
            raise EnvironmentFault(f"{like}: was made with another SRS than {srs or 'the one of this machine'}: "
                                   f"give the one that the aggregator used with --srs")
        found[rebuilt] = str(manifest.get("role", PRIMARY))
    return found


def registered(job_path: Path, overrides: Sequence[str], registration: Path) -> tuple[str, str]:
    """Model hash and circuit id of a job that hides its weights, made again of its model, its data and the registration's seed.

    registration: the folder that rank 0 keeps of it.

    Raises:
        JobError: the job hides no weights, or the registration is of another model, data or circuit.
        EnvironmentFault, FormatError: there is no such folder, or it is damaged.
    """
    job = load_job(job_path, overrides)
    if not job.proof.hides_weights:
        raise JobError("--registration is for a job with proof.system: batch and proof.private_weights: true, which this one is not")
    from enclaveml.zk.batch.rebuild import registered_again

    function, samples, n = load_function(job)
    found = registered_again(function, samples, request_of(job, n, 1), registration)
    return found.model_hash, found.circuit_id


def _rows(manifest: dict[str, Any], where: Path | None) -> int:
    """Rows of a proof, as somebody else's manifest says. Raises FormatError for what is no such number."""
    rows = manifest.get("rows")
    if type(rows) is not int or not 1 <= rows <= 1 << 20:
        raise FormatError(f"{where}: a circuit's manifest says {str(rows)[:40]!r} rows a proof")
    return rows


def _mapping(text: bytes) -> dict[str, Any]:
    """A JSON object, or nothing where somebody else's file has none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _like(path: Path) -> list[tuple[dict[str, Any], bytes, bytes]]:
    """Manifest, SRS and settings of each circuit of a results file, the primary first.

    Raises EnvironmentFault, FormatError.
    """
    from enclaveml.results import read_results

    with read_results(path) as results:
        keys = [results.circuit(circuit_id) for circuit_id in results.circuit_ids]
    if not keys:
        raise EnvironmentFault(f"{path}: has no circuit")
    found = [(dict(each.manifest), each.srs, each.settings) for each in keys]
    return sorted(found, key=lambda item: item[0].get("role", PRIMARY) != PRIMARY)


def print_hash(job_path: Path, overrides: Sequence[str] = (), circuit: bool = False, srs: Path | None = None,
               like: Path | None = None, registration: Path | None = None) -> int:
    """Print the hash, or a line for each circuit: its id and its role. Returns the exit status."""
    if registration is not None:
        hashed, circuit_id = registered(job_path, overrides, registration)
        print(f"{circuit_id} {PRIMARY}" if circuit else hashed)
        return 0
    if not circuit:
        print(model_hash(job_path, overrides))
        return 0
    for found, role in circuit_ids(job_path, overrides, srs, like).items():
        print(f"{found} {role}")
    return 0
