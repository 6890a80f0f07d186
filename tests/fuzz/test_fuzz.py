"""Every reader of bytes that others may have made raises its own error classes only, within bounded memory.

Each target runs a few seconds in a process of its own (``driver.py``), from valid files made here. Run one for
longer by hand: ``python tests/fuzz/driver.py atheris results 1000000 600 SEEDS WORK``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batch_reference import case
from launch import environment
from results_case import Case
from small_job import write_small_job

sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import TARGETS, framed, unframed

from enclaveml.envelope import Consistency, Envelope, encode
from enclaveml.results import RowStatus, build_results

DRIVER = Path(__file__).with_name("driver.py")
#: Inputs by target: from coverage, and by edits. What takes longer than SECONDS ends there.
RUNS = {"envelope": (4000, 200), "job": (120, 60), "journal": (300, 80), "journal_bytes": (300, 80), "results": (40, 20),
        "results_edits": (20, 15), "batch_key": (3000, 200), "batch_edits": (150, 40)}
SECONDS = 8
TIMEOUT_S = 240

no_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="NOT FUZZED BY COVERAGE: atheris is not installed (it has wheels for Linux x86_64, CPython 3.11 to 3.13 only; "
           "pip install -e '.[test]' brings it there)")


def an_envelope(rows: int, commitment: bytes) -> bytes:
    outputs = np.linspace(-1, 1, rows * 3, dtype=np.float32).reshape(rows, 3)
    return encode(Envelope(
        model_hash=b"m" * 32, input_hash=b"i" * 32, output_hash=b"o" * 32, node_id="node-1", job_id="small-1",
        circuit_id=b"c" * 32, round=0, bundle=3, attempt=1, rows=np.arange(rows), outputs=outputs,
        computation=b"P" * 200, commitment=commitment,
        consistency=Consistency(np.round(outputs * 1024).astype(np.int64), 10, 0.05, 0.001)))


def journals(folder: Path) -> list[Path]:
    """A plain journal, a redundant one, and one of a job that was killed and goes on."""
    made = []
    for name, strategy in (("plain", "by_capacity"), ("redundant", "redundant"), ("killed", "equal")):
        case = Case(folder / name, 6, 3, strategy)
        case.outputs(1, [0, 1, 2])
        case.bundle(1, [0, 1, 2], envelope=an_envelope(3, b""))
        case.journal.append("draw", {"rank": 1, "round": 0, "seed": "0" * 64, "of": 3, "drawn": 2, "confidence": 0.95,
                                     "start": 0, "stop": 6}, rows=np.array([0, 2]))
        if name == "killed":
            case.journal.append("resume", {"started": "now", "versions": {}, "ranks": []})
        else:
            case.outputs(2, [3, 4, 5])
            case.bundle(2, [3, 4, 5], [RowStatus.VERIFIED, RowStatus.REJECTED, RowStatus.VERIFIED])
            case.rows([4], RowStatus.LOST)
            case.end("complete")
        case.journal.close()
        made.append(folder / name)
    return made


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of valid files for each target."""
    root = tmp_path_factory.mktemp("seeds")
    for target in TARGETS:
        (root / target).mkdir()
    for i, data in enumerate((an_envelope(4, b""), an_envelope(1, b"C" * 64))):
        (root / "envelope" / str(i)).write_bytes(data)
    text = write_small_job(tmp_path_factory.mktemp("job"), 4).path.read_text()
    plain = ("model:\n  flax: model.py:Net\n  args: {a: [1, 2.5e-3, true], b: 'x'}\ninput:\n  path: rows.npy\n"
             "split: {strategy: redundant, replicas: 2}\nproof:\n  coverage: 0.5\n  inputs: committed\n"
             "cluster:\n  ranks:\n  - node_id: a\n    memory_gb: 1.5\n    device: cpu\noutput:\n  path: r.h5\n")
    for i, job in enumerate((text, plain)):
        (root / "job" / str(i)).write_text(job)
    for i, path in enumerate(journals(tmp_path_factory.mktemp("journals"))):
        (root / "journal_bytes" / str(i)).write_bytes(path.read_bytes())
        (root / "journal" / str(i)).write_bytes(unframed(path))
        if path.name != "killed":
            build_results(path, root / "results" / str(i), labels=np.arange(6))
    (root / "batch_key" / "0").write_bytes(case.key().to_bytes())
    (root / "batch_key" / "1").write_bytes(case.network((1, 1), ()).key(8).to_bytes())
    rng = np.random.default_rng(3)
    for i in range(4):
        (root / "results_edits" / str(i)).write_bytes(rng.bytes(12))
        (root / "batch_edits" / str(i)).write_bytes(rng.bytes(1 + 8 * (i + 1)))
    return root


def fuzz(engine: str, target: str, seeds: Path, work: Path) -> str:
    runs = RUNS[target][engine == "hypothesis"]
    done = subprocess.run([sys.executable, str(DRIVER), engine, target, str(runs), str(SECONDS), str(seeds / target), str(work)],
                          capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, env=environment({}))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_edits_of_valid_files(target: str, seeds: Path, tmp_path: Path) -> None:
    said = fuzz("hypothesis", target, seeds, tmp_path)
    assert int(said.split("tried ")[1].split()[0]) > 0


@no_atheris
@pytest.mark.parametrize("target", TARGETS)
def test_what_coverage_leads_to(target: str, seeds: Path, tmp_path: Path) -> None:
    said = fuzz("atheris", target, seeds, tmp_path)
    assert int(said.split("stat::number_of_executed_units:")[1].split()[0]) > 0


def test_the_frames_of_journals_are_put_back(seeds: Path, tmp_path: Path) -> None:
    path = journals(tmp_path)[0]
    again = tmp_path / "again"
    again.write_bytes(framed(unframed(path)))
    assert unframed(again) == unframed(path) and again.stat().st_size == path.stat().st_size
