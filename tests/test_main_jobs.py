"""The two jobs that ship, whole: real data, every held-out row proved, the accuracy that they promise."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import ROOT, launcher, run
from small_runs import log_of, read

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]


def play(name: str, ranks: int, folder: Path, env: dict[str, str]) -> Path:
    results = folder / f"{name}.h5"
    command = [*launcher(), "-np", str(ranks), sys.executable, "-m", "enclaveml", "run",
               str(ROOT / "jobs" / name / "job.yaml"), "-o", str(results)]
    done = run(command, 900, env)
    assert done.returncode == 0, log_of(done)
    return results


def test_digits_proves_all_held_out_rows(tmp_path: Path) -> None:
    results = play("digits", 3, tmp_path, {})
    outcome = read(results)
    assert outcome.status == "complete" and outcome.rows.shape == (360,) and (outcome.rows == 1).all()
    labels = np.load(ROOT / "jobs" / "digits" / "digits.npz")["y"]
    assert (outcome.proved.argmax(axis=1) == labels).mean() >= 0.95
    assert np.abs(outcome.proved - outcome.outputs).max() <= 0.01


def test_cancer_gives_every_row_to_three_workers_and_keeps_inputs_out(tmp_path: Path) -> None:
    results = play("cancer", 4, tmp_path, {})
    outcome = read(results)
    assert outcome.status == "complete" and (outcome.rows == 1).all()
    data = np.load(ROOT / "jobs" / "cancer" / "cancer.npz")
    with h5py.File(results) as f:
        assert (np.bincount(f["replicas/row"][:]) == 3).all()
        ranks = f["replicas/rank"][:].reshape(-1, 3)
        assert all(len(set(row)) == 3 for row in ranks.tolist())
        combined = f["combined/outputs"][:]
        proved = f["replicas/proved_output"][:].reshape(len(combined), 3, -1)
        assert (combined == np.median(proved, axis=1)).all()
    assert (combined.argmax(axis=1) == data["y"]).mean() >= 0.95
    raw = results.read_bytes()
    for kind in ("<f4", "<f8", ">f4", ">f8"):
        for row in data["x"].astype(kind):
            # Two neighbours at a time: a single value's four bytes may stand somewhere by chance.
            assert not any(row[i: i + 2].tobytes() in raw for i in range(0, len(row), 2))
