"""A real job with rows far beyond its sample rows: proved at the fallback circuit, audited, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from launch import environment, run
from small_job import TOLERANCE, SmallJob, floats, write_small_job
from small_runs import LIMIT_S, enclaveml, log_of

from enclaveml.audit import AuditOptions, audit
from enclaveml.journal import read_records
from enclaveml.results import read_results
from enclaveml.results_schema import RowStatus
from enclaveml.circuits import SAMPLE_ROWS

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]

#: Four rows more than rank 0 samples: these four it has not seen.
N = SAMPLE_ROWS + 4
UNSEEN = sorted(set(range(N)) - set(np.linspace(0, N - 1, SAMPLE_ROWS).astype(np.int64).tolist()))
#: Of these the largest values, where those of all other rows are below 1: two rows leave the primary circuit's range,
#: one is too coarse there, and one is too large for any circuit.
BIG = dict(zip(UNSEEN, (200.0, 200.0, 50.0)))
HOPELESS = UNSEEN[3]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"ENCLAVEML_CACHE": str(tmp_path_factory.mktemp("cache"))}


def job_in(folder: Path, hopeless: bool) -> SmallJob:
    job = write_small_job(folder, N, {"proof": {"rows_per_proof": 65}})
    for row, size in BIG.items():
        job.rows[row] *= size / np.abs(job.rows[row]).max()
    if hopeless:
        job.rows[HOPELESS] = 1e9
    np.save(folder / "rows.npy", job.rows)
    return job


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> tuple[SmallJob, CompletedProcess[str]]:
    job = job_in(tmp_path_factory.mktemp("fallback"), hopeless=True)
    return job, enclaveml(job, ranks=2, env=cache)


def used(job: SmallJob) -> dict[int, str]:
    """Row to the role of the circuit that its proof is of."""
    with read_results(job.results) as results:
        names, bundle = results.proofs("circuit_id"), results.row("bundle")
        roles = {each: results.circuit(each).manifest["role"] for each in results.circuit_ids}
        return {row: roles[names[number]] for row, number in enumerate(bundle.tolist()) if number >= 0}


def test_rows_that_overflow_are_verified_at_the_fallback_and_one_that_nothing_proves_costs_itself(done) -> None:
    job, ended = done
    log = log_of(ended)
    assert ended.returncode == 3, log
    assert f"complete_unverified (exit status 3): {N - 1} of {N} rows verified; 1 lost" in ended.stderr
    assert "3 rows were proved at the fallback circuit" in ended.stderr
    assert "leave the range of the primary circuit, says rank 1" in ended.stderr
    assert f"1 rows (first {UNSEEN[2]}) of rank 1" in ended.stderr and "is too coarse for them" in ended.stderr
    assert "REJECTED" not in log
    with read_results(job.results) as results:
        status, proved = results.row("status"), results.proved_outputs()
        assert np.flatnonzero(status != RowStatus.VERIFIED).tolist() == [HOPELESS]
        assert status[HOPELESS] == RowStatus.LOST
        assert all((line["fate"], line["rejections"]) == ("ok", 0) for line in results.ranks)
    good = np.arange(N) != HOPELESS
    assert np.abs(proved - floats(job.rows))[good].max() < TOLERANCE
    of = used(job)
    assert sorted(row for row, role in of.items() if role == "fallback") == list(BIG)
    assert len(of) == N - 1


def test_a_file_of_two_circuits_is_audited(done) -> None:
    job, _ = done
    report = audit(AuditOptions(job.results, processes=1))
    assert report.failures == [] and report.rows_checked == N - 1
    primary, fallback = (next(c for c in report.circuits if c["role"] == role) for role in ("primary", "fallback"))
    assert (primary["rows"], fallback["rows"]) == (N - 4, 3)
    assert primary["tolerance"] == fallback["tolerance"] == TOLERANCE and fallback["scale"] > primary["scale"]
    text = report.text()
    assert all(one["circuit"][:16] in text for one in (primary, fallback))
    both = audit(AuditOptions(job.results, (primary["circuit"], fallback["circuit"]), processes=1))
    assert both.failures == [] and both.verdict.endswith("proofs checked: of the circuits given")
    (failure,) = audit(AuditOptions(job.results, (primary["circuit"],), processes=1)).failures
    assert failure.rows == tuple(BIG)
    assert failure.text == (f"is circuit {fallback['circuit']}, the one given is {primary['circuit']}: its proofs bind "
                            "these rows to no model")


def test_both_ids_are_rebuilt_from_the_model(done, cache) -> None:
    job, _ = done
    command = [sys.executable, "-m", "enclaveml", "hash", "--circuit", str(job.path)]
    alike = run([*command, "--like", str(job.results)], LIMIT_S, {**cache, "JAX_PLATFORMS": "cpu"})
    with read_results(job.results) as results:
        roles = {each: results.circuit(each).manifest["role"] for each in results.circuit_ids}
    expected = [f"{each} {role}" for role in ("primary", "fallback") for each, of in roles.items() if of == role]
    assert alike.returncode == 0 and alike.stdout.splitlines() == expected, log_of(alike)


def test_a_job_killed_after_its_first_fallback_proof_goes_on(tmp_path: Path, cache: dict[str, str]) -> None:
    job = job_in(tmp_path / "job", hopeless=False)
    command = [sys.executable, "-m", "enclaveml", "run", str(job.path)]
    first = subprocess.Popen(command, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
    try:
        deadline = time.monotonic() + LIMIT_S
        while len({r.meta["circuit_id"] for r in records(job)}) < 2:
            assert time.monotonic() < deadline and first.poll() is None, "no proof at the fallback"
            time.sleep(0.05)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = {int(row) for r in records(job) for row in r.arrays["rows"][r.arrays["status"] == RowStatus.VERIFIED]}
    again = enclaveml(job, "--resume", env=cache)
    assert again.returncode == 0, log_of(again)
    assert f"complete (exit status 0): {N} of {N} rows verified" in again.stderr
    with read_results(job.results) as results:
        sessions = results.proofs("session")
        later = {int(row) for i in np.flatnonzero(sessions == 1).tolist() for row in results.proof(i).rows}
        assert (results.row("status") == RowStatus.VERIFIED).all() and len(results.circuit_ids) == 2
    assert before and not before & later  # none of them again
    assert audit(AuditOptions(job.results, processes=1)).failures == []


def records(job: SmallJob) -> list:
    try:
        return list(read_records(job.journal, kinds={"bundle"}))
    except Exception:  # not there yet, or just being begun
        return []
