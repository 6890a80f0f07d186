"""Each file of configs/ is a valid cluster, and says what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enclaveml.cluster import computing, match_ranks
from enclaveml.job import ClusterSpec, load_job
from enclaveml.shards import split

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def cluster(file: Path, folder: Path) -> ClusterSpec:
    (folder / "net.py").write_text("class Net: ...\n")
    (folder / "x.npy").write_bytes(b"")
    job = folder / "job.yaml"
    job.write_text(f"model: {{flax: net.py:Net}}\ninput: {{path: x.npy}}\ncluster: {file}\n")
    return load_job(job).cluster


def test_the_files_are_there() -> None:
    assert [f.name for f in FILES] == ["four-gpu-node.yaml", "four-machines.yaml", "laptop.yaml"]


@pytest.mark.parametrize(
    "name, computes, devices, memory",
    [
        ("laptop", None, ["cpu"] * 4, [4, 4, 4, 4]),
        ("four-gpu-node", True, ["cuda"] * 4, [80, 80, 80, 80]),
        ("four-machines", True, ["metal", "cuda", "cuda", "cuda"], [16, 48, 12, 6]),
    ],
)
def test_what_they_describe(
    tmp_path: Path, name: str, computes: bool | None, devices: list[str], memory: list
) -> None:
    found = cluster(CONFIGS / f"{name}.yaml", tmp_path)
    assert found.aggregator_computes is computes
    assert [r.device for r in found.ranks] == devices
    assert [r.memory_gb for r in found.ranks] == memory


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["equal", "by_capacity", "redundant"])
def test_every_split_gives_every_row(tmp_path: Path, file: Path, ranks: int, strategy: str) -> None:
    found = cluster(file, tmp_path)
    matched = match_ranks(found.ranks, [("here", local) for local in range(ranks)])
    eligible = np.array(computing(found.aggregator_computes, ranks))
    copies = min(2, int(eligible.sum())) if strategy == "redundant" else 1
    shards = split(strategy, np.arange(101), np.array([r.memory_gb for r in matched if r]), eligible, copies)
    assert np.bincount(shards.rows, minlength=101).tolist() == [copies] * 101
    assert not shards.counts[~eligible].any()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_they_are_commented(file: Path) -> None:
    assert sum(line.lstrip().startswith("#") for line in file.read_text().splitlines()) >= 3
