"""Work for several children: each task is a generator of calls, run on whichever child is free.

A task yields a :class:`Call` and gets its :class:`Reply` back; what it returns is its outcome. The
pool never blocks but in :meth:`Pool.wait`: :meth:`Pool.poll` moves every task on as far as it goes at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from enclaveml.zk.process import Call, Child, Program, Reply

Outcome = TypeVar("Outcome")
Steps = Generator[Call, Reply, Outcome]


@dataclass
class Spent:
    """Seconds that a task took: its own and its calls', without those that it waited for a child or a poll."""

    seconds: float = 0.0


def timed(steps: Steps[Outcome], spent: Spent) -> Steps[Outcome]:
    """The same task, its time added to ``spent`` as it goes."""
    reply: Any = None
    while True:
        began = time.monotonic()
        try:
            call = steps.send(reply)
        except StopIteration as end:
            return end.value
        finally:
            spent.seconds += time.monotonic() - began
        reply = yield call
        spent.seconds += reply.seconds


@dataclass
class _Worker(Generic[Outcome]):
    child: Child
    steps: Steps[Outcome] | None = None


class Pool(Generic[Outcome]):
    """``children`` processes of a program, ``threads`` threads each, and a queue of tasks.

    The first ``ahead`` of them are started now, so that no task waits for them to import their libraries; the others
    when there is work for them.
    """

    def __init__(self, program: Program, children: int, threads: int, ahead: int = 0) -> None:
        self._workers: list[_Worker[Outcome]] = [_Worker(Child(program, threads)) for _ in range(max(1, children))]
        for worker in self._workers[:ahead]:
            worker.child.start()
        # A task that waits, and its first call where that is made already.
        self._queue: deque[tuple[Steps[Outcome], Call | None]] = deque()
        self._ready: list[Outcome] = []
        self._unfinished = 0

    @property
    def outstanding(self) -> int:
        """Tasks whose outcome poll has not returned yet."""
        return self._unfinished

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that run."""
        return [w.child.pid for w in self._workers if w.child.pid is not None]

    def submit(self, steps: Steps[Outcome], ready: bool = False) -> None:
        """Queue a task; a free child takes it up at once.

        ``ready``: go on to its first call here and now, with whatever files that writes, so that a
        child that becomes free need not wait for it.
        """
        self._unfinished += 1
        call = None
        if ready and not any(worker.steps is None for worker in self._workers):
            try:
                call = next(steps)
            except StopIteration as end:
                self._ready.append(end.value)
                return
        self._queue.append((steps, call))
        self._advance()

    def cancel(self, steps: Steps[Outcome]) -> bool:
        """Drop a task; the child that runs it is killed. False where its outcome is there already."""
        for worker in self._workers:
            if worker.steps is steps:
                worker.child.kill()
                worker.steps = None
                break
        else:
            waiting = [one for one in self._queue if one[0] is steps]
            if not waiting:
                return False
            self._queue.remove(waiting[0])
        steps.close()
        self._unfinished -= 1
        self._advance()
        return True

    def poll(self) -> list[Outcome]:
        """The outcomes that are ready."""
        self._advance()
        ready, self._ready = self._ready, []
        self._unfinished -= len(ready)
        return ready

    def wait(self, seconds: float) -> None:
        """Return when a child may have answered, at once where none is busy, or after so many seconds."""
        links = [w.child.link for w in self._workers if w.child.busy and w.child.link is not None]
        if links and not self._ready:
            connection.wait(links, seconds)

    def _advance(self) -> None:
        for worker in self._workers:
            reply: Any = None
            while True:
                if worker.steps is None:
                    if not self._queue:
                        break
                    worker.steps, call = self._queue.popleft()
                    if call is not None:
                        worker.child.send(call)
                        break
                    reply = None
                elif worker.child.busy:
                    if (reply := worker.child.poll()) is None:
                        break
                try:
                    worker.child.send(worker.steps.send(reply))
                except StopIteration as end:
                    worker.steps = None
                    self._ready.append(end.value)

    def close(self) -> None:
        """Kill the children; tasks that run or wait are dropped."""
        for worker in self._workers:
            worker.child.kill()
            if worker.steps is not None:
                worker.steps.close()
                worker.steps = None
        for steps, _ in self._queue:
            steps.close()
        self._queue.clear()
        self._ready.clear()
        self._unfinished = 0
