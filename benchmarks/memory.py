"""Memory of every rank for an input larger than memory: ``python -m benchmarks.memory --gb 20``.

The input is an HDF5 dataset of 1 MiB rows in chunks that were never written (they read as the fill value and take no
disk), so it costs reading, checking, sending and computing what a real one does. The job runs at coverage 0 on 3
ranks. Each process's largest resident size is the kernel's own (VmHWM in /proc), looked at until it ends.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import clean
from benchmarks.gpu_parts import ROOT
from benchmarks.machine import REPORTS, machine, sentence, table, write_report

ROW = (512, 512)
LIMIT = 2e9


def write_input(path: Path, gigabytes: float) -> int:
    """The sparse dataset ``x``; returns its rows."""
    import h5py

    rows = int(gigabytes * 1e9 / (4 * np.prod(ROW)))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (rows, *ROW), np.float32, chunks=(1, *ROW), fillvalue=0.5)
        file["x"][rows // 2] = 0.25  # one that was written
    return rows


def _field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":")), "")


def ranks_of(launcher: int) -> dict[int, int]:
    """Rank to process id, of the processes below the launcher that run the job."""
    found, below = {}, {launcher}
    for _ in range(4):
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            try:
                if int(_field(pid, "PPid") or 0) in below:
                    below.add(pid)
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    rank = next((e for e in environment if e.startswith(b"OMPI_COMM_WORLD_RANK=")), None)
                    job = b"enclaveml\0run" in (entry / "cmdline").read_bytes()
                    if rank is not None and job:
                        found[int(rank.split(b"=")[1])] = pid
            except (OSError, ValueError):
                continue
    return found


def measure(path: Path, ranks: int) -> dict[str, Any]:
    """Run the job; the largest resident bytes of each rank, and the log's last lines."""
    began, said = time.monotonic(), tempfile.TemporaryFile("w+")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("mpirun")), "--oversubscribe", "-np", str(ranks), sys.executable, "-m",
         "enclaveml", "run", str(path), "--force"], env=clean(), stderr=said)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for rank, pid in ranks_of(process.pid).items():
            try:
                peaks[rank] = max(peaks.get(rank, 0), int(_field(pid, "VmHWM").split()[0] or 0) * 1024)
            except (OSError, ValueError, IndexError):
                continue
        time.sleep(0.3)
    said.seek(0)
    return {"exit_status": process.returncode, "seconds": time.monotonic() - began,
            "peak_bytes": [peaks.get(r, 0) for r in range(ranks)], "said": said.read().strip().splitlines()[-12:]}


def main() -> None:
    """Measure and write the report; exit status 1 where a rank was above the limit."""
    parser = argparse.ArgumentParser(description="resident memory of every rank for an input larger than memory")
    parser.add_argument("--gb", type=float, default=20.0)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--out", type=Path, default=REPORTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enclaveml-memory-") as name:
        folder = Path(name)
        shutil.copy(ROOT / "benchmarks" / "memory_model.py", folder)
        rows = write_input(folder / "rows.h5", options.gb)
        path = folder / "job.yaml"
        path.write_text(json.dumps({
            "model": {"flax": "memory_model.py:Pooled"}, "input": {"path": "rows.h5"}, "proof": {"coverage": 0},
            "output": {"path": "results.h5"}}), encoding="utf-8")
        disk = (folder / "rows.h5").stat().st_blocks * 512
        found = measure(path, options.ranks)
    print("\n".join(found["said"]))
    document = {"benchmark": "memory", "machine": machine(), "rows": rows, "gigabytes": options.gb,
                "seconds": found["seconds"], "peak_bytes": found["peak_bytes"], "exit_status": found["exit_status"]}
    lines = [
        "# memory", "", f"A job at coverage 0 over {rows} rows of 1 MiB, {options.gb:g} GB in an HDF5 file of "
        f"{disk / 1e6:.1f} MB on disk (chunks never written read as the fill value), on {options.ranks} ranks of one "
        f"machine: {found['seconds']:.0f} s. The goal is under 2 GB resident on every rank.", "",
        sentence(document["machine"], "memory"), "",
        *table(("rank", "largest resident size"), [[r, f"{b / 1e9:.2f} GB"] for r, b in enumerate(found["peak_bytes"])])]
    print(write_report("memory", document, lines, options.out))
    good = found["exit_status"] == 0 and all(0 < b < LIMIT for b in found["peak_bytes"])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
