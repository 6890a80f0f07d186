"""What is where: inputs of a committed job in no byte of the file, journal, cache, scratch or log; weights likewise.

Each search is first shown to find what it looks for: planted, and in a public job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import audit_case
import h5py
import numpy as np
import pytest
import zk_case
from leaks import digests, forms, found
from small_job import SCALE, SmallJob, dataset, weights, write_small_job

from enclaveml.zk.ezkl import field
from enclaveml.zk.ezkl.files import COMPILED, VK
from enclaveml.zk.ezkl.system import EzklSystem

N = 6

#: The run with its witnesses in a folder of the test's own instead of /dev/shm.
PROGRAM = """
import sys
from pathlib import Path
from enclaveml.zk import scratch
scratch._roots = lambda: [Path(sys.argv[1])]
from enclaveml.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Traces:
    """Everything that a finished job left: files by place, its log, and modes of scratch seen while it ran."""

    job: SmallJob
    files: dict[str, bytes]
    modes: set[tuple[str, int]]
    cache: Path


def played(base: Path, mode: str) -> Traces:
    """Run the small job on one rank; its journal is kept by a second name, and its scratch is watched."""
    job = write_small_job(base / mode, N, {"proof": {"inputs": mode}})
    scratch, kept, cache = base / "scratch", base / f"{mode}.journal", base / f"{mode}-cache"
    scratch.mkdir(exist_ok=True)
    modes: set[tuple[str, int]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                os.link(job.journal, kept)
            for path in scratch.rglob("*"):
                with contextlib.suppress(OSError):
                    kind = "folder" if path.is_dir() else "file"
                    modes.add((kind, stat.S_IMODE(path.stat().st_mode)))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(scratch), "run", str(job.path)],
                              env=audit_case.environment(cache), capture_output=True, timeout=600, check=False)
    finally:
        ended.set()
        watcher.join()
    assert done.returncode == 0, done.stderr.decode()
    files = {"results": job.results.read_bytes(), "journal": kept.read_bytes(), "log": done.stdout + done.stderr}
    for path in cache.rglob("*"):
        if path.is_file():
            files[f"cache: {path.name}"] = files.get(f"cache: {path.name}", b"") + path.read_bytes()
    assert list(scratch.iterdir()) == []
    return Traces(job, files, modes, cache)


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> dict[str, Traces]:
    base = tmp_path_factory.mktemp("privacy")
    return {mode: played(base, mode) for mode in ("public", "committed")}


def test_the_search_finds_every_form() -> None:
    row = dataset(1)[0]
    planted = [(name, form) for name, form in forms(row, SCALE)]
    assert {name for name, _ in planted} == {
        "<f4", ">f4", "<f8", ">f8", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8", "little-endian hex", "little-endian HEX",
        "big-endian hex", "big-endian HEX", "decimal text", "decimal text of a double", "little-endian elements",
        "big-endian elements"}
    noise = np.random.default_rng(5).bytes(1 << 20)
    assert found(noise, row[None], SCALE, hashed=True) == set()
    for name, form in [*planted, *digests(row[None])]:
        assert name in found(noise[:1000] + form + noise[1000:2000], row[None], SCALE, hashed=True)


@pytest.mark.ezkl
def test_a_public_job_shows_its_inputs(traces) -> None:
    """And so the search finds them where they are, as floats in the file and in what the cache and log would have."""
    assert "<f4" in found(traces["public"].files["results"], dataset(N), SCALE)


@pytest.mark.ezkl
def test_a_committed_job_shows_its_inputs_nowhere(traces) -> None:
    files = traces["committed"].files
    assert {"results", "journal", "log", "cache: circuit.json", f"cache: {COMPILED}"} <= set(files)
    assert {place: found(data, dataset(N), SCALE) for place, data in files.items() if found(data, dataset(N), SCALE)} == {}
    # digests of few rows could be searched by trying: none leaves rank 0's machine
    assert found(files["results"], dataset(N), SCALE, hashed=True) == set()
    assert found(files["log"], dataset(N), SCALE, hashed=True) == set()


@pytest.mark.ezkl
@pytest.mark.parametrize("mode", ["public", "committed"])
def test_the_weights_are_in_rank_0s_cache_alone(traces, mode) -> None:
    """But for the last bias: a row that turns every hidden unit off has it as its output."""
    places = set()
    for name, array in weights().items():
        if name == "out.bias":
            continue
        for kept in (array.reshape(-1), array.T.reshape(-1)):
            rows = np.stack([kept, kept / 2])  # the lean graph halves what follows a ReLU
            places |= {place for place, data in traces[mode].files.items() if found(data, rows, SCALE)}
    assert places and all(place.startswith("cache: ") for place in places)
    assert places <= {f"cache: {COMPILED}", "cache: proving.key"}
    assert all(f"cache: {VK}" not in place for place in places)


@pytest.mark.ezkl
def test_scratch_is_private_while_it_is_there(traces) -> None:
    for one in traces.values():
        assert ("folder", 0o700) in one.modes and ("file", 0o600) in one.modes
        assert {mode for kind, mode in one.modes if kind == "folder"} == {0o700}
        assert {mode for kind, mode in one.modes if kind == "file"} == {0o600}


@pytest.mark.ezkl
def test_cache_and_journal_are_private(traces) -> None:
    cache = traces["committed"].cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    kept = cache.parent / "committed.journal"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_fixed_point_of_the_rows_is_distinctive() -> None:
    """Whole numbers that are all small would stand in any file by chance, and prove nothing."""
    whole = field.quantise(dataset(N), SCALE)
    assert np.median(np.abs(whole)) > 200


@pytest.mark.ezkl
def test_a_killed_child_leaves_no_witness(tmp_path, tmp_path_factory, monkeypatch) -> None:
    """SIGKILL in the midst of a proof, whose witness is in scratch then: it goes before the result is handed on."""
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.getbasetemp() / "zk-cache"))
    circuit = zk_case.prepare("committed")
    prover = EzklSystem().prover(circuit.folder, 1, scratch=tmp_path / "scratch")
    try:
        prover.submit(0, zk_case.ROWS[:4], 120)
        while not list((tmp_path / "scratch").rglob("*-witness-0")):
            assert prover.poll() == []
            time.sleep(0.001)
        results: list = []
        while not results:  # whichever call it is in; one that is killed between two calls is started again
            for pid in prover.pids:
                os.kill(pid, signal.SIGKILL)
            results = prover.poll()
            time.sleep(0.005)
        (result,) = results
        assert "signal SIGKILL" in result.error
        assert [path.name for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == ["lock"]
        prover.submit(1, zk_case.ROWS[:4], 120)  # and its successor works
        (result,) = zk_case.drain(prover)
        assert result.error == ""
    finally:
        prover.close()
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.ezkl
def test_proofs_are_counted_and_private_weights_have_a_budget(traces) -> None:
    one = traces["committed"]
    with h5py.File(one.job.results) as file:
        proofs, model = len(file["proofs/offset"]) - 1, file.attrs["model_hash"]
    count = one.cache / "proofs" / str(model)
    assert int(count.read_text()) == proofs == 2
    # the small model's weights hold fewer bits than two proofs show
    done = subprocess.run(
        [sys.executable, "-m", "enclaveml", "run", str(one.job.path), "--force", "--set", "proof.private_weights=true"],
        env=audit_case.environment(one.cache), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2, done.stderr
    assert "proof.private_weights: this job needs about 2 proofs; 2 were made of this model, and more than 0" in done.stderr
    assert int(count.read_text()) == 2
