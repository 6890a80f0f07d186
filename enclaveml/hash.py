"""``enclaveml hash``: the model hash, for ``model.hash`` in a job and for whoever audits its results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from enclaveml.errors import EnvironmentFault
from enclaveml.job import load_job
from enclaveml.prepare import load_function, request_of

log = logging.getLogger(__name__)


def model_hash(job_path: Path, overrides: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of the job's model as a canonical ONNX document, weights included.

    Raises:
        JobError: the job or its model cannot be read or exported.
    """
    job = load_job(job_path, overrides)
    from enclaveml.zk.ezkl import export

    return export.model_hash(load_function(job)[0])


def circuit_id(job_path: Path, overrides: Sequence[str] = (), srs: Path | None = None,
               like: Path | None = None) -> str:
    """The id (hex) of the job's circuit, rebuilt from the model: for ``enclaveml audit --circuit-id``.

    srs: the SRS file that the aggregator used; None: the job's, else this machine's own. like: a results file whose
    circuit's settings are taken; None: those that the plan chooses for one rank of this machine.

    Raises:
        JobError: the job or its model cannot be read, or made such a circuit.
        EnvironmentFault: no such SRS, or another one than the results file has.
    """
    job = load_job(job_path, overrides)
    srs = srs or job.proof.srs
    manifest, wanted = _like(like) if like else ({}, b"")
    from enclaveml.zk.ezkl import rebuild
    from enclaveml.zk.ezkl.system import EzklSystem

    def progress(line: str) -> None:
        log.info("%s", line)

    function, samples, n = load_function(job)
    if not like:
        circuit = EzklSystem().prepare(function, samples, request_of(job, n, 1), progress)
        if srs is None or srs == job.proof.srs:
            return circuit.circuit_id
        manifest = circuit.manifest()
    found, part = rebuild.rebuilt_id(function, rebuild.choice_of(manifest), manifest["inputs"], srs, progress)
    if wanted and part != wanted:
        raise EnvironmentFault(f"{like}: was made with another SRS than {srs or 'the one of this machine'}: "
                               f"give the one that the aggregator used with --srs")
    return found


def _like(path: Path) -> tuple[dict[str, object], bytes]:
    """Manifest and SRS of a results file's one circuit. Raises EnvironmentFault, FormatError."""
    from enclaveml.results import read_results

    with read_results(path) as results:
        ids = results.circuit_ids
        if len(ids) != 1:
            raise EnvironmentFault(f"{path}: has {len(ids)} circuits, expected one")
        keys = results.circuit(ids[0])
        return dict(keys.manifest), keys.srs


def print_hash(job_path: Path, overrides: Sequence[str] = (), circuit: bool = False, srs: Path | None = None,
               like: Path | None = None) -> int:
    """Print the hash, or the circuit's id, on a line of its own. Returns the exit status."""
    print(circuit_id(job_path, overrides, srs, like) if circuit else model_hash(job_path, overrides))
    return 0
