"""The ticks of a run, on every rank: work, trade, decide, until rank 0 says stop."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from enclaveml.comm import RECOVERY_S, RankLost, World
from enclaveml.errors import EnvironmentFault, RemoteFailure
from enclaveml.exchange import Exchange, Order, ProtocolError, Report
from enclaveml.signals import StopRequests
from enclaveml.together import describe, exit_code_of, mark_agreed
from enclaveml.watchdog import Watchdog
from enclaveml.worker import Worker

if TYPE_CHECKING:
    from enclaveml.aggregator import Aggregator

log = logging.getLogger(__name__)

# A rank comes to a tick this often when it has nothing to tell, in seconds. After a tick in which something was
# traded, the next comes after SOON_S, since an answer is likely, and then each after twice as long.
TICK_S = 0.1
SOON_S = 1e-3
# and looks for news in between this often.
GLANCE_S = 0.01

# A rank that has not finished a step of its own loop within this many seconds is stuck in a
# native call: its guard kills it, which turns it into a lost rank. A step is one batch's
# inference, the first of which compiles the model, and one tick.
STUCK_S = 900.0

# The same for a step that uses no CPU time at all: no work looks like that, but a wait for a
# file system that is gone. Rank 0 is given STUCK_S for such waits too: its end is the job's,
# and the file system that it writes to may come back.
IDLE_S = 120.0


class Loop:
    """One rank's loop. ``aggregator`` is None on the workers."""

    def __init__(self, world: World, exchange: Exchange, worker: Worker, aggregator: Aggregator | None,
                 stop: StopRequests, watchdog: Watchdog, on_tick: Callable[[], None] = lambda: None) -> None:
        self._world, self._exchange, self._worker = world, exchange, worker
        self._aggregator, self._stop, self._on_tick = aggregator, stop, on_tick
        self._failure: Exception | None = None
        self._stopping = False
        self._wait_s = SOON_S
        self._watchdog = watchdog
        self.lost: tuple[int, ...] = ()

    def run(self) -> None:
        """Tick until the stop order.

        Raises:
            the error that ended the job: rank 0's own, or RemoteFailure for another rank's.
        """
        pump = self._guarded(self._worker.pump)

        def idle() -> None:
            """While this rank waits for others: it is alive itself, however stuck they are."""
            self._arm()
            pump()

        self._world.idle = idle
        self._world.spare = self._guarded(self._worker.infer_meanwhile)
        # Longer than a stuck rank has until its guard kills it. One that even SIGKILL does not
        # end (an uninterruptible wait in the kernel) is lost to nobody: the others end here.
        self._world.patience_s = STUCK_S + 120
        work = self._guarded(self._worker.work)
        self._worker.between = self._exchange.nudge
        try:
            while not self._worker.stopped:
                self._arm()
                work()
                self._receive()
                self._pause()
                self._tick()
        finally:
            self._watchdog.disarm()
            self._world.idle, self._world.spare = lambda: None, lambda: False
        if self._failure is not None:
            raise mark_agreed(self._failure)  # the stop order told everybody

    def _arm(self) -> None:
        """Tell the guard that all is well."""
        self._watchdog.arm(STUCK_S, 0.0 if self._world.is_root else IDLE_S)

    def _guarded(self, call: Callable[[], object]) -> Callable[[], bool]:
        """``call``, with a failure kept for rank 0 instead of raised: this rank must still come to the ticks.

        Returns whether ``call`` gave anything that is true.
        """
        def guarded() -> bool:
            if self._failure is None:
                try:
                    return bool(call())
                except Exception as error:
                    self._fail(error)
            return False
        return guarded

    def _fail(self, error: Exception) -> None:
        self._failure = error
        if self._aggregator is None:
            self._exchange.outbox.put(
                Report("error", {"text": describe(error)[-20000:], "exit_code": exit_code_of(error) or 1})
            )

    def _receive(self) -> None:
        """Take the orders whose rows have come since the tick."""
        self._take(self._exchange.arrived())

    def _pause(self) -> None:
        """Wait for news, at most a tick's length."""
        until = time.monotonic() + self._wait_s
        while (left := until - time.monotonic()) > 0 and not (self._worker.busy or self._worker.news or self._failure):
            time.sleep(min(GLANCE_S, left))
            self._world.idle()
            self._receive()

    def _tick(self) -> None:
        if self._stop.requested and not self._stop.told:
            self._stop.told = True
            self._exchange.outbox.put(Report("signal"))
        try:
            orders, reports = self._exchange.tick(self._worker.stats)
            self._wait_s = SOON_S if self._exchange.moved else min(TICK_S, 2 * self._wait_s)
        except RankLost as error:
            self._recover(error)
            return
        except ProtocolError as error:
            raise RemoteFailure(f"rank {error.rank} broke the protocol: {error}", 75) from error
        self._take(orders)
        if self._aggregator is not None:
            self._decide(reports)
            self._on_tick()

    def _take(self, orders: list[Order]) -> None:
        """Hand rank 0's orders to the worker; of those that a rank with a failure gets, only to stop."""
        for order in orders:
            if self._failure is None or order.kind == "stop":
                self._worker.take(order)
                if order.kind == "stop" and self._failure is None and order.meta.get("exit_code"):
                    self._failure = RemoteFailure("the job was ended by rank 0", int(order.meta["exit_code"]))

    def _decide(self, reports: list[tuple[int, Report]]) -> None:
        """Rank 0: take in the reports; say stop to all when the job has ended, well or badly."""
        aggregator = self._aggregator
        if self._failure is None:
            try:
                if any(report.kind == "signal" for _, report in reports) and not aggregator.draining:
                    log.warning("signal: finishing the bundles at hand, then stopping; the job can be resumed")
                    aggregator.drain()
                aggregator.step([(rank, report) for rank, report in reports if report.kind != "signal"])
            except Exception as error:
                self._failure = error
        if not self._stopping and (self._failure is not None or aggregator.finished):
            self._stopping = True
            code = 0 if self._failure is None else exit_code_of(self._failure) or 1
            for rank in self._world.ids:
                self._exchange.order_boxes[rank].put(Order("stop", {"exit_code": code}))

    def _recover(self, error: RankLost) -> None:
        if not self._world.fault_tolerant:
            # mpirun is ending the job already, or will never notice: both end here.
            print(f"enclaveml: rank {self._world.rank}: another rank died ({error}); run under "
                  f"`mpirun --with-ft ulfm` to go on without it", file=sys.stderr, flush=True)
            os._exit(75)
        self._watchdog.arm(RECOVERY_S)
        lost = self._world.recover()
        self.lost += lost
        if 0 in lost:
            print(f"enclaveml: rank {self._world.rank}: the aggregator (rank 0) died; the job can be resumed",
                  file=sys.stderr, flush=True)
            os._exit(75)
        if self._aggregator is not None:
            for rank in lost:
                self._aggregator.lose(rank, f"died: {error}")
            if not any(m.working for m in self._aggregator.members.values()):
                log.error("no rank is left that computes")


def leave(world: World, watchdog: Watchdog, lost: bool, code: int) -> int:
    """End MPI. After a lost rank Finalize was seen to hang: flush and go at once instead."""
    watchdog.arm(RECOVERY_S + 30)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if lost:
        os._exit(code)
    try:
        world.finalize()
    except (EnvironmentFault, RankLost):
        os._exit(code)
    return code
