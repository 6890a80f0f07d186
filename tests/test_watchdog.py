"""The guard of a rank: what it kills, what it leaves alone, and that it never outlives its rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launch import environment

from enclaveml.guard import LONGEST_STEP_S, Verdict

LIMIT_S = 60

RANK = """\
import ctypes, os, signal, sys, time
from enclaveml import watchdog
watchdog.STOPPED_S = 2.0
guard = watchdog.Watchdog.start("rank 7 on here")
print(guard._process.pid, flush=True)
"""

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="states of processes are read from /proc")


def rank(body: str) -> tuple[int, str, int]:
    """Run a process with a guard. Returns how it ended, what was said on stderr, and the guard's process id."""
    done = subprocess.run([sys.executable, "-c", RANK + body], capture_output=True, text=True, timeout=LIMIT_S,
                          env=environment({}))
    return done.returncode, done.stderr, int(done.stdout.split()[0])


def ends(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within a limit."""
    until = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


@linux
def test_a_stopped_process_is_killed_though_nothing_else_limits_it() -> None:
    code, said, guard = rank("guard.disarm(); os.kill(os.getpid(), signal.SIGSTOP)")
    assert code == -signal.SIGKILL
    assert said.startswith("enclaveml: rank 7 on here (process ") and said.endswith(
        ") was stopped for 2 s: killed by its guard\n")
    assert ends(lambda: gone(guard))


@linux
def test_a_native_call_that_holds_the_gil_and_uses_no_cpu_time_is_killed_with_a_traceback() -> None:
    code, said, _ = rank("guard.arm(1000, 2)\nwhile True: ctypes.PyDLL(None).sleep(1000)")
    assert code == -signal.SIGKILL
    assert 'File "<string>", line 7 in <module>' in said
    assert "was stuck for 2 s without using any CPU time: killed by its guard\n" in said


def test_a_loop_without_end_is_killed() -> None:
    code, said, _ = rank("guard.arm(2, 1000)\nwhile True: pass")
    assert code == -signal.SIGKILL and "was stuck for 2 s: killed by its guard\n" in said


def test_who_reports_lives_and_the_guard_ends_with_it() -> None:
    code, said, guard = rank("for _ in range(50): guard.arm(3, 3); time.sleep(0.1)\nos._exit(5)")
    assert (code, said) == (5, "")
    assert ends(lambda: gone(guard))


def test_a_disarmed_guard_waits_for_ever_and_is_closed() -> None:
    code, said, guard = rank("guard.arm(0.1, 0.1); guard.disarm(); time.sleep(4); guard.close()")
    assert (code, said) == (0, "") and gone(guard)


def test_a_rank_that_is_alone_may_be_stopped() -> None:
    body = ("guard.alone()\nif os.fork() == 0:\n time.sleep(5); os.kill(os.getppid(), signal.SIGCONT); os._exit(0)\n"
            "os.kill(os.getpid(), signal.SIGSTOP)")
    assert rank(body)[:2] == (0, "")


@linux
def test_a_job_that_is_suspended_whole_lives_on() -> None:
    """As a batch system suspends: every process of it, the guard among them."""
    body = "guard.arm(3, 3); print('there', flush=True)\nfor _ in range(20): time.sleep(0.1); guard.arm(3, 3)"
    process = subprocess.Popen([sys.executable, "-c", RANK + body], stdout=subprocess.PIPE, text=True,
                               env=environment({}), start_new_session=True)
    process.stdout.readline(), process.stdout.readline()
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(4.5)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.wait(LIMIT_S) == 0


def test_a_guard_that_is_gone_is_no_fault_of_its_rank() -> None:
    assert rank("guard._process.kill(); guard._process.wait(); guard.arm(1); time.sleep(1.1); guard.arm(1); "
                "guard.close()")[:2] == (0, "")


def steps(verdict: Verdict, state: str, cpu: list[int], passed: float = 1.0) -> list[str]:
    return [verdict.step(passed, state, ticks) for ticks in cpu]


def test_each_limit_counts_what_it_is_about() -> None:
    assert steps(Verdict((3, 0, 0)), "T", [0] * 3) == ["", "", "stopped for 3 s"]
    assert steps(Verdict((0, 3, 0)), "S", [0] * 4) == ["", "", "", "stuck for 3 s without using any CPU time"]
    assert steps(Verdict((0, 3, 0)), "S", [0, 1, 2, 3, 4]) == [""] * 5
    assert steps(Verdict((0, 0, 3)), "R", [0, 1, 2]) == ["", "", "stuck for 3 s"]
    assert steps(Verdict((0, 0, 0)), "D", [0] * 9) == [""] * 9
    assert steps(Verdict((3, 0, 0)), "t", [0] * 9) == [""] * 9  # a debugger's
    assert steps(Verdict((0, 3, 3)), "T", [0] * 9) == [""] * 9  # stopped is not stuck
    assert steps(Verdict((0, 3, 0)), "", [0] * 9) == [""] * 9  # no /proc: nobody knows


def test_a_message_starts_the_time_again_but_does_not_end_a_stop() -> None:
    verdict = Verdict((5, 4, 4))
    assert steps(verdict, "S", [0] * 3) == [""] * 3
    verdict.heard((5, 2, 4))
    assert steps(verdict, "S", [0] * 3) == ["", "", "stuck for 2 s without using any CPU time"]
    verdict = Verdict((3, 0, 0))
    assert steps(verdict, "T", [0, 0]) + steps(verdict, "S", [0]) + steps(verdict, "T", [0, 0]) == [""] * 5


def test_time_that_the_guard_itself_slept_through_counts_a_step_at_most() -> None:
    verdict = Verdict((60, 120, 900))
    assert steps(verdict, "T", [0] * 3, passed=36000.0) == [""] * 3
    assert 3 * LONGEST_STEP_S < 60
