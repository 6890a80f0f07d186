"""A small batch circuit and the job that makes the same one, for the tests of real batch proofs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from small_job import SmallJob, write_small_job

from enclaveml.job import load_job
from enclaveml.prepare import load_model, request_of
from enclaveml.zk.batch.system import BatchSystem
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction

#: Rows of one proof, of the job, and ranks; everywhere the same, so that all is compiled once.
BUNDLE = 4
ROWS, RANKS = 22, 3
PROOF = {"system": "batch", "rows_per_proof": BUNDLE, "scale": None, "tolerance": None, "agreement": 0.5}


def cache_of(factory: pytest.TempPathFactory) -> str:
    """The cache of the tests' circuits: that of all tests where there is one."""
    return os.environ.get("ENCLAVEML_CACHE") or str(factory.getbasetemp() / "batch-cache")


def write_batch_job(folder: Path) -> SmallJob:
    """The small job, by batch proofs on ranks of stated memory: the same circuit wherever it is made."""
    ranks = [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(RANKS)]
    return write_small_job(folder, ROWS, {"proof": PROOF, "cluster": {"ranks": ranks}})


def prepared(job: SmallJob) -> tuple[Circuit, ModelFunction, np.ndarray, CircuitRequest]:
    """The job's circuit as a run would make it, the model, the sample rows and the request."""
    spec = load_job(job.path)
    with pytest.MonkeyPatch.context() as patch:
        # Another test file may have brought up JAX in this process: it is on the CPU all the same.
        patch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
        model, samples, rows = load_model(spec)
    request = request_of(spec, rows, RANKS)
    return BatchSystem().prepare(model.function, samples, request), model.function, samples, request
