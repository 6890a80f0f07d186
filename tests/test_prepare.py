"""``enclaveml prepare``: the keys that a job then finds, and the table of what was tried."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from launch import run
from small_job import write_small_job
from small_runs import LIMIT_S, enclaveml, log_of

from enclaveml import prepare
from enclaveml.capacity import RankFacts
from enclaveml.errors import JobError
from enclaveml.job import load_job

PLANNED = {"proof": {"rows_per_proof": None, "scale": None}}


@pytest.mark.mpi
@pytest.mark.ezkl
def test_a_prepared_job_finds_its_keys(tmp_path: Path) -> None:
    job = write_small_job(tmp_path / "job", n_rows=8, sections=PLANNED)
    env = {"ENCLAVEML_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    made = run([sys.executable, "-m", "enclaveml", "prepare", str(job.path), "--ranks", "3"], env=env, timeout=LIMIT_S)
    assert made.returncode == 0, made.stderr
    lines = made.stdout.splitlines()
    assert lines[1].split() == ["predicted", "measured", "predicted", "measured", "deviation", "plan"]
    assert [line.rpartition(": ")[2] for line in lines[2:] if ": chosen" in line] == ["chosen"]
    assert re.fullmatch(r"primary circuit [0-9a-f]{64}", lines[-2]) and lines[-1].startswith("keys: ")
    assert "set-up, key about" in made.stderr
    again = run([sys.executable, "-m", "enclaveml", "prepare", str(job.path), "--ranks", "3"], env=env, timeout=LIMIT_S)
    assert again.stdout == made.stdout and "set-up, key about" not in again.stderr
    done = enclaveml(job, ranks=3, env=env)
    assert done.returncode == 0 and "set-up, key about" not in log_of(done)
    assert f"circuit {lines[-2].split()[2][:12]} ready" in log_of(done)


def test_what_ranks_of_this_machine_ask_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        prepare, "measure", lambda host, local_rank, ranks: RankFacts("h", "h", 0, 8, 48 / ranks, "cpu")
    )
    job = load_job(write_small_job(tmp_path, sections={"split": {"strategy": "redundant", "replicas": 2}}).path)
    one, four = (prepare.request_of(job, 24, ranks) for ranks in (1, 4))
    assert (one.cores, one.children, one.memory_gb, one.expected_rows) == (8, 8, 48.0, 48)
    assert (four.cores, four.children, four.memory_gb) == (6, 2, 12.0)  # rank 0 of four does not compute


def test_nothing_to_prove_is_an_error(tmp_path: Path) -> None:
    job = write_small_job(tmp_path, sections={"proof": {"coverage": 0}})
    with pytest.raises(JobError) as caught:
        prepare.prepare(job.path)
    where = load_job(job.path).where("proof.coverage")
    assert str(caught.value) == f"{where}: proof.coverage: is 0: there is no circuit to prepare"
