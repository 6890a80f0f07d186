"""Ranks that die, hang or fail, and jobs that are stopped: what was verified stays, and the rest is done by others or later."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from launch import launcher, run
from small_job import SmallJob, floats, write_small_job
from small_runs import LIMIT_S, enclaveml, log_of, read

from enclaveml.journal import holds_nothing
from enclaveml.results import read_results
from enclaveml.resume import Resume

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]

BREAKER = Path(__file__).with_name("breaker.py")
ULFM = ("--with-ft", "ulfm")
ROWS = 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"ENCLAVEML_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> SmallJob:
    """The job, run once by one rank without a fault."""
    job = write_small_job(tmp_path_factory.mktemp("unbroken"), ROWS)
    done = enclaveml(job, env=cache)
    assert done.returncode == 0, log_of(done)
    return job


@pytest.fixture()
def job(tmp_path: Path) -> SmallJob:
    return write_small_job(tmp_path / "job", ROWS)


def skip_without_ulfm(mpi: tuple[str, ...]) -> None:
    """Skip where the job is to survive a lost rank and this MPI cannot have it: MPICH ends it."""
    if mpi == ULFM and "--oversubscribe" not in launcher():
        pytest.skip(f"{launcher()[0]} is not Open MPI's: it has no ULFM, and a lost rank ends the job")


def play(job: SmallJob, faults: list[str], cache: dict[str, str], mpi: tuple[str, ...] = (),
         options: tuple[str, ...] = ()) -> CompletedProcess[str]:
    """Run the job with one rank per fault (``sound`` for none)."""
    skip_without_ulfm(mpi)
    command = [*launcher(), *mpi]
    for i, fault in enumerate(faults):
        command += [*([":"] if i else []), "-np", "1", sys.executable, str(BREAKER), fault, "run", str(job.path), *options]
    return run(command, LIMIT_S, cache)


def whole(job: SmallJob, unbroken: SmallJob, done: CompletedProcess[str]) -> list[dict]:
    """Assert that every row is verified with the outputs of an unbroken run. Returns the table of ranks."""
    got, expected = read(job.results), read(unbroken.results)
    assert got.status == "complete" and got.exit_code == 0, log_of(done)
    assert (got.rows == 1).all() and got.proved.tobytes() == expected.proved.tobytes()
    assert got.outputs.tobytes() == expected.outputs.tobytes()
    assert np.abs(got.outputs - floats(job.rows)).max() < 1e-5
    assert not job.journal.exists()
    return list(got.ranks)


@pytest.mark.parametrize("fault", ["die", "crash", "hang", "freeze"])
def test_a_lost_worker_costs_its_unfinished_rows_and_nothing_else(fault: str, job: SmallJob, unbroken: SmallJob,
                                                                   cache: dict[str, str]) -> None:
    done = play(job, ["sound", fault, "quick_guard", "sound"], cache, ULFM)
    ranks = whole(job, unbroken, done)
    assert [r["fate"] for r in ranks] == ["ok", "lost", "ok", "ok"]
    assert ranks[1]["fate_reason"].startswith("died: ") and ranks[1]["fate_time"]
    assert ranks[1]["rejections"] == 0
    assert "rank 1 (rank-1 on " in done.stderr and "is lost" in done.stderr
    said = {"hang": "stuck for 8 s without using any CPU time", "freeze": "stopped for 4 s"}.get(fault)
    if said:
        assert re.search(rf"rank 1 on \S+ \(process \d+\) was {said}: killed by its guard", done.stderr), log_of(done)


def test_a_worker_lost_while_rows_travel(tmp_path: Path, unbroken: SmallJob, cache: dict[str, str]) -> None:
    """Rounds of 8 rows: the second round's rows are under way to all ranks when one of them dies."""
    job = write_small_job(tmp_path / "job", ROWS)
    done = play(job, ["travelling", "die_while_rows_travel", "travelling", "travelling"], cache, ULFM)
    assert [r["fate"] for r in whole(job, unbroken, done)] == ["ok", "lost", "ok", "ok"]


def test_all_but_one_worker_lost(job: SmallJob, unbroken: SmallJob, cache: dict[str, str]) -> None:
    done = play(job, ["sound", "die_at_once", "die", "sound"], cache, ULFM)
    assert [r["fate"] for r in whole(job, unbroken, done)] == ["ok", "lost", "lost", "ok"]


def test_no_worker_left_ends_resumable_and_resume_ends_it(job: SmallJob, unbroken: SmallJob,
                                                          cache: dict[str, str]) -> None:
    done = play(job, ["sound", "die", "die"], cache, ULFM)
    outcome = read(job.results)
    assert (outcome.status, outcome.exit_code) == ("resumable", 75), log_of(done)
    verified = int((outcome.rows == 1).sum())
    assert 0 < verified < ROWS
    again = enclaveml(job, "--resume", ranks=2, env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)


def test_without_fault_tolerance_a_lost_worker_ends_the_job_resumable(job: SmallJob, unbroken: SmallJob,
                                                                      cache: dict[str, str]) -> None:
    done = play(job, ["sound", "die", "sound"], cache)
    assert done.returncode != 0 and job.journal.exists()
    again = enclaveml(job, "--resume", ranks=2, env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)


@pytest.mark.parametrize("mpi", [(), ULFM])
def test_a_killed_aggregator_is_resumable(mpi: tuple[str, ...], job: SmallJob, unbroken: SmallJob,
                                          cache: dict[str, str]) -> None:
    done = play(job, ["kill_aggregator", "sound", "sound"], cache, mpi)
    assert job.journal.exists(), log_of(done)
    again = enclaveml(job, "--resume", env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)
    # What the first session verified was not proved again.
    assert {r["session"] for r in read(job.results).ranks} == {0, 1}
    first = [r for r in read(job.results).ranks if r["session"] == 0]
    assert sum(r["rows_verified"] for r in first) >= 8


@pytest.mark.parametrize("faults, mpi", [
    (["freeze_aggregator", "sound", "sound"], ULFM),
    (["sound", "freeze", "sound"], ()),
    (["sound", "freeze_at_once", "sound"], ULFM),
], ids=["aggregator", "worker-without-ulfm", "worker-before-the-first-round"])
def test_a_frozen_rank_that_cannot_be_done_without_ends_the_job_resumable(
        faults: list[str], mpi: tuple[str, ...], job: SmallJob, unbroken: SmallJob, cache: dict[str, str]) -> None:
    done = play(job, faults, cache, mpi)
    assert done.returncode != 0 and "was stopped for 4 s: killed by its guard" in done.stderr, log_of(done)
    assert not job.results.exists()
    if job.journal.exists():
        state = Resume.load(job.journal)
        assert not state.verified.all() and state.end is None
        # A worker stops once it has sent a proof; whether rank 0 has verified it when the guard ends all, 4 s later, is the machine's.
        assert state.verified.any() or "freeze" in faults
    else:
        assert "freeze_at_once" in faults
    if "freeze_aggregator" in faults:
        again = enclaveml(job, "--resume", env=cache)
        assert again.returncode == 0, log_of(again)
        whole(job, unbroken, again)


def test_a_rank_that_dies_before_mpi_is_there_ends_the_job(job: SmallJob) -> None:
    """Under ULFM the others would wait in MPI_Init for ever (found by the soak)."""
    skip_without_ulfm(ULFM)
    start = "from enclaveml import cli, watchdog; watchdog.START_S = 6.0; import sys; sys.exit(cli.main(sys.argv[1:]))"
    one = ["-np", "1", sys.executable, "-c", start, "run", str(job.path)]
    done = run([*launcher(), *ULFM, *one, ":", "-np", "1", "sh", "-c", "kill -9 $$", ":", *one], LIMIT_S)
    assert "was stuck for 6 s: killed by its guard" in done.stderr, log_of(done)
    assert not job.journal.exists()


def test_a_bug_in_a_worker_ends_the_job_with_its_traceback(job: SmallJob, cache: dict[str, str]) -> None:
    done = play(job, ["sound", "fail", "sound"], cache)
    assert done.returncode == 1, log_of(done)
    assert "rank 1 (rank-1 on " in done.stderr and "ZeroDivisionError: a bug in this worker" in done.stderr
    outcome = read(job.results)
    assert (outcome.status, outcome.exit_code) == ("failed", 1)


def test_a_prover_that_stands_still_is_killed_and_its_bundle_goes_elsewhere(job: SmallJob, unbroken: SmallJob,
                                                                            cache: dict[str, str]) -> None:
    done = play(job, ["leaves_rows", "stop_provers", "sound"], cache, options=("--set", "proof.timeout_s=20"))
    ranks = whole(job, unbroken, done)
    assert ranks[1]["rejections"] == 0 and ranks[2]["rows_verified"] > 0
    assert "could not prove bundle" in done.stderr


def test_the_tail_of_a_worker_that_is_ten_times_slower_is_proved_elsewhere(tmp_path: Path,
                                                                          cache: dict[str, str]) -> None:
    job = write_small_job(tmp_path / "job", 16)
    done = play(job, ["sound", "lag", "sound"], cache)
    assert done.returncode == 0, log_of(done)
    outcome = read(job.results)
    assert outcome.status == "complete" and (outcome.rows == 1).all(), log_of(done)
    assert np.abs(outcome.outputs - floats(job.rows)).max() < 1e-5
    _, slow, quick = outcome.ranks
    assert slow["rows_moved_out"] == quick["rows_moved_in"] and slow["fate"] == "ok" and slow["rejections"] == 0
    assert quick["copies"] == slow["discarded"] + quick["discarded"] >= 1
    assert quick["rows_verified"] == 16 - slow["rows_verified"] > 8
    assert "is proved by rank 2 as well, which is idle" in done.stderr and "bundles discarded" in done.stderr


def test_the_signal_before_a_time_limit_ends_resumable(job: SmallJob, unbroken: SmallJob, cache: dict[str, str]) -> None:
    done = play(job, ["signal_aggregator", "sound", "sound"], cache)
    assert done.returncode == 75, log_of(done)
    outcome = read(job.results)
    assert (outcome.status, outcome.exit_code) == ("resumable", 75) and 0 < (outcome.rows == 1).sum() < ROWS
    again = enclaveml(job, "--resume", ranks=3, env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)
    # A finished job is finished: one script serves first run and requeue.
    third = enclaveml(job, "--resume", env=cache)
    assert third.returncode == 0 and "is finished already: complete, exit status 0" in third.stderr, log_of(third)


def test_sigterm_ends_with_143_and_keeps_what_was_verified(job: SmallJob, unbroken: SmallJob,
                                                           cache: dict[str, str]) -> None:
    done = play(job, ["terminate_aggregator", "sound"], cache)
    assert done.returncode == 143, log_of(done)
    again = enclaveml(job, "--resume", env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)


def test_a_full_disk_is_said_and_nothing_verified_is_lost(job: SmallJob, unbroken: SmallJob,
                                                          cache: dict[str, str]) -> None:
    done = play(job, ["fill_disk", "sound"], cache)
    assert done.returncode == 4, log_of(done)
    assert "results.h5.journal" in done.stderr and "--resume" in done.stderr
    again = enclaveml(job, "--resume", env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)


def test_a_results_folder_that_goes_away_and_a_journal_that_is_read_only(
        job: SmallJob, unbroken: SmallJob, cache: dict[str, str]) -> None:
    """Both are said, end with status 4, and lose nothing."""
    done = run([sys.executable, str(BREAKER), "lose_folder", "run", str(job.path)], LIMIT_S, cache)
    assert done.returncode == 4, log_of(done)
    assert re.search(r"enclaveml: .*/job/results\.h5\S*: cannot be (read|written): No such file or directory", done.stderr), (
        log_of(done))
    job.folder.with_name("gone").rename(job.folder)
    verified = Resume.load(job.journal).verified
    assert verified.sum() >= 8
    job.journal.chmod(0o444)
    # Root may write what is read-only; as anybody else it may not.
    plain = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    refused = run([*plain, sys.executable, "-m", "enclaveml", "run", str(job.path), "--resume"], LIMIT_S, cache)
    assert refused.returncode == 4, log_of(refused)
    assert f"{job.journal}: cannot be written: Permission denied" in refused.stderr, log_of(refused)
    job.journal.chmod(0o644)
    assert (Resume.load(job.journal).verified == verified).all()
    again = enclaveml(job, "--resume", env=cache)
    assert again.returncode == 0, log_of(again)
    whole(job, unbroken, again)


def test_a_job_killed_in_the_middle_of_any_write_goes_on_to_the_same_file(job: SmallJob, unbroken: SmallJob,
                                                                          cache: dict[str, str]) -> None:
    """In its first record, so that nothing is there to go on with, then at a moment drawn for each run of this test."""
    seed = secrets.randbits(32)
    known = np.zeros(ROWS, bool)
    for options, at in (([], "2"), (["--resume"], str(random.Random(seed).randint(3, 15)))):
        done = run([sys.executable, str(BREAKER), "torn_write", "run", str(job.path), *options], LIMIT_S,
                   {**cache, "ENCLAVEML_BREAK_AT": at})
        assert done.returncode == -signal.SIGKILL, (seed, at, log_of(done))
        if not holds_nothing(job.journal):
            verified = Resume.load(job.journal).verified
            assert (verified | ~known).all(), (seed, "a verified row was lost")
            known = verified
    again = enclaveml(job, "--resume", env=cache)
    assert again.returncode == 0, (seed, log_of(again))
    whole(job, unbroken, again)
    with read_results(job.results) as results:
        status = np.concatenate([results.proof(i).status for i in range(results.n_proofs)])
    assert (status == 1).sum() == ROWS, (seed, "a verified row was proved again")


def test_ranks_wait_for_results_that_take_long_to_write(job: SmallJob, unbroken: SmallJob,
                                                        cache: dict[str, str]) -> None:
    done = play(job, ["slow_write"] * 3, cache)
    assert done.returncode == 0, log_of(done)
    whole(job, unbroken, done)


def test_resume_refuses_another_job_and_names_the_keys(job: SmallJob, cache: dict[str, str]) -> None:
    done = play(job, ["signal_aggregator", "sound"], cache)
    assert done.returncode == 75, log_of(done)
    changed = np.load(job.folder / "rows.npy")
    changed[0, 0] += 1
    np.save(job.folder / "rows.npy", changed)
    again = enclaveml(job, "--resume", "--set", "proof.tolerance=0.04", env=cache)
    assert again.returncode == 2, log_of(again)
    assert "--set proof.tolerance=0.04: proof.tolerance: found 0.04; the job to go on with has 0.05" in again.stderr
    assert "input.path: the data differ from those of the job to go on with" in again.stderr
    assert job.journal.exists()
