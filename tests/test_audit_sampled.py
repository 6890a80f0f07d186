"""The audit of jobs that prove some rows: a real one with replicas, a beacon, rechecks and a resumption; and lies about it."""

from __future__ import annotations

from pathlib import Path

import audit_case
import h5py
import numpy as np
import pytest
from audit_case import changed, findings, run
from small_job import SmallJob, write_small_job
from small_runs import enclaveml, log_of

from enclaveml import sampling
from enclaveml.results import read_results
from enclaveml.results_schema import RowStatus

pytestmark = [pytest.mark.ezkl, pytest.mark.mpi]

N, VALUE = 24, "drand 4711: 8a7f33"
PROOF = {"audit": {"undetected_bad_rows": 2, "confidence": 0.9}, "beacon": "beacon.txt", "beacon_wait_s": 1, "recheck": 0.5}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[SmallJob, str, Path]:
    """A job that stopped for want of the beacon's value, its log, and a copy of its results."""
    base = tmp_path_factory.mktemp("sampled")
    job = write_small_job(base / "job", N, {"proof": PROOF, "split": {"strategy": "redundant", "replicas": 2}})
    (job.folder / "beacon.txt").write_text("yesterday's")
    done = enclaveml(job, ranks=3, env={"ENCLAVEML_CACHE": str(base / "cache")})
    assert done.returncode == 75, log_of(done)
    copy = base / "stopped.h5"
    copy.write_bytes(job.results.read_bytes())
    return job, done.stderr, copy


@pytest.fixture(scope="module")
def finished(stopped) -> tuple[SmallJob, str]:
    """The same job, gone on with once the value was there, and its log."""
    job, _, copy = stopped
    (job.folder / "beacon.txt").write_text(VALUE + "\n")
    done = enclaveml(job, "--resume", ranks=3, env={"ENCLAVEML_CACHE": str(copy.parent / "cache")})
    assert done.returncode == 0, log_of(done)
    return job, done.stderr


def root_in(log: str) -> str:
    return log.partition(f"outputs of {2 * N} rows are sealed, SHA-256 ")[2][:64]


def test_a_job_that_waits_for_its_beacon_can_be_read_and_is_not_sealed(stopped) -> None:
    job, log, copy = stopped
    assert len(root_in(log)) == 64 and "no later value of the beacon came in 1 s" in log
    report = run(copy)
    assert report.failures == [] and report.exit_code == 0 and report.proofs == 0
    assert "that nothing outside the proofs was changed later: the file is not sealed" in report.limits
    assert "how the job ends: it is resumable" in report.limits
    assert report.facts["seal"] == "none"


def test_it_goes_on_with_the_same_outputs_and_the_later_value(stopped, finished) -> None:
    job, log = finished
    root = root_in(stopped[1])
    assert root_in(log) == root and f"the beacon's value is {VALUE}" in log
    drawn = sampling.to_draw(N, 2, 0.9, True)
    most = sampling.bad_at_most(N, drawn, 0.9)
    claims = [f"at 90 % confidence, fewer than {most + 1} of rank-{rank}'s {N} rows can be wrong" for rank in (1, 2)]
    for claim in claims:
        assert f"rows not drawn: {claim}\n" in log
    report = run(job.results)
    assert report.failures == [] and report.exit_code == 0
    assert (f"that the outputs were fixed before the public value '{VALUE}' was: who was told their digest {root} before "
            "that knows it") in report.limits
    assert not any("could have drawn again" in line for line in report.limits)
    for claim in claims:
        assert f"the rows not drawn, if the outputs were fixed before the beacon's value: {claim}" in report.limits
    unproved = 2 * (N - drawn)
    assert f"rank 0 recomputed {2 * -(-(N - drawn) // 2)} of {unproved} unproved rows in float, 0 differ" in log
    assert any("unproved rows that the aggregator says it computed itself in float (0 differed)" in line for line in report.limits)
    with read_results(job.results) as results:
        assert (results.replicas("status") == RowStatus.UNPROVED).sum() == unproved
        assert {line["session"] for line in results.draws} == {1} and len(results.draws) == 2
        assert (results.row("status") != RowStatus.UNPROVED).sum() >= drawn  # two draws of the same rows


def undrawn(file: h5py.File) -> int:
    return int(np.flatnonzero((file["replicas/status"][()] == 4) & (file["replicas/session"][()] == 1))[0])


def other_value(file):
    del file["beacon/value"]
    file["beacon/value"] = np.array([b"another value"])
    file["beacon/value"].attrs.update({"long_name": "", "units": "1"})


def other_seed(file):
    file["draws/seed"][0] = file["draws/seed"][0][::-1]


def other_output(file):
    file["replicas/output"][undrawn(file), 0] += np.float32(0.5)


def other_leaf(file):
    file["beacon/leaf"][3, 3] ^= 1


def other_rows(file):
    rows, status = file["draws/rows"], file["replicas/status"]
    left = np.flatnonzero((status[()] == 4) & (file["replicas/rank"][()] == file["draws/rank"][0])
                          & (file["replicas/session"][()] == 1))
    first = rows[: file["draws/drawn"][0]]
    first[0] = file["replicas/row"][left[0]]
    rows[: len(first)] = np.sort(first)


def fewer_drawn(file):
    """The draw is said to be of more rows than there were, so that its claim would be another."""
    file["draws/of"][0] -= 1


def better_claim(file):
    file["ranks/wrong_at_most"][:] = np.where(file["ranks/wrong_at_most"][()] >= 0, 0, -1)


def more_confidence(file):
    file["draws/confidence"][:] = 0.999


def no_draws(file):
    del file["draws"]


@pytest.mark.parametrize(("change", "expected"), [
    (other_value, "draw 0: its seed does not follow from the sealed outputs and the beacon's value"),
    (other_seed, "draw 0: its seed does not follow from the sealed outputs and the beacon's value"),
    (other_output, "beacon of session 1: the float output is not the one that was sealed"),
    (other_leaf, "beacon of session 1: the digest of the outputs is not that of their leaves"),
    (other_rows, "draw 0: its rows were drawn, and are called not drawn"),
    (fewer_drawn, "draw 0: is of 23 rows, and there are 24 of that rank"),
    (better_claim, "/ranks/claim: of rank 1 does not follow from the draws: 0 and "),
    (more_confidence, "/ranks/claim: of rank 1 does not follow from the draws: "),
    (no_draws, "/draws: rows are called not drawn, and there is no draw of their rank"),
])
def test_lies_about_draws_are_found_though_the_file_is_sealed_again(finished, tmp_path, change, expected) -> None:
    found = findings(changed(finished[0], tmp_path, change))
    assert any(text.startswith(expected) for text in found), found


def test_a_change_is_located_by_the_seal(finished, tmp_path) -> None:
    path = audit_case.copied(finished[0], tmp_path)
    with h5py.File(path, "r+") as file:
        file["beacon/leaf"][3, 3] ^= 1
        file["rechecks/differ"][0] = 7
    found = findings(path)
    assert "/beacon/leaf: has other content than when it was sealed" in found
    assert "/rechecks/differ: has other content than when it was sealed" in found
