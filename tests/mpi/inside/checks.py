"""Run the functions ``check_*`` of a module on every rank; a failure on any ends all."""

from __future__ import annotations

import sys
import traceback

from mpi4py import MPI


def main(namespace: dict) -> None:
    checks = [value for name, value in namespace.items() if name.startswith("check_")]
    assert checks, "no check in this module"
    for check in checks:
        try:
            check()
        except BaseException:
            print(f"rank {MPI.COMM_WORLD.Get_rank()}: {check.__name__}", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            MPI.COMM_WORLD.Abort(1)
    print(f"rank {MPI.COMM_WORLD.Get_rank()}: {len(checks)} checks passed", flush=True)
