"""A child's side: one call at a time, from a socket, until the socket is closed.

A program whose module is run as ``python -m MODULE FD PARENT CORES`` hands its ``argv`` to :func:`serve`: FD is one end of a
socket pair (``process.py`` holds the other), PARENT the process that it dies with, CORES those to run on.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

from enclaveml.zk import frames

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere the socket's end must do."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _use(cores: str) -> None:
    """Run on these cores of the node ("0,1,5"): undoes the binding to one that mpirun gives a rank's children."""
    if cores and hasattr(os, "sched_setaffinity"):
        try:  # the kernel cuts the set down to what the cgroup allows
            os.sched_setaffinity(0, map(int, cores.split(",")))
        except OSError:
            pass


def _peak_bytes() -> int:
    """Peak resident memory. Linux's ru_maxrss would be the parent's, carried over by its fork."""
    try:
        with open("/proc/self/status", encoding="ascii") as handle:
            return next(int(line.split()[1]) for line in handle if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _answer(calls: object, header: dict) -> bytes:
    started = time.monotonic()
    used = resource.getrusage(resource.RUSAGE_SELF)
    block = b""
    try:
        reply, block = getattr(calls, header["call"])(**header["args"])
        reply["error"] = ""
    except BaseException as error:  # PanicException is no Exception; nothing may end the child silently
        text = str(error).strip() or "no message"
        reply = {"error": f"{type(error).__name__}: {text[:2000]}"}
    after = resource.getrusage(resource.RUSAGE_SELF)
    reply["seconds"] = time.monotonic() - started
    reply["cpu_seconds"] = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    reply["peak_bytes"] = _peak_bytes()
    return frames.encode(reply, block)


def serve(argv: list[str], make: Callable[[], object]) -> None:
    """Serve calls on the socket whose descriptor is ``argv[1]`` until it is closed.

    Each call names a method of the object that ``make`` gives, once this process is set up; it takes JSON arguments and
    returns (JSON object, block of bytes). What it raises, of whatever class, is the reply's error. ``argv[2]`` is the parent's
    process id, ``argv[3]`` the cores to run on.
    """
    _die_with_parent(int(argv[2]))
    _use(argv[3])
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with socket.socket(fileno=int(argv[1])) as link:
        calls = make()
        buffer = bytearray()
        while True:
            frame = frames.decode(buffer)
            if frame is not None:
                link.sendall(_answer(calls, frame[0]))
                continue
            data = link.recv(1 << 20)
            if not data:
                return
            buffer += data
