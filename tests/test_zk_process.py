"""The child process: panics, deadlines, memory limits, deaths and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from enclaveml.errors import ProofError
from enclaveml.zk import frames, process
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.pool import Pool, Spent, timed
from enclaveml.zk.scratch import Scratch
from launch import launcher, run

pytestmark = pytest.mark.ezkl


@pytest.fixture
def child():
    made = process.Child(EZKL)
    yield made
    made.close()


def test_a_call_past_its_deadline_is_killed_and_the_next_one_works(child, tmp_path: Path) -> None:
    with pytest.raises(ProofError) as caught:
        process.wait(child, "srs", 0.3, path=str(tmp_path / "srs"), logrows=20)
    assert str(caught.value) == "ezkl srs: srs took longer than 0.3 s and was killed"
    assert child.pid is None
    assert process.wait(child, "version", 60).value == {"version": "23.0.5"}


def test_ezkls_errors_come_with_their_text(child) -> None:
    with pytest.raises(ProofError) as caught:
        process.wait(child, "quantise", 60, values=[1e300], scale=200)
    assert str(caught.value) == "ezkl quantise: OSError: Failed to quantize input"
    assert process.wait(child, "version", 60).error == ""


def test_nothing_is_imported_from_the_folder_that_it_is_started_in(child, tmp_path: Path, monkeypatch) -> None:
    for module in ("ezkl", "enclaveml", "json"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    assert process.wait(child, "version", 60).value == {"version": "23.0.5"}


def test_an_unknown_call_is_an_error(child) -> None:
    with pytest.raises(ProofError) as caught:
        process.wait(child, "no_such_call", 60)
    assert str(caught.value) == "ezkl no_such_call: AttributeError: 'Calls' object has no attribute 'no_such_call'"


def test_a_killed_child_is_an_error(child, tmp_path: Path) -> None:
    child.send(process.Call("srs", {"path": str(tmp_path / "srs"), "logrows": 20}, 600))
    os.kill(child.pid, signal.SIGKILL)
    while (reply := child.poll()) is None:
        time.sleep(0.01)
    assert reply.error == "ezkl's process ended with signal SIGKILL in srs"


def test_memory_over_the_limit_kills(child, tmp_path: Path) -> None:
    with pytest.raises(ProofError) as caught:
        process.wait(child, "srs", 600, 40_000_000, path=str(tmp_path / "srs"), logrows=20)
    assert str(caught.value).endswith("GB of memory, more than the 0.0 GB allowed, and was killed")


def test_a_child_dies_with_its_parent() -> None:
    code = (
        "from enclaveml.zk import process; from enclaveml.zk.ezkl.program import EZKL\n"
        "c = process.Child(EZKL); process.wait(c, 'version', 60); print(c.pid, flush=True)\n"
        "import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          env=process.child_environment(1)) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"child {pid} outlives its parent")


@pytest.mark.skipif("--oversubscribe" not in launcher(), reason="NOT TESTED, A CHILD'S CORES: --bind-to is Open MPI's")
def test_a_child_runs_on_the_jobs_cores_not_on_the_one_that_its_rank_is_bound_to() -> None:
    code = (
        "import os; from enclaveml.zk import process as p; from enclaveml.zk.ezkl.program import EZKL\n"
        "c = p.Child(EZKL); p.wait(c, 'version', 60)\n"
        "print(f'rank {len(os.sched_getaffinity(0))} child {sorted(os.sched_getaffinity(c.pid))}', flush=True)"
    )
    ours = sorted(os.sched_getaffinity(0))
    for cores in (ours, ours[:1]):  # all, and what taskset leaves
        done = run(["taskset", "-c", ",".join(map(str, cores)), *launcher(), "--bind-to", "core", "-np", "1",
                    sys.executable, "-c", code], 60)
        assert done.stdout.strip() == f"rank 1 child {cores}", done.stderr


def test_the_child_knows_nothing_of_mpi(monkeypatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("PMIX_RANK", "3")
    env = process.child_environment(5, EZKL.threads)
    assert env["RAYON_NUM_THREADS"] == "5"
    assert not [name for name in env if name.startswith(("OMPI_", "PMIX_"))]


def test_openblas_s_threads_do_not_wait_for_long(monkeypatch) -> None:
    """But as the user says where that is said."""
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    assert process.child_environment(1)["OPENBLAS_THREAD_TIMEOUT"] == "20"
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "9")
    assert process.child_environment(1)["OPENBLAS_THREAD_TIMEOUT"] == "9"


def test_frames_come_back_from_any_pieces() -> None:
    data = frames.encode({"a": [1, "é"]}, b"\x00\xff") + frames.encode({}, b"")
    buffer, found = bytearray(), []
    for byte in data:
        buffer.append(byte)
        if (frame := frames.decode(buffer)) is not None:
            found.append(frame)
    assert found == [({"a": [1, "é"]}, b"\x00\xff"), ({}, b"")]


def test_a_claimed_length_is_not_believed() -> None:
    with pytest.raises(ValueError, match="^frame of 17179869184 \\+ 0 bytes$"):
        frames.decode(bytearray(frames.LENGTHS.pack(1 << 34, 0)))


def test_a_pool_goes_on_after_a_timeout(tmp_path: Path) -> None:
    def task(name: str, timeout_s: float):
        if name == "slow":
            reply = yield process.Call("srs", {"path": str(tmp_path / name), "logrows": 22}, timeout_s)
        else:
            reply = yield process.Call("version", {}, timeout_s)
        return name, reply.error

    pool: Pool = Pool(EZKL, 1, 1)
    pool.submit(task("slow", 0.3))
    pool.submit(task("quick", 60))
    assert pool.outstanding == 2
    found = []
    while pool.outstanding:
        found += pool.poll()
        time.sleep(0.01)
    pool.close()
    assert found == [("slow", "srs took longer than 0.3 s and was killed"), ("quick", "")]


def test_a_cancelled_task_leaves_its_child_to_the_next() -> None:
    def task(name: str):
        try:
            reply = yield process.Call("srs", {"path": "/dev/null", "logrows": 24}, 60)
            return name, reply.error
        finally:
            gone.append(name)

    def quick():
        yield process.Call("version", {}, 60)
        return "quick"

    gone: list[str] = []
    pool: Pool = Pool(EZKL, 1, 1)
    tasks = [task("running"), task("waiting"), quick()]
    for one in tasks:
        pool.submit(one)
    (pid,) = pool.pids
    assert pool.cancel(tasks[1]) and pool.cancel(tasks[0]) and pool.outstanding == 1
    assert gone == ["running"] and not Path(f"/proc/{pid}").exists()  # what never ran has nothing to clear away
    assert not pool.cancel(tasks[0])
    found = []
    while not found:
        found = pool.poll()
        time.sleep(0.01)
    assert found == ["quick"] and not pool.cancel(tasks[2]) and pool.outstanding == 0
    pool.close()


def test_a_pool_starts_the_children_that_it_is_told_to_before_there_is_work() -> None:
    pool: Pool = Pool(EZKL, 3, 1, ahead=2)
    try:
        assert len(pool.pids) == 2
    finally:
        pool.close()
    assert pool.pids == []


def test_a_task_is_charged_for_its_calls_and_not_for_its_waiting(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("enclaveml.zk.pool.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def task():
        clock[0] += 0.5
        reply = yield process.Call("prove", {}, 60)
        return reply.block

    spent = Spent()
    steps = timed(task(), spent)
    assert next(steps) == process.Call("prove", {}, 60)
    clock[0] += 100.0  # as long as nobody asks
    with pytest.raises(StopIteration) as end:
        steps.send(process.Reply("", block=b"proof", seconds=7.0))
    assert end.value.value == b"proof"
    assert spent.seconds == 7.5


def test_scratch_is_private_and_goes_away(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    path = Path(scratch.write("x", "secret"))
    assert path.read_text() == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert scratch.path.stat().st_mode & 0o777 == 0o700
    other = Scratch(tmp_path)  # the first one's owner lives: it stays
    assert path.exists()
    scratch.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_a_killed_owner_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from enclaveml.zk.scratch import Scratch\n"
        "s = Scratch(Path(sys.argv[1])); s.write('x', b'secret'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=process.child_environment(1))
    assert len(list(tmp_path.glob("*/x"))) == 1
    Scratch(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
