"""A job of a tiny model with a small circuit: seconds to run, its keys made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

MODEL = '''\
from flax import nnx


class Tiny(nnx.Module):
    """4 -> 6 -> 3."""

    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(4, 6, rngs=rngs)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))
'''

JOB = """\
model: {flax: "tiny_model.py:Tiny"}
input: {path: x.npy}
proof: {rows_per_proof: 4, scale: 10}
output: {path: results.h5}
"""


@dataclass(frozen=True)
class Tiny:
    """The job's file, its results file and its journal; ``rows`` rows of (4,) float32."""

    job: Path
    rows: int

    @property
    def results(self) -> Path:
        return self.job.with_name("results.h5")

    @property
    def journal(self) -> Path:
        return self.job.with_name("results.h5.journal")

    @classmethod
    def write(cls, folder: Path, rows: int = 24) -> Tiny:
        """Write model, data and job into a new folder."""
        folder.mkdir(parents=True)
        (folder / "tiny_model.py").write_text(MODEL)
        np.save(folder / "x.npy", np.random.default_rng(rows).random((rows, 4), dtype=np.float32))
        (folder / "job.yaml").write_text(JOB)
        return cls(folder / "job.yaml", rows)
