"""Where nobody honest is left: rows end unverified, and ``proof.strict`` decides what that means."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import launcher, run
from small_job import write_small_job
from small_runs import LIMIT_S, log_of, read

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]

LIAR = Path(__file__).with_name("liar.py")


@pytest.mark.parametrize(("strict", "code"), [("true", 3), ("false", 0)])
def test_rows_that_end_unverified(strict: str, code: int, tmp_path: Path,
                                  tmp_path_factory: pytest.TempPathFactory) -> None:
    job = write_small_job(tmp_path / "job", 12)
    cache = tmp_path_factory.getbasetemp() / "strict-cache"
    done = run([*launcher(), "-np", "1", sys.executable, "-m", "enclaveml", "run", str(job.path), "--set",
                f"proof.strict={strict}", ":", "-np", "1", sys.executable, str(LIAR), "proved_outputs_altered", "run",
                str(job.path)], LIMIT_S, {"ENCLAVEML_CACHE": str(cache)})
    assert done.returncode == code, log_of(done)
    outcome = read(job.results)
    assert (outcome.status, outcome.exit_code) == ("complete_unverified", code)
    assert not (outcome.rows == 1).any() and (outcome.rows == 2).any()
    assert f"complete_unverified (exit status {code}): 0 of 12 rows verified" in done.stderr
    assert outcome.ranks[1]["fate"] == "expelled"
    with h5py.File(job.results) as f:
        assert np.isnan(f["combined/result"][:]).all() and f["combined/count"][()] == 0
    assert not job.journal.exists()
