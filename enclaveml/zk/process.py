"""The parent's handle on a child that proves or verifies: start, send, poll, deadline, kill.

Nothing here waits for a call to end, except :func:`wait`, which preparation uses. A child that is
past its deadline or its memory limit is killed and the call fails with a text; the next call starts
another child.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclaveml.capacity import allowed_cores
from enclaveml.errors import ProofError
from enclaveml.launcher import with_package
from enclaveml.zk import frames

#: Environment that would make a child believe it is an MPI rank.
_MPI_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDRA_", "MPI_")
_SENT_AT_ONCE = 64 << 10  # a socket pair's buffer holds this much, so sending never blocks


@dataclass(frozen=True)
class Program:
    """What a child runs: ``python -m module`` (``serve.py`` is its loop); ``name`` is whose process it is, in texts.

    threads: the variables of the environment that its libraries take their number of threads from.
    """

    module: str
    name: str
    threads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One command for a child (a method of its ``Calls``) and its limits."""

    name: str
    args: dict[str, Any]
    timeout_s: float
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Reply:
    """The answer to a call; ``error`` is empty when it went well.

    ``ended``: the child gave none, since it died or was killed for time or memory.
    """

    error: str
    value: dict[str, Any] = field(default_factory=dict)
    block: bytes = b""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    ended: bool = False


def child_environment(threads: int, named: tuple[str, ...] = ()) -> dict[str, str]:
    """This process's environment without MPI's, the variables ``named`` set to a number of threads.

    OpenBLAS's threads wait for work by turning: by default for 2^26 cycles, which takes a core from the proof's other threads; here for 2^20.
    """
    env = {"OPENBLAS_THREAD_TIMEOUT": "20"} | {k: v for k, v in os.environ.items() if not k.startswith(_MPI_PREFIXES)}
    return with_package(env) | dict.fromkeys(named, str(threads))


class Child:
    """One process of a program. Started by ``start`` or the first call, restarted by the call after it was killed.

    On Linux the kernel kills it when the *thread* that started it ends, so calls come from a
    thread that outlives the work (the main one).
    """

    def __init__(self, program: Program, threads: int = 1) -> None:
        self.program, self.threads = program, threads
        self.busy = False
        self._process: subprocess.Popen | None = None
        self._link: socket.socket | None = None
        self._stderr: Any = None
        self._buffer = bytearray()
        self._call: Call | None = None
        self._sent = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def link(self) -> socket.socket | None:
        """The socket on which the child answers; None where none runs."""
        return self._link

    def start(self) -> None:
        """Start the process if it does not run; :meth:`send` does so too."""
        if self._process is None:
            self._start()

    def _start(self) -> None:
        cores = ",".join(map(str, allowed_cores()))  # the launcher's: not the one that this rank is bound to
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._stderr = tempfile.TemporaryFile()  # a panic prints where it was; an abort only there
        try:
            self._process = subprocess.Popen(
                # -P: the folder that a job or an audit is started in may be anybody's, and is not to be imported from.
                [sys.executable, "-P", "-m", self.program.module, str(theirs.fileno()), str(os.getpid()), cores],
                pass_fds=[theirs.fileno()],
                env=child_environment(self.threads, self.program.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._link = ours
        self._buffer = bytearray()

    def send(self, call: Call) -> None:
        """Hand a call to the child, which must be idle."""
        assert not self.busy, "a child does one call at a time"
        if self._process is not None and self._process.poll() is not None:
            self.kill()  # it died while idle
        self.start()
        frame = frames.encode({"call": call.name, "args": call.args})
        if len(frame) > _SENT_AT_ONCE:
            raise ValueError(f"a call of {len(frame)} bytes; large arguments go through files")
        self._call, self.busy, self._sent = call, True, time.monotonic()
        try:
            self._link.sendall(frame)
        except OSError:
            pass  # it died just now; poll says so

    def poll(self) -> Reply | None:
        """The reply if it is there, an error if the child is dead or was killed here, else None."""
        assert self.busy and self._call is not None and self._link is not None
        ended = False
        try:
            while data := self._link.recv(1 << 20):
                self._buffer += data
            ended = True
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        try:
            frame = frames.decode(self._buffer)
        except ValueError as error:
            return self._fail(f"{self.program.name}'s process answered nonsense: {error}")
        if frame is not None:
            self.busy = False
            header, block = frame
            return Reply(
                header.pop("error"),
                value=header,
                block=block,
                seconds=header.pop("seconds"),
                cpu_seconds=header.pop("cpu_seconds"),
                peak_bytes=header.pop("peak_bytes"),
            )
        if ended:
            return self._fail(self._epitaph())
        if time.monotonic() - self._sent > self._call.timeout_s:
            return self._fail(f"{self._call.name} took longer than {self._call.timeout_s:g} s and was killed")
        limit = self._call.memory_bytes
        if limit is not None and (used := resident_bytes(self._process.pid)) > limit:
            return self._fail(
                f"{self._call.name} took {used / 1e9:.1f} GB of memory, more than the {limit / 1e9:.1f} GB "
                "allowed, and was killed"
            )
        return None

    def _epitaph(self) -> str:
        """Why a child that closed its socket is gone."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = None
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 500))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"
        return f"{self.program.name}'s process ended with {how} in {self._call.name}" + (f": {lines[-1]}" if lines else "")

    def _fail(self, text: str) -> Reply:
        self.kill()
        return Reply(text, ended=True)

    def kill(self) -> None:
        """Kill the child, whatever it does; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._link.close()
            self._stderr.close()
        self._process = self._link = self._stderr = self._call = None
        self.busy = False

    close = kill


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now (Linux's /proc; 0 where there is none)."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as handle:
            return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def wait(child: Child, name: str, timeout_s: float, memory_bytes: int | None = None, **args: Any) -> Reply:
    """Make one call and wait for it (at most ``timeout_s``). Raises ProofError with its text."""
    child.send(Call(name, args, timeout_s, memory_bytes))
    pause = 0.001
    while (reply := child.poll()) is None:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    if reply.error:
        raise ProofError(f"{child.program.name} {name}: {reply.error}")
    return reply
