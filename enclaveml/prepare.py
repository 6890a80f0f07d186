"""``enclaveml prepare``: the circuit of a job made ahead of time, so that a cluster job starts at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from enclaveml.capacity import measure
from enclaveml.circuit_index import model_key, remember
from enclaveml.circuits import prepare_circuits, request_for, sample_rows
from enclaveml.cluster import computing
from enclaveml.errors import Fault, JobError
from enclaveml.job import JobSpec, load_job
from enclaveml.model_package import package_of
from enclaveml.preprocessing import open_rows
from enclaveml.zk.interface import CircuitRequest
from enclaveml.zk.systems import system_of

if TYPE_CHECKING:
    import numpy as np

    from enclaveml.models import Model
    from enclaveml.zk.interface import ModelFunction


def load_function(job: JobSpec) -> tuple[ModelFunction, np.ndarray, int]:
    """The job's model as the proof system takes it, sample rows (S, *row_shape) and N."""
    model, samples, n = load_model(job)
    return model.function, samples, n


def load_model(job: JobSpec) -> tuple[Model, np.ndarray, int]:
    """The job's model, sample rows (S, *row_shape) and N. Runs on the CPU, without MPI."""
    from enclaveml.devices import bind_device

    bind_device("cpu", 0)

    from enclaveml.models import build_model

    folder = job.path.absolute().parent
    with open_rows(job) as dataset:
        several = dataset.parts if len(dataset.parts) > 1 else ()
        row_shape, dtype, n = dataset.row_shape, dataset.dtype, dataset.rows
        samples = sample_rows(dataset)
    model = build_model(package_of(job), row_shape, dtype, folder, [part.row_shape for part in several],
                        [part.dtype for part in several])
    return model, samples, n


def request_of(job: JobSpec, rows: int, ranks: int) -> CircuitRequest:
    """What ``ranks`` ranks on this machine would ask of the circuit of a job over ``rows`` rows.

    Cores and memory are this machine's, or memory what ``cluster.ranks`` says. The keys of the cache
    follow from it, so a job on other machines finds them only where these agree, or where the job
    gives ``proof.rows_per_proof`` and ``proof.scale``.
    """
    computes = computing(job.cluster.aggregator_computes, ranks)
    working = max(1, sum(computes))
    here = measure("", 0, ranks)
    given = [spec.memory_gb for spec, works in zip(job.cluster.ranks, computes, strict=False) if works]
    children = max(1, math.floor(here.cores / working)) if job.proof.system == "ezkl" else 1  # as rollcall has it
    return request_for(job, rows, float(min(given, default=here.memory_gb)), working * children, children)


def prepare(job_path: Path, overrides: Sequence[str] = (), ranks: int | None = None) -> int:
    """Make the job's circuits and keys for ``ranks`` ranks, or find them in the cache; print what was tried.

    ranks: None stands for those that ``cluster.ranks`` describes, or 1. Returns the exit status.

    Raises:
        JobError: the job, its data or its model do not serve, or nothing is to be proved.
    """
    job = load_job(job_path, overrides)
    if job.proof.coverage == 0:
        raise JobError(Fault(job.where("proof.coverage"), "proof.coverage", "is 0: there is no circuit to prepare"))
    if job.proof.hides_weights:
        raise JobError(Fault(job.where("proof.private_weights"), "proof.private_weights", "is true with proof.system batch: each run registers the "
                             "weights anew, so there is no circuit to prepare; `enclaveml check` says what one has and costs"))
    function, samples, rows = load_function(job)
    request = request_of(job, rows, ranks or max(1, len(job.cluster.ranks)))
    circuits = prepare_circuits(job, function, samples, rows, request)
    remember(model_key(package_of(job).to_bytes(), samples.shape[1:], samples.dtype), circuits[0])
    for circuit in circuits:
        sys.stdout.write(system_of(circuit.system).plan_text(circuit))
        print(f"{circuit.role} circuit {circuit.circuit_id}")
        print(f"keys: {circuit.folder}")
    return 0
