"""The scripts of slurm/, submitted as they are to a real Slurm, and what they leave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster
from tiny import Tiny

from enclaveml.journal import read_records
from enclaveml.results import FileStatus, RowStatus, read_results

SCRIPTS = Path(__file__).resolve().parents[2] / "slurm"

# Bound on a job, in seconds. One takes half a minute on two cores, and many times that where they are busy.
JOB_S = 900.0

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]


def verified_bundles(tiny: Tiny) -> int:
    """How many bundles the journal of a running job has."""
    return sum(1 for _ in read_records(tiny.journal, kinds={"bundle"})) if tiny.journal.exists() else 0


def processes(**variables: str) -> dict[int, int]:
    """The processes with these environment variables, each with its parent."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                    found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    return found


def ranks_of(job: str, rank: int) -> list[int]:
    """The processes that are this MPI rank of a Slurm job, without their children."""
    found = processes(SLURM_JOB_ID=job, OMPI_COMM_WORLD_RANK=str(rank))
    return [pid for pid, parent in found.items() if parent not in found]


def check_complete(tiny: Tiny, *, ranks: int, sessions: int = 1) -> list[dict]:
    """The results file is complete, each row verified and what numpy says; its table of ranks."""
    with read_results(tiny.results) as results:
        assert results.status is FileStatus.COMPLETE
        assert results.attribute("exit_code") == 0
        assert (results.row("status") == RowStatus.VERIFIED).all()
        assert results.n_rows == tiny.rows
        assert np.abs(results.proved_outputs() - results.outputs()).max() < 0.02
        table = list(results.ranks)
        assert sorted({(line["session"], line["rank"]) for line in table}) == [
            (session, rank) for session in range(sessions) for rank in range(ranks)
        ]
    assert not tiny.journal.exists()
    return table


def nodes_of(cluster: Cluster, expression: str) -> list[str]:
    return cluster.command("scontrol", "show", "hostnames", expression).stdout.split()


def test_one_node_survives_a_killed_rank(cluster: Cluster, tmp_path: Path) -> None:
    tiny = Tiny.write(tmp_path / "job", rows=160)
    job = cluster.submit(str(SCRIPTS / "one-node.sbatch"), str(tiny.job), cwd=tmp_path)
    log = tmp_path / f"enclaveml-{job}.log"
    cluster.wait(lambda: verified_bundles(tiny) >= 2, JOB_S, lambda: f"bundles\n{log.read_text()}")
    victims = ranks_of(job, 2)
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    ended = cluster.finish(job, JOB_S, log)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    table = check_complete(tiny, ranks=4)
    assert {line["host"] for line in table} == {"big"}
    assert [line["fate"] for line in table] == ["ok", "ok", "lost", "ok"]
    assert "enclaveml: exit status 0: results.h5 is complete" in log.read_text()


def test_several_nodes(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    job = cluster.submit(str(SCRIPTS / "several-nodes.sbatch"), str(tiny.job), cwd=tmp_path)
    log = tmp_path / f"enclaveml-{job}.log"
    ended = cluster.finish(job, JOB_S, log)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    nodes = nodes_of(cluster, ended["NodeList"])
    assert len(nodes) == 2
    # The host of a rank is Slurm's node, though all share this machine.
    assert [line["host"] for line in check_complete(tiny, ranks=4)] == [
        nodes[0],
        nodes[0],
        nodes[1],
        nodes[1],
    ]


def test_a_lost_node_is_no_success(cluster: Cluster, tmp_path: Path) -> None:
    tiny = Tiny.write(tmp_path / "job", rows=160)
    job = cluster.submit(str(SCRIPTS / "several-nodes.sbatch"), str(tiny.job), cwd=tmp_path)
    log = tmp_path / f"enclaveml-{job}.log"
    cluster.wait(lambda: verified_bundles(tiny) >= 2, JOB_S, lambda: f"bundles\n{log.read_text()}")
    second = nodes_of(cluster, cluster.job(job)["NodeList"])[1]
    for pid in processes(SLURM_JOB_ID=job, SLURMD_NODENAME=second):
        os.kill(pid, signal.SIGKILL)
    ended = cluster.finish(job, JOB_S, log)
    # What mpirun itself says of it depends on who noticed first.
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0"), log.read_text()
    assert tiny.journal.exists()


def test_heterogeneous(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    if not cluster.named:
        pytest.skip(
            "HETEROGENEOUS JOB NOT TESTED: unshare --uts is not allowed here, so nodes share a host name"
        )
    job = cluster.submit(str(SCRIPTS / "heterogeneous.sbatch"), str(tiny.job), cwd=tmp_path)
    log = tmp_path / f"enclaveml-{job}.log"
    ended = cluster.finish(job, JOB_S, log)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    hosts = [line["host"] for line in check_complete(tiny, ranks=3)]
    assert hosts[0] == "plain"
    assert hosts[1:] == nodes_of(cluster, cluster.job(f"{job}+1")["NodeList"])


def test_array(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [Tiny.write(tmp_path / name, rows=24) for name in ("a", "b")]
    # One at a time: two cores. And one more than there are jobs.
    job = cluster.submit(
        "--array=0-2%1", str(SCRIPTS / "array.sbatch"), *(str(t.job) for t in jobs), cwd=tmp_path
    )
    for task, tiny in enumerate(jobs):
        log = tmp_path / f"enclaveml-{job}_{task}.log"
        ended = cluster.finish(f"{job}_{task}", JOB_S, log)
        assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
        check_complete(tiny, ranks=2)
    ended = cluster.finish(f"{job}_2", 60)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    assert (tmp_path / f"enclaveml-{job}_2.log").read_text() == (
        "task 2 has no job: there are 2, so submit with --array=0-1\n"
    )


def test_checkpoint_is_signalled_requeued_and_finished(cluster: Cluster, tmp_path: Path) -> None:
    tiny = Tiny.write(tmp_path / "job", rows=160)
    job = cluster.submit(str(SCRIPTS / "checkpoint.sbatch"), str(tiny.job), cwd=tmp_path)
    log = tmp_path / f"enclaveml-{job}.log"
    cluster.wait(lambda: verified_bundles(tiny) >= 2, JOB_S, lambda: f"bundles\n{log.read_text()}")
    # What Slurm does before the limit; that it does so is the next test.
    cluster.command("scancel", "--batch", "--signal=USR1", job)
    cluster.wait(lambda: cluster.job(job)["Restarts"] == "1", JOB_S, lambda: f"a requeue\n{log.read_text()}")
    with read_results(tiny.results) as results:
        assert results.status is FileStatus.RESUMABLE
        assert results.attribute("exit_code") == 75
        before = (results.row("status") == RowStatus.VERIFIED).copy()
        bundles = results.row("bundle")[before].copy()
    assert 0 < before.sum() < tiny.rows
    ended = cluster.finish(job, JOB_S, log)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1"), (
        log.read_text()
    )
    check_complete(tiny, ranks=4, sessions=2)
    with read_results(tiny.results) as results:
        # What the first part verified still counts, under the same proofs.
        assert (results.row("bundle")[before] == bundles).all()
        assert (results.row("session")[before] == 0).all()
        assert (results.row("session")[~before] == 1).all()
    said = re.findall(r"enclaveml: exit status .*|requeue .*", log.read_text())
    assert said == [
        "enclaveml: exit status 75: results.h5 is resumable",
        "requeue 0 + 1 of at most 100",
        "enclaveml: exit status 0: results.h5 is complete",
    ]


def stand_in(folder: Path, *lines: str) -> Path:
    """A folder for PATH with these lines of bash as ``mpirun``."""
    folder.mkdir()
    (folder / "mpirun").write_text("\n".join(["#!/bin/bash", *lines, ""]))
    (folder / "mpirun").chmod(0o755)
    return folder


def test_checkpoint_before_the_time_limit(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    """Slurm's own signal, with a stand-in for mpirun: part 1 stops when it is told, part 2 is refused."""
    path = stand_in(
        tmp_path / "bin",
        '[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 2',
        "trap 'echo told; exit 75' USR1",
        "while :; do sleep 0.2; done",
    )
    job = cluster.submit(
        "--time=2",
        str(SCRIPTS / "checkpoint.sbatch"),
        str(tiny.job),
        cwd=tmp_path,
        env={"PATH": f"{path}:{cluster.environment['PATH']}"},
    )
    log = tmp_path / f"enclaveml-{job}.log"
    ended = cluster.finish(job, 240, log)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "1")
    lines = [line for line in log.read_text().splitlines() if not line.startswith("slurmstepd")]
    assert lines == [
        "told",
        "enclaveml: exit status 75: mpirun ended with 75 and nothing was written",
        "requeue 0 + 1 of at most 100",
        "enclaveml: exit status 2: mpirun ended with 2: the run was refused",
    ]


def test_requeues_are_bounded(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    path = f"{stand_in(tmp_path / 'bin', 'exit 75')}:{cluster.environment['PATH']}"
    job = cluster.submit(
        str(SCRIPTS / "checkpoint.sbatch"),
        str(tiny.job),
        cwd=tmp_path,
        env={"PATH": path, "MAX_REQUEUES": "0"},
    )
    ended = cluster.finish(job, 60)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "75:0", "0")


@pytest.mark.parametrize("plugin", ["none", "pmi2"])
def test_separate_programs_are_refused(cluster: Cluster, tiny: Tiny, tmp_path: Path, plugin: str) -> None:
    log = tmp_path / "log"
    job = cluster.submit(
        "--ntasks=2",
        f"--output={log}",
        "--wrap",
        f"srun --mpi={plugin} enclaveml-run {tiny.job}; exit $?",
        cwd=tmp_path,
    )
    ended = cluster.finish(job, 120, log)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "4:0"), log.read_text()
    assert (
        "enclaveml: srun started 2 tasks, but each is an MPI world of one rank: they would run the "
        "same job 2 times. "
        "Use `srun --mpi=pmix` (see `srun --mpi=list`), or inside the batch script "
        "`mpirun --bind-to none -np 2 enclaveml-run JOB`\n"
    ) in log.read_text()
    assert not tiny.results.exists() and not tiny.journal.exists()


def test_ranks_that_srun_starts_with_pmix_are_one_world(cluster: Cluster, tiny: Tiny, tmp_path: Path) -> None:
    """On one node: of several on one host, Slurm's PMIx plugin starts only the first."""
    tried = cluster.command("srun", "--mpi=pmix", "true", check=False)
    if tried.returncode:
        pytest.skip("NO PMIX, ranks that srun starts are not tested: Debian's Slurm opens pmix2/lib/libpmix.so, which "
                    f"is in the package libpmix-dev: {tried.stderr.strip().splitlines()[0]}")
    with tiny.job.open("a") as text:
        text.write("split: {strategy: equal}\n")
    log = tmp_path / "log"
    job = cluster.submit("--nodes=1", "--ntasks=3", f"--output={log}", "--wrap",
                         f"srun --mpi=pmix enclaveml-run {tiny.job}; exit $?", cwd=tmp_path)
    ended = cluster.finish(job, 120, log)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    found = check_complete(tiny, ranks=3)
    verified = [rank["rows_verified"] for rank in found]  # 12 each, where neither was idle and took a bundle over
    assert verified[0] == 0 and min(verified[1:]) > 0 and sum(verified) == 24


@pytest.mark.parametrize("name", sorted(p.name for p in SCRIPTS.glob("*.sbatch")))
def test_slurm_would_accept(cluster: Cluster, name: str) -> None:
    said = cluster.command("sbatch", "--test-only", str(SCRIPTS / name), cwd=SCRIPTS)
    assert "to start at" in said.stderr


RANKS = "cluster: {ranks: [%s]}\n"
GPU = "{node_id: g%d, device: cuda, memory_gb: 80}"
CLUSTERS = {
    "undescribed": ("", ["--ranks", "4"]),
    "two nodes": ("", ["--ranks", "4", "--nodes", "2", "--time", "1-0"]),
    "a GPU each": (RANKS % ", ".join(GPU % i for i in range(4)), []),
    "hosts of different kind": (
        RANKS % "{node_id: a, host: plain, memory_gb: 4}, "
        "{node_id: b, host: small, device: cuda, memory_gb: 12}, "
        "{node_id: c, host: mid, device: cuda, memory_gb: 12}",
        ["--cpus-per-task", "2"],
    ),
}


@pytest.mark.parametrize("case", CLUSTERS)
def test_slurm_would_accept_a_printed_script(cluster: Cluster, tiny: Tiny, tmp_path: Path, case: str) -> None:
    section, options = CLUSTERS[case]
    tiny.job.write_text(tiny.job.read_text() + section)
    printed = subprocess.run(
        [sys.executable, "-m", "enclaveml", "slurm", str(tiny.job), *options],
        env=cluster.environment,
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    script = tmp_path / "job.sbatch"
    script.write_text(printed.stdout)
    assert "to start at" in cluster.command("sbatch", "--test-only", str(script), cwd=tmp_path).stderr


def run_printed(cluster: Cluster, folder: Path, *options: str) -> tuple[str, Path]:
    """Print the script of the folder's ``job/job.yaml``, submit it as it is, wait for its success: the job and its log."""
    if not cluster.named:
        pytest.skip(
            "HETEROGENEOUS JOB NOT TESTED: unshare --uts is not allowed here, so nodes share a host name"
        )
    printed = subprocess.run(
        [sys.executable, "-m", "enclaveml", "slurm", "job/job.yaml", *options],
        env=cluster.environment,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    script = folder / "job.sbatch"
    script.write_text(printed.stdout)
    job = cluster.submit(str(script), cwd=folder)
    log = folder / f"job-{job}.log"
    ended = cluster.finish(job, JOB_S, log)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    return job, log


def test_a_printed_script_runs_on_hosts_of_different_kind(cluster: Cluster, tmp_path: Path) -> None:
    tiny = Tiny.write(tmp_path / "job", rows=24)
    tiny.job.write_text(
        tiny.job.read_text() + "cluster: {ranks: [{node_id: boss, host: plain, memory_gb: 4}, "
        "{node_id: hand, host: small, memory_gb: 12}]}\n"
    )
    run_printed(cluster, tmp_path)
    assert [(line["node_id"], line["host"]) for line in check_complete(tiny, ranks=2)] == [
        ("boss", "plain"),
        ("hand", "small"),
    ]


def test_rank_0_gets_a_node_to_itself(cluster: Cluster, tmp_path: Path) -> None:
    """``--root-cores``: more cores than the smaller nodes have; the others' part fits one of those."""
    tiny = Tiny.write(tmp_path / "job", rows=24)
    tiny.job.write_text(tiny.job.read_text() + "split: {strategy: equal}\n")
    job, log = run_printed(cluster, tmp_path, "--ranks", "3", "--root-cores", "24")
    table = check_complete(tiny, ranks=3)
    assert [line["host"] for line in table] == ["mid", "plain", "plain"]
    assert [nodes_of(cluster, cluster.job(f"{job}+{part}")["NodeList"]) for part in (0, 1)] == [["mid"], ["plain"]]
    assert [cluster.job(f"{job}+{part}")["NumCPUs"] for part in (0, 1)] == ["24", "8"]
    verified = [line["rows_verified"] for line in table]
    assert verified[0] == 0 and min(verified[1:]) > 0 and sum(verified) == 24
    assert "enclaveml: exit status 0: results.h5 is complete" in log.read_text()
