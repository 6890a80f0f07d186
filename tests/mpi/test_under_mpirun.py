"""The tests in ``inside`` on 1, 2 and 4 ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import mpirun

INSIDE = Path(__file__).with_name("inside")


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("module", sorted(p.name for p in INSIDE.glob("check_*.py")))
def test_inside(module: str, ranks: int) -> None:
    done = mpirun(ranks, [str(INSIDE / module)], timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.count(" checks passed") == ranks
