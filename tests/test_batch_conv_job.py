"""A whole job of a small convolutional network with ReLU and, by table, GELU by batch proofs under mpirun: verified, and audited."""

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
from small_job import dataset, write_small_job
from small_runs import LIMIT_S, log_of, read

from enclaveml.audit import AuditOptions, audit

ROWS = 10

MODEL = '''\
"""Six numbers, a map of 3 x 2 cells: a convolution, a residual one with GELU, a mean over the map, three logits."""

from flax import nnx


class SmallConv(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 2, (2, 2), padding="VALID", rngs=rngs)
        self.again = nnx.Conv(2, 2, (3, 1), rngs=rngs)
        self.out = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x.reshape(x.shape[0], 3, 2, 1)))
        x = nnx.gelu(x + self.again(x), approximate=False)
        return self.out(nnx.avg_pool(x, window_shape=(2, 1), strides=(2, 1)).reshape(x.shape[0], -1))
'''


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"first.kernel": (2, 2, 1, 2), "first.bias": (2,), "again.kernel": (3, 1, 2, 2), "again.bias": (2,), "out.kernel": (2, 3), "out.bias": (3,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def floats(rows: np.ndarray) -> np.ndarray:
    """What the model says of these rows (n, 6): (n, 3) float64, cell by cell."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    x = rows.astype(np.float64).reshape(-1, 3, 2)
    first = np.stack([np.maximum(x[:, y:y + 2].reshape(-1, 4) @ w["first.kernel"].reshape(4, 2) + w["first.bias"], 0) for y in (0, 1)], axis=1)
    beside = np.pad(first, ((0, 0), (1, 1), (0, 0)))
    again = np.stack([beside[:, y:y + 3].reshape(-1, 6) @ w["again.kernel"].reshape(6, 2) + w["again.bias"] for y in (0, 1)], axis=1)
    z = first + again
    return (z / 2 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))).mean(axis=1) @ w["out.kernel"] + w["out.bias"]


@pytest.mark.mpi
def test_a_convolutional_network_is_proved_row_by_row_and_audited(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from safetensors.numpy import save_file

    job = write_small_job(tmp_path / "job", ROWS, {
        "proof": PROOF, "model": {"flax": "conv_model.py:SmallConv", "weights": "conv.safetensors"},
        "cluster": {"ranks": [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(2)]}})
    (job.folder / "conv_model.py").write_text(MODEL)
    save_file(weights(), job.folder / "conv.safetensors")
    done = run([*launcher(), "-np", "2", sys.executable, "-m", "enclaveml", "run", str(job.path)], LIMIT_S,
               {"ENCLAVEML_CACHE": cache_of(tmp_path_factory)})
    assert done.returncode == 0, log_of(done)
    found = read(job.results)
    assert (found.status, set(found.rows.tolist())) == ("complete", {1})
    truth = floats(dataset(ROWS))
    assert np.abs(found.proved - truth).max() < 0.05 * np.abs(truth).max()
    with h5py.File(job.results) as file:
        (keys,) = file["keys"].values()
        settings = json.loads(keys["manifest"][:].tobytes())["settings"]
    assert settings["widths"] == [6, 4, 4, 3] and [layer[3]["residual"] and layer[3]["residual"][0] for layer in settings["layers"]] == [None, 1, None]
    assert [layer[3].get("table", 0) for layer in settings["layers"]] == [0, 1, 0]
    told = audit(AuditOptions(job.results, processes=1))
    assert not told.failures
