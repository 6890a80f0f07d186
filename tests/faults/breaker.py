"""A rank that breaks: ``python breaker.py FAULT run JOB`` patches this process, then runs the job as enclaveml does.

Started under mpirun beside sound ranks. The faults live here; the package has no hook for any of them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from enclaveml import aggregator, cli, comm, exchange, loop, models, watchdog
from enclaveml.aggregator import Aggregator
from enclaveml.finish import Finish
from enclaveml.sharing import Sharing
from enclaveml.worker import Worker
from enclaveml.zk.ezkl.prover import EzklProver
from enclaveml.zk.ezkl.slices.prover import SlicesProver
from enclaveml.zk.process import Child, Reply


def before_second_envelope(act: Callable[[Worker], None]) -> None:
    """Do something once the first envelope was sealed, when the second is about to be."""
    original, sealed = Worker.seal, []

    def seal(self: Worker, *args: object) -> bytes:
        if len(sealed) == 1:
            act(self)
        sealed.append(1)
        return original(self, *args)
    Worker.seal = seal


def die() -> None:
    """SIGKILL, as the kernel's out-of-memory killer sends it."""
    before_second_envelope(lambda worker: os.kill(os.getpid(), signal.SIGKILL))


def crash() -> None:
    """A crash in native code."""
    before_second_envelope(lambda worker: ctypes.string_at(0))


def die_at_once() -> None:
    """Killed before anything was delivered."""
    Worker.take = lambda self, order: os.kill(os.getpid(), signal.SIGKILL)


def travelling() -> None:
    """Sound, but all rows travel while the ranks do other things, as only many do else, and rounds are of 8 rows. For
    all ranks of a job."""
    exchange.LATER_BYTES, aggregator.ROUND_ROWS = 0, 8


def die_while_rows_travel() -> None:
    """Killed when its second rows are on their way (see ``travelling``)."""
    travelling()
    original, ticks = exchange.Exchange.tick, []

    def tick(self: exchange.Exchange, *args: object) -> object:
        found = original(self, *args)
        if self._coming is not None:
            ticks.append(1)
            if len(ticks) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return found
    exchange.Exchange.tick = tick


def fail() -> None:
    """A bug: an exception in the middle of the work."""
    def broken(worker: Worker) -> None:
        raise ZeroDivisionError("a bug in this worker")
    before_second_envelope(broken)


def quick_guard() -> None:
    """Sound, with a guard as quick as that of the rank that hangs: waiting for another is no reason to die."""
    watchdog.STOPPED_S, loop.IDLE_S, loop.STUCK_S = 4.0, 8.0, 20.0


def hang() -> None:
    """Stuck in a native call that holds the GIL, without using any CPU time."""
    def stuck(worker: Worker) -> None:
        while True:
            ctypes.PyDLL(None).sleep(100000)
    quick_guard()
    before_second_envelope(stuck)


def freeze() -> None:
    """Stopped by SIGSTOP in the middle of the work: its provers go on, it does not."""
    quick_guard()
    before_second_envelope(lambda worker: os.kill(os.getpid(), signal.SIGSTOP))


def freeze_aggregator() -> None:
    """Rank 0 is stopped once some proofs are verified."""
    quick_guard()
    after_verified(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def freeze_at_once() -> None:
    """Stopped while the model is built, before there is a round."""
    quick_guard()
    models.build_model = lambda *args: os.kill(os.getpid(), signal.SIGSTOP)


def slow_write() -> None:
    """Writing the results takes longer than ranks may take to leave MPI."""
    comm.RECOVERY_S = 5.0
    original = Finish.write

    def write(self: Finish, *args: object) -> None:
        time.sleep(15)
        original(self, *args)
    Finish.write = write


def stop_provers() -> None:
    """Child provers that stand still as soon as they have a task."""
    original = EzklProver.submit

    def submit(self: EzklProver, *args: object) -> None:
        original(self, *args)
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
    EzklProver.submit = submit


def kill_aggregator() -> None:
    """Rank 0 dies once some proofs are verified."""
    after_verified(lambda: os.kill(os.getpid(), signal.SIGKILL))


def signal_aggregator() -> None:
    """Rank 0 gets the signal that Slurm sends before a time limit."""
    after_verified(lambda: os.kill(os.getpid(), signal.SIGUSR1))


def terminate_aggregator() -> None:
    """Rank 0 gets SIGTERM."""
    after_verified(lambda: os.kill(os.getpid(), signal.SIGTERM))


def fill_disk() -> None:
    """Files can grow no more once some proofs are verified (as on a full disk: a write fails)."""
    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    after_verified(full)


def lose_folder() -> None:
    """The results folder goes away (an unmounted file system, a quick hand) once some proofs are verified."""
    folder = Path(sys.argv[3]).parent
    after_verified(lambda: folder.rename(folder.with_name("gone")))


def torn_write() -> None:
    """Killed half-way through one of the journal's writes, the ENCLAVEML_BREAK_AT-th of this process."""
    left, original = [int(os.environ["ENCLAVEML_BREAK_AT"])], os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] == 0:
            original(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(descriptor, data, offset)
    os.pwrite = pwrite


def after_verified(act: Callable[[], None], bundles: int = 2) -> None:
    """Do something on rank 0 as soon as that many bundles were verified."""
    original, done = Aggregator.step, []

    def step(self: Aggregator, reports: list) -> None:
        original(self, reports)
        if self.proofs_verified >= bundles and not done:
            done.append(1)
            act()
    Aggregator.step = step


def slow() -> None:
    """Every envelope comes two seconds late."""
    original = Worker.seal

    def seal(self: Worker, *args: object) -> bytes:
        time.sleep(2)
        return original(self, *args)
    Worker.seal = seal


def lag(times: float = 10.0) -> None:
    """Every step of a proof takes ten times as long: the child's answer is there, and is not seen until then."""
    original, held = Child.poll, {}

    def poll(self: Child) -> Reply | None:
        call, until, reply = held.get(self, (None, 0.0, None))
        if reply is None or call is not self._call:  # none yet, or of a child that was killed since
            reply = original(self)
            if reply is None:
                return None
            until = time.monotonic() + (times - 1) * (time.monotonic() - self._sent)
            held[self] = self._call, until, reply
        if time.monotonic() < until:
            self.busy = True
            return None
        del held[self]
        self.busy = False
        return reply
    Child.poll = poll


def slices_alone() -> None:
    """Reports single slices of bundles, and never all of one: it is as slow as that with the last."""
    original = SlicesProver.poll
    SlicesProver.poll = lambda self: original(self)[:0]


def die_helping() -> None:
    """Killed when it is to prove another rank's bundle from the last slice on."""
    slices_alone()
    SlicesProver.submit_backward = lambda self, *args: os.kill(os.getpid(), signal.SIGKILL)


def leaves_rows() -> None:
    """Rank 0, which gives idle ranks nothing of others."""
    Sharing.step = lambda self: None


def sound() -> None:
    """Nothing at all."""


if __name__ == "__main__":
    assert threading.active_count() == 1
    globals()[sys.argv[1]]()
    sys.exit(cli.main(sys.argv[2:]))
