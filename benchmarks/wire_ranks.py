"""What runs under mpirun for ``benchmarks.wire``: ``mpirun -np 2 python -m benchmarks.wire_ranks PART JSON``.

Rank 0 prints one JSON document as its last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROW = 64


def transfers(rows: int, width: int, repeats: int) -> dict[str, Any]:
    """Scatterv and Gatherv of rows by ``enclaveml.comm`` and by mpi4py's own buffers, in turns.

    ``bare`` receives in fresh arrays, as ours does (rows outlive the next tick); ``reused`` in the same ones each time.
    """
    from mpi4py import MPI

    from enclaveml.comm import World

    world = World.start()
    comm, rank, size = world.comm, world.rank, world.size
    counts = [rows // size + (r < rows % size) for r in range(size)]
    data = np.random.default_rng(0).random((rows, width), np.float32) if rank == 0 else None
    kept = np.empty((rows, width), np.float32) if rank == 0 else None, np.empty((counts[rank], width), np.float32)
    elements = [c * width for c in counts]
    starts = [0, *np.cumsum(elements[:-1]).tolist()]

    def ours() -> np.ndarray | None:
        got = world.scatter_rows(data, counts, (width,), np.dtype(np.float32), "the benchmark")
        return world.gather_rows(got, counts, "the benchmark")

    def bare() -> np.ndarray | None:
        return reused(np.empty((rows, width), np.float32) if rank == 0 else None,
                      np.empty((counts[rank], width), np.float32))

    def reused(back: np.ndarray | None = kept[0], mine: np.ndarray = kept[1]) -> np.ndarray | None:
        comm.Scatterv([data, elements, starts, MPI.FLOAT] if rank == 0 else None, mine, root=0)
        comm.Gatherv(mine, [back, elements, starts, MPI.FLOAT] if rank == 0 else None, root=0)
        return back

    taken: dict[str, list[float]] = {"ours": [], "bare": [], "reused": []}
    for turn in range(repeats + 1):
        for name, call in (("ours", ours), ("bare", bare), ("reused", reused)):
            comm.Barrier()
            began = time.perf_counter()
            found = call()
            comm.Barrier()
            if turn:
                taken[name].append(time.perf_counter() - began)
            if rank == 0 and not np.array_equal(found, data):
                raise SystemExit(f"{name}: other rows came back")
    return {"rows": rows, "width": width, "bytes": rows * width * 4,
            **{f"{name}_s": sorted(times) for name, times in taken.items()},
            "ratio": float(np.median(taken["bare"]) / np.median(taken["ours"])),
            "ratio_reused": float(np.median(taken["reused"]) / np.median(taken["ours"]))}


def large(width: int, counts: list[int]) -> dict[str, Any]:
    """One Scatterv and one Gatherv of more elements than MPI's 32-bit counts hold: rows of ``width`` uint8."""
    from enclaveml.comm import World

    world = World.start()
    data = None
    if world.is_root:
        data = np.empty((sum(counts), width), np.uint8)
        for i, row in enumerate(data):
            row[:] = i + 1
            row[-1] = 100 + i
    began = time.perf_counter()
    got = world.scatter_rows(data, counts, (width,), np.dtype(np.uint8), "the benchmark")
    scattered = time.perf_counter() - began
    if world.is_root:
        data = None
    first = sum(counts[: world.rank])
    for i, row in enumerate(got, first):
        if row[0] != i + 1 or row[-2] != i + 1 or row[-1] != 100 + i:
            raise SystemExit(f"rank {world.rank}: row {i} arrived damaged")
    back = world.gather_rows(got, counts, "the benchmark")
    if world.is_root and [int(row[-1]) for row in back] != [100 + i for i in range(sum(counts))]:
        raise SystemExit("the rows came back damaged")
    return {"elements": sum(counts) * width, "scatter_s": scattered, "in_all_s": time.perf_counter() - began}


def _tiny() -> Callable[[np.ndarray], np.ndarray]:
    """The digits' MLP, jitted for any number of rows that comes."""
    import jax

    from benchmarks.gpu_parts import model

    return jax.jit(model("digits", Path()).apply)


def pickled(rows: int, batch: int, limit_s: float) -> dict[str, Any]:
    """The tutorial's loop: ``scatter`` one piece to each rank, compute, ``gather``; ``batch`` rows a piece."""
    from enclaveml.devices import bind_device

    bind_device("cpu", 0)
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    infer = _tiny()
    data = np.random.default_rng(1).random((rows, ROW), np.float32)
    np.asarray(infer(data[:batch]))
    comm.Barrier()
    began, done, step = time.perf_counter(), 0, batch * comm.size
    for start in range(0, rows - step + 1, step):
        pieces = [data[start + i * batch: start + (i + 1) * batch] for i in range(comm.size)]
        piece = comm.scatter(pieces if comm.rank == 0 else None)
        comm.gather(np.asarray(infer(piece)))
        done += step
        if comm.bcast(time.perf_counter() - began > limit_s):
            break
    return {"batch": batch, "rows": done, "rows_s": done / (time.perf_counter() - began)}


def _compute(row: np.ndarray) -> np.ndarray:
    """What the pool's workers run on an item; the model is built at the first."""
    global _infer
    if _infer is None:
        from enclaveml.devices import bind_device

        bind_device("cpu", 0)
        _infer = _tiny()
    return np.asarray(_infer(row if row.ndim == 2 else row[None]))


_infer: Callable[[np.ndarray], np.ndarray] | None = None


def pool(rows: int, chunk: int) -> dict[str, Any]:
    """``MPIPoolExecutor.map`` over rows, one a task, or over pieces of ``chunk`` rows. One rank hands out."""
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    data = np.random.default_rng(1).random((rows, ROW), np.float32)
    items = list(data) if chunk == 1 else np.split(data, range(chunk, rows, chunk))
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        if executor is None:
            return {}
        list(executor.map(_compute, items[: 8 * MPI.COMM_WORLD.size]))  # builds and compiles on every worker
        began = time.perf_counter()
        count = sum(len(out) for out in executor.map(_compute, items))
        return {"chunk": chunk, "rows": count, "rows_s": count / (time.perf_counter() - began)}


def main() -> None:
    """Run the part that the command line names."""
    found = {"transfers": transfers, "pickled": pickled, "pool": pool, "large": large}[sys.argv[1]](**json.loads(sys.argv[2]))
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
