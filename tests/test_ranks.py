"""The same job on any number of ranks: the same outputs to the last bit, the same rows verified."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from launch import launcher, run
from small_job import SmallJob, floats, write_small_job
from small_runs import LIMIT_S, enclaveml, log_of, read

from enclaveml.results import read_results

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"ENCLAVEML_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture()
def job(tmp_path: Path) -> SmallJob:
    return write_small_job(tmp_path / "job", n_rows=22)  # not a multiple of the bundle


def test_one_two_and_four_ranks_and_no_mpirun_agree_to_the_last_bit(job: SmallJob, cache: dict[str, str]) -> None:
    seen = []
    for ranks in (None, 1, 2, 4):
        done = enclaveml(job, "--force", ranks=ranks, env=cache)
        assert done.returncode == 0, log_of(done)
        assert "complete (exit status 0): 22 of 22 rows verified" in done.stderr
        seen.append(read(job.results))
        assert not job.journal.exists()
    for other in seen[1:]:
        assert (other.outputs.tobytes(), other.proved.tobytes()) == (seen[0].outputs.tobytes(), seen[0].proved.tobytes())
        assert (other.rows == seen[0].rows).all() and other.status == "complete"
    assert np.abs(seen[0].outputs - floats(job.rows)).max() < 1e-5
    assert 0 < np.abs(seen[0].proved - floats(job.rows)).max() < 0.05


def test_another_input_and_the_short_answer(job: SmallJob, cache: dict[str, str], tmp_path: Path) -> None:
    rows = job.rows[:5] / 2
    (tmp_path / "sample.json").write_text(json.dumps({"data": rows.reshape(-1).tolist(), "sample_size": 6}))
    done = enclaveml(job, "--input", str(tmp_path / "sample.json"), "--json", str(tmp_path / "out.json"), env=cache)
    assert done.returncode == 0, log_of(done)
    answer = json.loads((tmp_path / "out.json").read_text())
    assert set(answer) == {"result", "proofs_verified", "total_nodes", "inference_time_ms", "verified"}
    assert answer["verified"] is True and answer["total_nodes"] == 1 and answer["proofs_verified"] == 2
    assert answer["inference_time_ms"] > 0
    assert np.abs(np.array(answer["result"]) - floats(rows).mean(axis=0)).max() < 0.05
    assert np.abs(read(job.results).outputs - floats(rows)).max() < 1e-5


def test_nodes_that_share_nothing_get_the_keys_by_bcast(job: SmallJob, cache: dict[str, str], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    hidden = tmp_path / "rank0-cache"
    shutil.copytree(cache["ENCLAVEML_CACHE"], hidden) if Path(cache["ENCLAVEML_CACHE"]).exists() else hidden.mkdir()
    # The other node cannot read rank 0's cache: a program that hides it from itself.
    blind = tmp_path / "blind.py"
    blind.write_text(
        "import sys\nfrom enclaveml import distribute\n"
        "distribute._digests_hold = lambda circuit: False\n"
        "close = distribute.LocalCircuit.close\n"
        "def told(self):\n"
        "    if self._copied:\n"
        "        print('copied with', {oct(file.stat().st_mode & 0o777) for file in self._copied.iterdir()}, file=sys.stderr, flush=True)\n"
        "    close(self)\n"
        "distribute.LocalCircuit.close = told\n"
        "from enclaveml.cli import run_main\nsys.exit(run_main(sys.argv[1:]))\n"
    )
    own = ["-np", "1", "-x", "SLURMD_NODENAME=n0", sys.executable, "-m", "enclaveml", "run", str(job.path)]
    far = ["-np", "2", "-x", "SLURMD_NODENAME=n1", "-x", f"ENCLAVEML_SCRATCH={scratch}", sys.executable, str(blind), str(job.path)]
    done = run([*launcher(), *own, ":", *far], LIMIT_S, {"ENCLAVEML_CACHE": str(hidden)})
    assert done.returncode == 0, log_of(done)
    outcome = read(job.results)
    assert outcome.status == "complete" and [r["host"] for r in outcome.ranks] == ["n0", "n1", "n1"]
    assert "copied with {'0o600'}" in done.stderr  # what hides weights may be among them
    assert list(scratch.iterdir()) == []  # the copy is gone with the job


def test_a_worker_without_room_for_the_keys_ends_the_job_with_its_name(job: SmallJob, cache: dict[str, str],
                                                                       tmp_path: Path) -> None:
    blind = tmp_path / "blind.py"
    blind.write_text(
        "import sys\nfrom enclaveml import distribute\n"
        "distribute._digests_hold = lambda circuit: False\n"
        "from enclaveml.cli import run_main\nsys.exit(run_main(sys.argv[1:]))\n"
    )
    (tmp_path / "file").write_text("")
    own = ["-np", "1", "-x", "SLURMD_NODENAME=n0", sys.executable, "-m", "enclaveml", "run", str(job.path)]
    far = ["-np", "1", "-x", "SLURMD_NODENAME=n1", "-x", f"ENCLAVEML_SCRATCH={tmp_path / 'file'}", sys.executable,
           str(blind), str(job.path)]
    done = run([*launcher(), *own, ":", *far], LIMIT_S, cache)
    assert done.returncode != 0
    assert "rank 1 (n1) failed in making node-local scratch" in done.stderr, log_of(done)


@pytest.mark.parametrize("config", ["laptop", "four-gpu-node", "four-machines"])
def test_every_described_machine_runs_a_job_on_cpu_ranks(job: SmallJob, cache: dict[str, str], config: str) -> None:
    import yaml

    path = Path(__file__).resolve().parents[1] / "configs" / f"{config}.yaml"
    described = yaml.safe_load(path.read_text())["ranks"]
    done = enclaveml(job, "--set", f"cluster={path}", "--set", "cluster.ranks.*.device=cpu",
                     "--set", "split.strategy=by_capacity", "--set", "split.reassign=false", ranks=len(described), env=cache)
    assert done.returncode == 0, log_of(done)
    outcome = read(job.results)
    assert outcome.status == "complete"
    assert [r["node_id"] for r in outcome.ranks] == [r["node_id"] for r in described]
    rows = np.array([r["rows"] for r in outcome.ranks])
    memory = np.array([float(r["memory_gb"]) for r in described]) * (rows > 0)
    assert rows.sum() == 22 and np.abs(rows - 22 * memory / memory.sum()).max() < 1
    assert (rows > 0)[1:].all()


def test_coverage_0_infers_without_a_proof_and_says_so(job: SmallJob, cache: dict[str, str]) -> None:
    done = enclaveml(job, "--set", "proof.coverage=0", ranks=2, env=cache)
    assert done.returncode == 0, log_of(done)
    assert "complete (exit status 0): 0 of 22 rows verified, 22 not drawn" in done.stderr
    outcome = read(job.results)
    assert (outcome.rows == 4).all() and np.isnan(outcome.proved).all()
    assert np.abs(outcome.outputs - floats(job.rows)).max() < 1e-5


def test_another_models_hash_is_refused(job: SmallJob, cache: dict[str, str]) -> None:
    for coverage in ("0", "1"):
        done = enclaveml(job, "--set", f"model.hash={'ab' * 32}", "--set", f"proof.coverage={coverage}", env=cache)
        assert done.returncode == 2, log_of(done)
        assert "model.hash: the model's hash is " in done.stderr and "the job says " + "ab" * 32 in done.stderr
    assert not job.results.exists()


def test_a_rank_that_is_three_times_slower_gets_a_third(job: SmallJob, cache: dict[str, str]) -> None:
    """Each round is twice the one before; the first has 256 rows a rank, by which they are measured."""
    rows = np.concatenate([job.rows] * 163)[:512 + 1024 + 2048]
    np.save(job.folder / "rows.npy", rows)
    settings = ["--set", "split.strategy=by_capacity", "--set", "split.capacity=throughput", "--set", "split.reassign=false",
                "--set", "proof={coverage: 0}"]
    slow = str(Path(__file__).with_name("slow_rank.py"))
    parts = [["-np", "1", sys.executable, slow, milliseconds, "run", str(job.path), *settings] for milliseconds in ("0", "0.9", "0.3")]
    done = run([*launcher(), *parts[0], ":", *parts[1], ":", *parts[2]], LIMIT_S, cache)
    assert done.returncode == 0, log_of(done)
    assert np.abs(read(job.results).outputs - floats(rows)).max() < 1e-5
    with read_results(job.results) as results:
        rank = np.asarray(results.row("rank"))
    first, *later = (np.bincount(part, minlength=3).tolist() for part in np.split(rank, [512, 1536]))
    assert first == [0, 256, 256]
    for _, slower, faster in later:  # 3 times, but for what the machine does besides
        assert 2 * slower < faster < 4 * slower
