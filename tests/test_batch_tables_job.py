"""Whole jobs of small networks by batch proofs under mpirun, GELU on public inputs and tanh on committed ones: verified, and audited."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from batch_case import PROOF, cache_of
from launch import launcher, run
from small_job import dataset, weights, write_small_job
from small_runs import LIMIT_S, log_of, read

from enclaveml.audit import AuditOptions, audit

ROWS = 10

#: Of the small model's sizes, so that what is compiled for its tests serves these.
MODEL = '''\
"""Six numbers, a hidden layer of four units with another activation than ReLU, three logits."""

from flax import nnx


class SmallSmooth(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(6, 4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(ACTIVATION(self.hidden(x)))
'''

ACTIVATIONS = {"public": "(lambda x: nnx.gelu(x, approximate=False))", "committed": "nnx.tanh"}


def floats(rows: np.ndarray, inputs: str) -> np.ndarray:
    """What the model says of these rows (n, 6): (n, 3) float64."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    hidden = rows.astype(np.float64) @ w["hidden.kernel"] + w["hidden.bias"]
    hidden = np.tanh(hidden) if inputs == "committed" else hidden / 2 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return hidden @ w["out.kernel"] + w["out.bias"]


@pytest.mark.mpi
@pytest.mark.parametrize("inputs", ["public", "committed"])
def test_a_network_with_tables_is_proved_row_by_row_and_audited(inputs: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    proof = PROOF if inputs == "public" else {**PROOF, "inputs": inputs, "rows_per_proof": 256}
    job = write_small_job(tmp_path / "job", ROWS, {
        "proof": proof, "model": {"flax": "smooth_model.py:SmallSmooth"},
        "cluster": {"ranks": [{"node_id": "node-0", "memory_gb": 2}]}})
    (job.folder / "smooth_model.py").write_text(MODEL.replace("ACTIVATION", ACTIVATIONS[inputs]))
    done = run([*launcher(), "-np", "1", sys.executable, "-m", "enclaveml", "run", str(job.path)], LIMIT_S,
               {"ENCLAVEML_CACHE": cache_of(tmp_path_factory)})
    assert done.returncode == 0, log_of(done)
    found = read(job.results)
    assert (found.status, set(found.rows.tolist())) == ("complete", {1})
    truth = floats(dataset(ROWS), inputs)
    assert np.abs(found.proved - truth).max() < 0.05 * np.abs(truth).max()
    with h5py.File(job.results) as file:
        (keys,) = file["keys"].values()
        settings = json.loads(keys["manifest"][:].tobytes())["settings"]
    assert settings["widths"] == [6, 4, 3] and [layer[3:] and layer[3]["table"] for layer in settings["layers"]] == [1, []]
    told = audit(AuditOptions(job.results, processes=1))
    assert not told.failures
