"""``enclaveml hash``: the model hash, for ``model.hash`` in a job and for whoever audits its results."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from enclaveml.errors import EnvironmentFault
from enclaveml.job import JobSpec, load_job

if TYPE_CHECKING:
    import numpy as np

    from enclaveml.zk.interface import ModelFunction

log = logging.getLogger(__name__)

_SAMPLE_ROWS = 256


def _function(job: JobSpec) -> tuple[ModelFunction, np.ndarray, int]:
    """The job's model, sample rows (S, *row_shape) and N. Runs on the CPU, without MPI."""
    import numpy as np

    from enclaveml.datasets import open_dataset
    from enclaveml.devices import bind_device

    bind_device("cpu", 0)

    from enclaveml.models import build_model, package_model

    folder = job.path.absolute().parent
    with open_dataset(job.input.path, job.input.key, job.input.labels) as dataset:
        parts = [part.row_shape for part in dataset.parts] if len(dataset.parts) > 1 else ()
        row_shape, dtype, n = dataset.row_shape, dataset.dtype, dataset.rows
        rows = np.unique(np.linspace(0, n - 1, min(_SAMPLE_ROWS, n)).astype(np.int64))
        samples = dataset.read_rows(rows)
    package = package_model(job.model.flax, dict(job.model.args), job.model.weights, folder)
    return build_model(package, row_shape, dtype, folder, parts).function, samples, n


def model_hash(job_path: Path, overrides: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of the job's model as a canonical ONNX document, weights included.

    Raises:
        JobError: the job or its model cannot be read or exported.
    """
    job = load_job(job_path, overrides)
    from enclaveml.zk.ezkl import export

    return export.model_hash(_function(job)[0])


def circuit_id(job_path: Path, overrides: Sequence[str] = (), srs: Path | None = None,
               like: Path | None = None) -> str:
    """The id (hex) of the job's circuit, rebuilt from the model: for ``enclaveml audit --circuit-id``.

    srs: the SRS file that the aggregator used; None: this machine's own. like: a results file whose
    circuit's settings are taken; None: those that the plan chooses for one rank of this machine.

    Raises:
        JobError: the job or its model cannot be read, or made such a circuit.
        EnvironmentFault: no such SRS, or another one than the results file has.
    """
    job = load_job(job_path, overrides)
    manifest, wanted = _like(like) if like else ({}, b"")
    from enclaveml.zk.ezkl import rebuild
    from enclaveml.zk.ezkl.system import EzklSystem
    from enclaveml.zk.interface import CircuitRequest

    def progress(line: str) -> None:
        log.info("%s", line)

    function, samples, n = _function(job)
    if not like:
        proof, split = job.proof, job.split
        replicas = split.replicas if split.strategy == "redundant" else 1
        request = CircuitRequest(
            inputs=proof.inputs, tolerance=proof.tolerance, rows_per_proof=proof.rows_per_proof, scale=proof.scale,
            expected_rows=max(1, math.ceil(n * replicas * proof.coverage)), cores=os.cpu_count() or 1,
        )
        circuit = EzklSystem().prepare(function, samples, request, progress)
        if srs is None:
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
