"""The one module that imports ezkl: a process that runs one ezkl call at a time.

Run as ``python -m enclaveml.zk.ezkl.child FD PARENT CORES``, FD one end of a socket pair (``process.py`` holds
the other). ezkl holds the GIL through every call, some of its calls never return, and its Rust
panics are no ``Exception``: so it lives here, where it can be killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from enclaveml.zk.ezkl import document, frames

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


def _json(path: str) -> Any:
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def _felts(columns: list[list[str]]) -> bytes:
    """Columns of little-endian hex field elements, row-major, as 32 bytes each."""
    return bytes.fromhex("".join("".join(column) for column in columns))


class Calls:
    """The commands. Each takes JSON arguments and returns (JSON object, block of bytes)."""

    def __init__(self, ezkl: Any) -> None:
        self.ezkl = ezkl

    def version(self) -> tuple[dict, bytes]:
        return {"version": self.ezkl.__version__}, b""

    def settings(self, model: str, output: str, run_args: dict) -> tuple[dict, bytes]:
        args = self.ezkl.PyRunArgs()
        for name, value in run_args.items():
            setattr(args, name, tuple(value) if isinstance(value, list) else value)
        if not self.ezkl.gen_settings(model, output, args):
            raise RuntimeError("gen_settings returned False")
        return {"settings": _json(output)}, b""

    def compile(self, model: str, circuit: str, settings: str) -> tuple[dict, bytes]:
        if not self.ezkl.compile_circuit(model, circuit, settings):
            raise RuntimeError("compile_circuit returned False")
        return {"settings": _json(settings)}, b""

    def srs(self, path: str, logrows: int) -> tuple[dict, bytes]:
        self.ezkl.gen_srs(path, logrows)
        return {}, b""

    def setup(self, circuit: str, vk: str, pk: str, srs: str) -> tuple[dict, bytes]:
        if not self.ezkl.setup(circuit, vk, pk, srs):
            raise RuntimeError("setup returned False")
        return {}, b""

    def witness(self, data: str, circuit: str, output: str) -> tuple[dict, bytes]:
        """Outputs as 32-byte field elements in the block."""
        found = self.ezkl.gen_witness(data, circuit, output)
        header = {
            "min_lookup": int(found["min_lookup_inputs"]),
            "max_lookup": int(found["max_lookup_inputs"]),
            "max_range": int(found["max_range_size"]),
            "counts": [len(column) for column in found["outputs"]],
        }
        return header, _felts(found["outputs"])

    def prove(self, witness: str, circuit: str, pk: str, srs: str, proof: str) -> tuple[dict, bytes]:
        """The proof's bytes in the block; the proof document is removed."""
        self.ezkl.prove(witness, circuit, pk, proof, srs)
        document = _json(proof)
        os.unlink(proof)
        return {"instances": [len(column) for column in document["instances"]]}, bytes(document["proof"])

    def verify(self, proof: str, settings: str, vk: str, srs: str) -> tuple[dict, bytes]:
        return {"valid": self.ezkl.verify(proof, settings, vk, srs, False) is True}, b""

    def verify_parts(self, parts: str, settings: str, vk: str, srs: str) -> tuple[dict, bytes]:
        """Verify a proof whose document is made here, of what ``document.pack`` put into the file ``parts``."""
        path = Path(parts + ".json")
        try:
            path.write_text(document.text(*document.unpack(Path(parts).read_bytes())), encoding="ascii")
            return self.verify(str(path), settings, vk, srs)
        finally:
            path.unlink(missing_ok=True)

    def commit(self, message: str, vk: str, settings: str, srs: str) -> tuple[dict, bytes]:
        """KZG commitment of the field elements in the file ``message``: x and y, little-endian hex."""
        felts = Path(message).read_text(encoding="ascii").split()
        points = self.ezkl.kzg_commit(felts, vk, settings, srs)
        return {"points": [[point.x, point.y] for point in points]}, b""

    def poseidon(self, message: str) -> tuple[dict, bytes]:
        felts = Path(message).read_text(encoding="ascii").split()
        return {"hash": list(self.ezkl.poseidon_hash(felts))}, b""

    def quantise(self, values: list[float], scale: int) -> tuple[dict, bytes]:
        """ezkl's own quantisation, for tests: field elements as 32 bytes each."""
        kind = self.ezkl.PyInputType.F64
        return {}, _felts([[self.ezkl.float_to_felt(value, scale, kind) for value in values]])


def _peak_bytes() -> int:
    """Peak resident memory. Linux's ru_maxrss would be the parent's, carried over by its fork."""
    try:
        with open("/proc/self/status", encoding="ascii") as handle:
            return next(int(line.split()[1]) for line in handle if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _answer(calls: Calls, header: dict) -> bytes:
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


def main(argv: list[str]) -> None:
    """Serve calls on the socket whose descriptor is ``argv[1]`` until it is closed.

    ``argv[2]`` is the parent's process id, ``argv[3]`` the cores to run on.
    """
    _die_with_parent(int(argv[2]))
    _use(argv[3])
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with socket.socket(fileno=int(argv[1])) as link:
        import ezkl

        calls = Calls(ezkl)
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


if __name__ == "__main__":
    main(sys.argv)
