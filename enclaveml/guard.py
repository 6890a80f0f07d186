"""The guard of one rank: a small process beside it that ends it when it is frozen or stuck.

Run as ``python -I -S guard.py PID NAME LIMITS`` by the rank itself (``watchdog.Watchdog``), with the read end
of a pipe as standard input. The rank is killed by SIGKILL, which needs nothing of it (a stopped process, or
one whose native call holds the GIL, handles no other signal), and which MPI's launcher takes for a death.

Messages are three float64, in seconds; what stands longer than its limit ends the rank, and 0 is no limit:

    stopped   the rank's process is in state T: SIGSTOP, SIGTSTP. A debugger's stop (state t) is none.
    idle      no message, and no CPU time used: stuck in a wait, say for a file system that is gone
    silent    no message, whatever the rank does

Time is what this process sees of it: a step of its own counts ``LONGEST_STEP_S`` at most, so nobody is killed
on waking from a suspension of the whole job, node or machine. The guard holds a pidfd (Linux 5.3), so that no
other process of that number can be hit, and ends when the rank ends or the pipe closes. Where there is no
/proc, only ``silent`` counts. Imports nothing beyond the standard library: it starts in 20 ms and takes 9 MB.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import time

MESSAGE = struct.Struct("<3d")

# It looks this often, in seconds; and of a longer time between two looks this much counts.
LOOK_S = 1.0
LONGEST_STEP_S = 2.0

# What a rank that is not frozen gets to write its traceback, on SIGALRM, before it is killed, in seconds.
TRACEBACK_S = 0.5

# A killed process that is still there after this long waits for something that cannot be interrupted.
GONE_S = 10.0

# The rank's business, where they reach the whole process group. Stops do stop the guard too.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


class Verdict:
    """How long a rank has been stopped, idle and silent; pure, so that it can be tested without waiting."""

    def __init__(self, limits: tuple[float, float, float]) -> None:
        self.limits, self._heard = limits, False
        self._stopped = self._idle = self._silent = 0.0
        self._cpu = -1

    def heard(self, limits: tuple[float, float, float]) -> None:
        """A message came, with the limits from now on."""
        self.limits, self._heard = limits, True

    def step(self, passed: float, state: str, cpu: int) -> str:
        """``passed`` seconds went by; the rank's state ("" if unknown) and CPU time. Why it must end, or ""."""
        passed = min(max(0.0, passed), LONGEST_STEP_S)
        self._stopped = self._stopped + passed if state == "T" else 0.0
        # A stop is no wait: a rank that a user pauses (where that is allowed) is not taken for stuck.
        waits = cpu == self._cpu and state not in ("", "T", "t")
        self._idle = self._idle + passed if waits else 0.0
        self._silent += 0.0 if state in ("T", "t") else passed
        if self._heard:  # since the last step, so this one does not count
            self._heard, self._idle, self._silent = False, 0.0, 0.0
        self._cpu = cpu
        stopped, idle, silent = self.limits
        if 0 < stopped <= self._stopped:
            return f"stopped for {stopped:.0f} s"
        if 0 < idle <= self._idle:
            return f"stuck for {idle:.0f} s without using any CPU time"
        return f"stuck for {silent:.0f} s" if 0 < silent <= self._silent else ""


class Rank:
    """The process that is guarded: this one's parent."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if it has ended already."""
        self._pid = pid
        self.fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        if os.getppid() != pid:  # asked after the pidfd was made: it is our parent's
            raise ProcessLookupError
        try:
            self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._stat = None

    def look(self) -> tuple[str, int]:
        """State as in proc(5), "" where that cannot be known, and CPU time in ticks."""
        if self._stat is None:
            return "", 0
        try:
            fields = os.pread(self._stat, 4096, 0).rpartition(b") ")[2].split()
        except OSError:
            return "", 0
        return fields[0].decode(), int(fields[11]) + int(fields[12])

    def send(self, number: int) -> None:
        """A signal to it and to nobody else."""
        if self.fd is not None:
            signal.pidfd_send_signal(self.fd, number)
        elif os.getppid() == self._pid:
            os.kill(self._pid, number)

    def end(self, frozen: bool) -> bool:
        """Kill it, with a traceback first where it can write one. Returns whether it is gone."""
        try:
            if not frozen:
                self.send(signal.SIGALRM)
                time.sleep(TRACEBACK_S)
            self.send(signal.SIGKILL)
        except ProcessLookupError:
            return True
        return self.fd is None or bool(select.select([self.fd], [], [], GONE_S)[0])


def watch(rank: Rank, pipe: int, verdict: Verdict) -> str:
    """Until the rank must end (returns why) or has ended (returns "")."""
    os.set_blocking(pipe, False)
    last, fds = time.monotonic(), [pipe, *([rank.fd] if rank.fd is not None else [])]
    while True:
        ready = select.select(fds, [], [], LOOK_S)[0]
        if rank.fd in ready:
            return ""
        if pipe in ready:
            heard = os.read(pipe, 1 << 16)  # messages are written whole
            if not heard:
                return ""
            verdict.heard(MESSAGE.unpack(heard[-MESSAGE.size:]))
            if time.monotonic() - last < LOOK_S / 2:
                continue
        now = time.monotonic()
        if reason := verdict.step(now - last, *rank.look()):
            return reason
        last = now


def main(pid: int, name: str, limits: tuple[float, float, float]) -> None:
    """Guard process ``pid``, which is called ``name`` on standard error."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        rank = Rank(pid)
    except ProcessLookupError:
        return
    reason = watch(rank, 0, Verdict(limits))
    if not reason:
        return
    gone = rank.end(reason.startswith("stopped"))
    text = f"enclaveml: {name} (process {pid}) was {reason}: killed by its guard"
    if not gone:
        text += f", and still there {GONE_S:.0f} s later: it waits in the kernel, and nothing can end it"
    os.set_blocking(2, False)
    os.write(2, text.encode() + b"\n")


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), sys.argv[2], tuple(map(float, sys.argv[3:6])))  # type: ignore[arg-type]
    except OSError:
        sys.exit(1)
