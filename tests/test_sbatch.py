"""The batch script that is printed for a job. That Slurm takes it, and runs it, is in tests/slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from enclaveml import sbatch_text
from enclaveml.errors import JobError
from enclaveml.job import JobSpec, load_job
from enclaveml.sbatch import script, time_seconds
from enclaveml.sbatch_nodes import Part, plan_parts

SCRIPTS = Path(__file__).resolve().parents[1] / "slurm"
JOB = "job: {name: a job}\nmodel: {flax: net.py:Net}\ninput: {path: x.npy}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text("class Net: ...\n")
    (tmp_path / "x.npy").write_bytes(b"")
    return tmp_path


def job(folder: Path, *ranks: str) -> JobSpec:
    """A job whose cluster is these ranks, each as ``name device memory [host]``."""
    lines = []
    for rank in ranks:
        name, device, memory, *host = rank.split()
        lines.append(
            f"  - {{node_id: {name}, device: {device}, memory_gb: {memory}"
            + (f", host: {host[0]}}}" if host else "}")
        )
    path = folder / "job.yaml"
    path.write_text(JOB + ("cluster:\n  ranks:\n" + "\n".join(lines) + "\n" if lines else ""))
    return load_job(path)


def directives(text: str) -> list[str]:
    """Options of all parts in order, with ``hetjob`` between the parts."""
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_an_undescribed_job_gets_four_ranks_on_a_node(folder: Path) -> None:
    text = script(job(folder), "job.yaml")
    assert directives(text) == [
        "--job-name=a-job",
        "--output=%x-%j.log",
        "--open-mode=append",
        "--signal=B:USR1@90",
        "--requeue",
        "--nodes=1",
        "--ntasks-per-node=4",
        "--cpus-per-task=4",
        "--mem=32G",
        "--time=01:00:00",
    ]
    assert text.startswith("#!/bin/bash\n# a job: 4 ranks on 1 node. Made by `enclaveml slurm`.\n")
    assert (
        "# A guess, since no circuit of this model is in this machine's cache (`enclaveml prepare` makes one): each part "
        "of the job ends at this limit and goes on in the next.\n#SBATCH --time" in text
    )


def test_what_is_asked_for_is_filled_in(folder: Path) -> None:
    text = script(
        job(folder),
        "a b/job.yaml",
        overrides=["split.replicas=3", "job.name=it's"],
        folder="/a b",
        ranks=6,
        nodes=3,
        cores=16,
        time="2-0",
        venv="/opt/my ve",
    )
    assert directives(text) == [
        "--job-name=a-job",
        "--output=%x-%j.log",
        "--open-mode=append",
        '--chdir="/a b"',
        "--signal=B:USR1@90",
        "--requeue",
        "--nodes=3",
        "--ntasks-per-node=2",
        "--cpus-per-task=16",
        "--mem=16G",
        "--time=2-0",
    ]
    assert "\nsource '/opt/my ve/bin/activate'\n" in text
    assert (
        "\nset -- --resume 'a b/job.yaml' --set split.replicas=3 --set 'job.name=it'\"'\"'s' \"$@\"\n"
    ) in text
    assert "A guess" not in text


def test_the_shell_sees_the_job_as_one_word(folder: Path) -> None:
    text = script(job(folder), "a b/$HOME/job.yaml")
    line = next(line for line in text.splitlines() if line.startswith("set -- "))
    said = subprocess.run(
        ["bash", "-c", f'set -- --force\n{line}\nprintf "<%s>" "$@"'],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert said.stdout == "<--resume><a b/$HOME/job.yaml><--force>"


@pytest.mark.parametrize("ranks", [(), ("a cpu 4 n1", "b cpu 9 n2")])
def test_it_is_bash(folder: Path, ranks: tuple[str, ...]) -> None:
    text = script(job(folder, *ranks), "job.yaml")
    assert subprocess.run(["bash", "-n"], input=text, text=True, timeout=10, capture_output=True).stderr == ""


def test_described_ranks_without_hosts_share_equal_nodes(folder: Path) -> None:
    spec = job(folder, "a cpu 4", "b cuda 80", "c cuda 80", "d cpu 6.5")
    # Host memory of a rank with a GPU is not described: 8 GB.
    assert plan_parts(spec) == (Part(nodes=1, tasks=4, gpus=2, memory_gb=27),)
    # The nodes are of one kind, big enough for the largest share.
    assert plan_parts(spec, nodes=2) == (Part(nodes=2, tasks=2, gpus=1, memory_gb=15),)
    assert plan_parts(spec, ranks=1) == (Part(nodes=1, tasks=1, gpus=0, memory_gb=4),)


def test_named_hosts_of_one_kind_are_one_part(folder: Path) -> None:
    spec = job(folder, "a cpu 4 n1", "b cpu 4 n2", "c cpu 4 n2", "d cpu 4 n1")
    assert plan_parts(spec) == (Part(2, 2, 0, 8, ("n1", "n2")),)
    assert "--nodelist=n1,n2" in directives(script(spec, "job.yaml"))


def test_rank_0_with_a_node_to_itself(folder: Path) -> None:
    """Part 0 is rank 0's, with its cores; the others are as they were without it."""
    parts = plan_parts(job(folder), 9, 2, 24)
    assert parts == (Part(1, 1, 0, 8, cores=24), Part(2, 4, 0, 32))
    spec = job(folder, "a cpu 6", "b cuda 40", "c cuda 40")
    assert plan_parts(spec, root_cores=24) == (Part(1, 1, 0, 6, cores=24), Part(1, 2, 2, 16))
    named = job(folder, "a cpu 4 n1", "b cpu 4 n2", "c cpu 4 n2")
    assert plan_parts(named, root_cores=24) == (Part(1, 1, 0, 4, ("n1",), 24), Part(1, 2, 0, 8, ("n2",)))
    text = script(job(folder), "job.yaml", ranks=9, nodes=2, root_cores=24, time="04:00:00")
    assert directives(text)[5:] == [
        "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=24", "--mem=8G", "--time=04:00:00", "hetjob",
        "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=4", "--mem=32G", "--time=04:00:00"]
    assert "# Rank 0 verifies every proof, and proves nothing.\n#SBATCH --cpus-per-task=24\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("ranks, count, words", [
    ((), 1, "--root-cores: rank 0 is the job's only rank; allowed: where others prove"),
    (("a cpu 4 n1", "b cpu 4 n1", "c cpu 4 n2"), None, "gives rank 0's host n1 to 2 of 3 ranks; with --root-cores it must be "
     "rank 0's alone, and others prove"),
])
def test_rank_0_that_cannot_have_a_node_to_itself(folder: Path, ranks: tuple[str, ...], count: int | None, words: str) -> None:
    with pytest.raises(JobError) as caught:
        plan_parts(job(folder, *ranks), count, None, 24)
    assert str(caught.value).endswith(words)


def test_named_hosts_of_different_kind_are_a_heterogeneous_job(folder: Path) -> None:
    spec = job(folder, "a cpu 4 boss", "b cuda 80 g1", "c cuda 80 g1", "d cuda 80 g2", "e cuda 40 g2")
    text = script(spec, "job.yaml", time="30")
    assert directives(text)[5:] == [
        "--nodes=1",
        "--ntasks-per-node=1",
        "--nodelist=boss",
        "--cpus-per-task=4",
        "--mem=4G",
        "--time=30",
        "hetjob",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--nodelist=g1,g2",
        "--cpus-per-task=4",
        "--mem=16G",
        "--gres=gpu:2",
        "--time=30",
    ]
    assert '--hostfile "$place/nodes"' in text
    assert text.endswith(sbatch_text.LAUNCH)


@pytest.mark.parametrize(
    ("ranks", "options", "fault"),
    [
        (
            ("a metal 16",),
            {},
            "job.yaml:6: cluster.ranks: a: device metal: Slurm nodes run Linux, which has no Metal; "
            "allowed: cpu, cuda",
        ),
        (
            ("a cpu 4", "b cpu 4"),
            {"ranks": 3},
            "job.yaml:6: cluster.ranks: describes 2 ranks; found --ranks 3: describe them, or ask for fewer",
        ),
        (
            ("a cpu 4 n1", "b cpu 4"),
            {},
            "job.yaml:6: cluster.ranks: names a host for some ranks and none for others; Slurm "
            "needs all hosts, or none",
        ),
        (
            ("a cpu 4 n1", "b cpu 4 n2"),
            {"nodes": 2},
            "--nodes is for a job that names no hosts; cluster.ranks names 2: n1, n2",
        ),
        (
            (),
            {"ranks": 6, "nodes": 4},
            "6 ranks do not share 4 nodes evenly; allowed for --nodes: 1, 2, 3, 6",
        ),
    ],
)
def test_ranks_that_cannot_be_placed(
    folder: Path, ranks: tuple[str, ...], options: dict[str, int], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    job(folder, *ranks)
    with pytest.raises(JobError) as raised:
        script(load_job(Path("job.yaml")), "job.yaml", **options)
    assert str(raised.value) == fault


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("5:30", 330),
        ("01:00:00", 3600),
        ("1-0", 86400),
        ("1-2:30", 95400),
        ("1-2:30:15", 95415),
        ("", None),
        ("1h", None),
        ("1:2:3:4", None),
        ("1-", None),
        ("-5", None),
        ("5 ", None),
        ("\u0665", None),
    ],
)
def test_times_as_slurm_reads_them(text: str, seconds: int | None) -> None:
    assert time_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "soon",
            "--time: found 'soon'; allowed: minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes, days-hours:minutes:seconds",
        ),
        (
            "5",
            "--time: found '5', 300 s; the job is signalled up to 150 s before the limit, "
            "so allow more than 300 s",
        ),
    ],
)
def test_times_that_are_refused(folder: Path, text: str, fault: str) -> None:
    with pytest.raises(JobError) as raised:
        script(job(folder), "job.yaml", time=text)
    assert str(raised.value) == fault


def test_the_scripts_to_read_have_the_same_text() -> None:
    checkpoint = (SCRIPTS / "checkpoint.sbatch").read_text()
    assert checkpoint.endswith(sbatch_text.TRAP + sbatch_text.RUN + sbatch_text.LAUNCH)
    assert sbatch_text.ENVIRONMENT in checkpoint
    heterogeneous = (SCRIPTS / "heterogeneous.sbatch").read_text()
    assert (sbatch_text.NODES_FILE + sbatch_text.AGENT) in heterogeneous
    assert sbatch_text.HETEROGENEOUS_RUN.removesuffix(" &\n") in heterogeneous
