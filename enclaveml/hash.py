"""``enclaveml hash``: the model hash, for ``model.hash`` in a job and for whoever audits its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from enclaveml.job import load_job


def model_hash(job_path: Path, overrides: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of the job's model as a canonical ONNX document, weights included. Runs on the CPU, without MPI.

    Raises:
        JobError: the job or its model cannot be read or exported.
    """
    job = load_job(job_path, overrides)
    from enclaveml.datasets import open_dataset
    from enclaveml.devices import bind_device

    bind_device("cpu", 0)

    from enclaveml.models import build_model, package_model
    from enclaveml.zk.ezkl import export

    folder = job.path.absolute().parent
    with open_dataset(job.input.path, job.input.key, job.input.labels) as dataset:
        parts = [part.row_shape for part in dataset.parts] if len(dataset.parts) > 1 else ()
        row_shape, dtype = dataset.row_shape, dataset.dtype
    package = package_model(job.model.flax, dict(job.model.args), job.model.weights, folder)
    return export.model_hash(build_model(package, row_shape, dtype, folder, parts).function)


def print_hash(job_path: Path, overrides: Sequence[str] = ()) -> int:
    """Print the hash on a line of its own. Returns the exit status."""
    print(model_hash(job_path, overrides))
    return 0
