"""The jobs of several kinds of network: one proved and audited on two of its rows, the others held as witnesses.

A witness is what a proof is about; proofs of these models take CPU seconds a row (README.md), so only one is made.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from launch import ROOT, run
from small_runs import log_of, read

from enclaveml.check import check

pytestmark = pytest.mark.ezkl


def few(job: str, rows: int, folder: Path) -> tuple[Path, np.ndarray]:
    """A dataset of the first rows of the job's, and their labels."""
    spec = yaml.safe_load((ROOT / "jobs" / job / "job.yaml").read_text())["input"]
    with np.load(ROOT / "jobs" / job / spec["path"]) as data:
        x, y = data[spec["key"]][:rows], data[spec["labels"]][:rows]
    np.savez(folder / "few.npz", x=x, y=y)
    return folder / "few.npz", y


def test_a_recurrent_network_is_proved(tmp_path: Path) -> None:
    """At a coarse scale, whose tables are short."""
    data, labels = few("co2", 2, tmp_path)
    given = ("proof.fallback=false", "proof.rows_per_proof=2", "proof.scale=8", "proof.tolerance=0.1", f"input.path={data}")
    more = [word for line in given for word in ("--set", line)]
    out = tmp_path / "results.h5"
    env = {"ENCLAVEML_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    done = run([sys.executable, "-m", "enclaveml", "run", str(ROOT / "jobs/co2/job.yaml"), "-o", str(out), *more], 400, env)
    assert done.returncode == 0, log_of(done)
    outcome = read(out)
    assert outcome.status == "complete" and outcome.rows.tolist() == [1, 1]
    assert 0 < np.abs(outcome.proved - outcome.outputs).max() <= 0.1, "fixed point is not float"
    assert np.abs(outcome.proved[:, 0] - labels).max() < 1.0
    audit = run([sys.executable, "-m", "enclaveml", "audit", str(out)], 120, env)
    assert audit.returncode == 0, log_of(audit)


@pytest.mark.parametrize(
    ("job", "scale", "tolerance", "costly"),
    [("digits_residual", 12, 0.1, "MatMul"), ("digits_transformer", 10, 0.1, "Softmax"), ("digits_ensemble", 8, 0.05, "Softmax")],
)
def test_a_network_can_be_proved(
    job: str, scale: int, tolerance: float, costly: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # Another test file may have brought up JAX in this process: it is on the CPU all the same.
    monkeypatch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
    data, _ = few(job, 8, tmp_path)
    given = (f"proof.scale={scale}", f"proof.tolerance={tolerance}", "proof.rows_per_proof=2", "proof.coverage=1", f"input.path={data}")
    status = check(ROOT / "jobs" / job / "job.yaml", given, ranks=1, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (status, said["refused"]) == (0, None)
    (output,) = said["outputs"]
    assert output["onnx_deviation"] < 1e-4 and output["onnx_agreement"] == output["proved_agreement"] == 1.0
    assert 1e-5 < output["proved_deviation"] <= tolerance and said["samples"] == 8
    assert any(costly in layer["nodes"] for layer in said["layers"])
    assert not any("BatchNormalization" in layer["nodes"] for layer in said["layers"]), "it costs nothing where it is folded"
