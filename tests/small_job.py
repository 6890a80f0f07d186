"""A whole job that takes seconds: a small MLP with fixed weights, a few rows, a circuit proved in a fraction of one.

For the tests that start mpirun. Everything is the same in every process: weights and rows come from
fixed seeds, and ``floats`` is the model in plain numpy, so that a test can recompute what is true.

Letters: N rows, n rows at hand, D = 3 outputs per row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HIDDEN, D = 6, 4, 3
#: Rows in one proof, and fractional bits: the circuit has 2^8 rows, and a proof takes 0.3 s of a core.
BUNDLE, SCALE = 4, 10
#: Largest |proved - float| that is allowed; what rounding gives is some fifty times less.
TOLERANCE = 0.05

MODEL = '''\
"""Six numbers in, three logits out."""

from flax import nnx


class SmallMLP(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(6, 4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))
'''


@dataclass(frozen=True)
class SmallJob:
    """A job file in a folder of its own, and where its results go."""

    path: Path
    rows: np.ndarray

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def results(self) -> Path:
        return self.folder / "results.h5"

    @property
    def journal(self) -> Path:
        return self.folder / "results.h5.journal"


def weights() -> dict[str, np.ndarray]:
    """The model's weights by their names in the file."""
    rng = np.random.default_rng(7)
    shapes = {"hidden.kernel": (WIDTH, HIDDEN), "hidden.bias": (HIDDEN,), "out.kernel": (HIDDEN, D), "out.bias": (D,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def floats(rows: np.ndarray) -> np.ndarray:
    """What the model truly says of these rows (n, 6): (n, D) float64."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    hidden = np.maximum(rows.astype(np.float64) @ w["hidden.kernel"] + w["hidden.bias"], 0)
    return hidden @ w["out.kernel"] + w["out.bias"]


def dataset(n: int) -> np.ndarray:
    """N different rows (N, 6) float32, the first of which do not depend on N; row 1 of each eight is a near tie."""
    rows = np.random.default_rng(11).uniform(-1, 1, (n, WIDTH)).astype(np.float32)
    for i in range(1, n, 8):
        rows[i] = near_tie(np.random.default_rng([11, i]))
    return rows


def near_tie(rng: np.random.Generator) -> np.ndarray:
    """A row whose two largest outputs are between 0.2 and 0.4 tolerances apart: more than rounding can turn."""
    def leads(row: np.ndarray) -> int:
        return int(np.argmax(floats(row[None])[0]))

    while True:
        one, other = rng.uniform(-1, 1, (2, WIDTH))
        if leads(one) == leads(other):
            continue
        for _ in range(60):  # halve the way between them, staying on one's side of the tie
            middle = (one + other) / 2
            one, other = (middle, other) if leads(middle) == leads(one) else (one, middle)
            low, top = np.sort(floats(one[None].astype(np.float32))[0])[-2:]
            if 0.2 * TOLERANCE < top - low < 0.4 * TOLERANCE:
                return one.astype(np.float32)


def write_small_job(folder: Path, n_rows: int = 24, sections: Mapping[str, Mapping[str, Any]] = {}) -> SmallJob:
    """Write job, model, weights and data into ``folder``. ``sections`` adds to or replaces keys of the job file."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rows = dataset(n_rows)
    (folder / "small_model.py").write_text(MODEL)
    save_file(weights(), folder / "small.safetensors")
    np.save(folder / "rows.npy", rows)
    job: dict[str, dict[str, Any]] = {
        "job": {"name": "small"},
        "model": {"flax": "small_model.py:SmallMLP", "weights": "small.safetensors"},
        "input": {"path": "rows.npy"},
        "split": {"strategy": "equal"},
        "proof": {"rows_per_proof": BUNDLE, "scale": SCALE, "tolerance": TOLERANCE, "timeout_s": 120},
        "output": {"path": "results.h5"},
    }
    for name, keys in sections.items():
        job[name] = {**job.get(name, {}), **keys}
    path = folder / "job.yaml"
    path.write_text(json.dumps(job, indent=2))  # JSON is YAML
    return SmallJob(path, rows)
