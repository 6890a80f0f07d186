"""The dry run's text, and the faults that it finds beyond the job file's own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from enclaveml.dryrun import dry_run
from enclaveml.errors import JobError
from enclaveml.job import load_job

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("class Net: ...\n")
    np.savez(tmp_path / "data.npz", x=np.zeros((82, 4, 2), np.float32), y=np.zeros(82, np.int64))
    (tmp_path / "job.yaml").write_text(
        "job: {name: eighty}\nmodel: {flax: net.py:Net}\ninput: {path: data.npz, key: x, labels: y}\n"
    )
    return tmp_path


def test_alone(folder: Path) -> None:
    assert dry_run(load_job("job.yaml")) == (
        "job      eighty\n"
        "model    net.py:Net\n"
        "input    data.npz, x: 82 rows of 4x2 float32, labels y\n"
        "split    by_capacity: 1 of 1 ranks compute\n"
        "proof    coverage 1, inputs public, tolerance chosen when the circuit is made\n"
        "combine  average of logits\n"
        "output   results.h5\n"
        "\n"
        "rank  node_id  device  memory GB  share %  rows  replicas\n"
        "   0  -        -               -    100.0    82         1\n"
    )


def test_four_machines_share_in_proportion(folder: Path) -> None:
    (folder / "results.h5").write_bytes(b"")
    job = load_job(
        "job.yaml",
        [f"cluster={CONFIGS / 'four-machines.yaml'}", "cluster.ranks.0.device=cpu", "proof.tolerance=0.02"],
    )
    text = dry_run(job)
    assert "proof    coverage 1, inputs public, tolerance 0.02\n" in text
    assert "output   results.h5 (exists: run with --resume or --force)\n" in text
    assert text.split("\n\n")[1] == (
        "rank  node_id    device  memory GB  share %  rows  replicas\n"
        "   0  mac-16gb   cpu            16     19.5    16         1\n"
        "   1  cuda-48gb  cuda           48     58.5    48         1\n"
        "   2  cuda-12gb  cuda           12     14.6    12         1\n"
        "   3  cuda-6gb   cuda            6      7.3     6         1\n"
    )


def test_ranks_without_description_are_equal_and_the_aggregator_idle(folder: Path) -> None:
    text = dry_run(load_job("job.yaml", ["split={strategy: redundant, replicas: 2}"]), ranks=3)
    assert "split    redundant, 2 replicas: 2 of 3 ranks compute\n" in text
    assert text.split("\n\n")[1] == (
        "rank  node_id  device  memory GB  share %  rows  replicas\n"
        "   0  -        -               -      0.0     0         2\n"
        "   1  -        -               -     50.0    82         2\n"
        "   2  -        -               -     50.0    82         2\n"
    )


def test_by_throughput_the_plan_is_that_of_equal_ranks(folder: Path) -> None:
    text = dry_run(load_job("job.yaml", [f"cluster={CONFIGS / 'laptop.yaml'}", "split.capacity=throughput"]))
    assert "split    by_capacity by measured throughput (below as if all ranks were equally fast): " in text
    rows = [int(line.split()[-2]) for line in text.split("\n\n")[1].splitlines()[1:]]
    assert max(rows) - min(row for row in rows if row) <= 1


def test_the_first_ranks_of_a_cluster(folder: Path) -> None:
    text = dry_run(load_job("job.yaml", [f"cluster={CONFIGS / 'laptop.yaml'}"]), ranks=2)
    assert text.endswith(
        "   0  laptop-0  cpu             4      0.0     0         1\n"
        "   1  laptop-1  cpu             4    100.0    82         1\n"
    )


def test_sample_input(folder: Path) -> None:
    (folder / "sample.json").write_text('{"data": [' + ",".join(["0.5"] * 24) + '], "sample_size": 8}')
    text = dry_run(load_job("job.yaml", input=Path("sample.json")))
    assert "input    sample.json, for data.npz, x: 3 rows of 4x2 float32\n" in text
    assert text.endswith("   0  -        -               -    100.0     3         1\n")


@pytest.mark.parametrize(
    "overrides, ranks, fault",
    [
        (
            ["cluster.ranks=[{node_id: a, memory_gb: 1}]"],
            2,
            "--set cluster.ranks=[{node_id: a, memory_gb: 1}]: cluster.ranks: describes 1 ranks; --ranks "
            "asks for 2",
        ),
        (
            ["split.strategy=redundant", "split.replicas=3"],
            3,
            "--set split.replicas=3: split.replicas: found 3, and 2 of 3 ranks compute; allowed: 1 to 2",
        ),
        (
            ["cluster.aggregator_computes=false"],
            None,
            "--set cluster.aggregator_computes=false: cluster.aggregator_computes: "
            "found false with one rank, so no rank computes; allowed: true",
        ),
    ],
)
def test_faults(folder: Path, overrides: list[str], ranks: int | None, fault: str) -> None:
    with pytest.raises(JobError) as caught:
        dry_run(load_job("job.yaml", overrides), ranks)
    assert str(caught.value) == fault


def test_metal_is_refused_before_the_data_are_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "enclaveml.datasets", None)  # importing it now raises ImportError
    monkeypatch.setattr("enclaveml.cluster._versions", lambda *names: {"jax": "0.10.2"})
    with pytest.raises(JobError) as caught:
        dry_run(load_job("job.yaml", [f"cluster={CONFIGS / 'four-machines.yaml'}"]))
    assert [f.key for f in caught.value.faults] == ["cluster.ranks.0.device"]
