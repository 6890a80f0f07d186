"""The two jobs that ship, whole: real data, every held-out row proved, the accuracy that they promise."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import ROOT, run
from small_runs import log_of, read

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]


def play(name: str, folder: Path) -> Path:
    """Run the command of the job's README as it stands there, in a folder that has the job where the project has it."""
    (command,) = re.findall(r"^    (mpirun .*)$", (ROOT / "jobs" / name / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    shutil.copytree(ROOT / "jobs" / name, folder / "jobs" / name, ignore=shutil.ignore_patterns("results.*"))
    scripts = folder / "bin"
    scripts.mkdir()
    (scripts / "enclaveml-run").write_text(f"#!{sys.executable}\nimport sys\nfrom enclaveml.cli import run_main\nsys.exit(run_main())\n")
    (scripts / "enclaveml-run").chmod(0o755)
    path = os.pathsep.join([str(scripts), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = run(["bash", "-c", command], 900, {"PATH": path}, folder)
    assert done.returncode == 0, log_of(done)
    return folder / "jobs" / name / "results.h5"


def test_the_readmes_run_command_is_that_of_its_job() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("<!-- the run command -->\n```sh\n")[2].partition("```")[0].splitlines()
    assert f"    {block[-1]}\n" in (ROOT / "jobs/digits/README.md").read_text(encoding="utf-8")


def test_digits_proves_all_held_out_rows(tmp_path: Path) -> None:
    results = play("digits", tmp_path)
    outcome = read(results)
    assert outcome.status == "complete" and outcome.rows.shape == (360,) and (outcome.rows == 1).all()
    labels = np.load(ROOT / "jobs" / "digits" / "digits.npz")["y"]
    assert (outcome.proved.argmax(axis=1) == labels).mean() >= 0.95
    assert np.abs(outcome.proved - outcome.outputs).max() <= 0.01


def test_cancer_gives_every_row_to_three_workers_and_keeps_inputs_out(tmp_path: Path) -> None:
    results = play("cancer", tmp_path)
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
