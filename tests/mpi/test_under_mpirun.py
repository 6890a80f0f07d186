"""The tests in ``inside`` on 1, 2 and 4 ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launch import launcher, mpirun, run

INSIDE = Path(__file__).with_name("inside")


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("module", sorted(p.name for p in INSIDE.glob("check_*.py")))
def test_inside(module: str, ranks: int) -> None:
    done = mpirun(ranks, [str(INSIDE / module)], timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.count(" checks passed") == ranks


@pytest.mark.mpi
def test_mpi_begins_without_the_component_that_sleeps_and_with_what_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    if "--oversubscribe" not in launcher():
        pytest.skip("NO OPEN MPI: the transfers that it begins with are not tested")
    monkeypatch.delenv("OMPI_MCA_btl", raising=False)
    monkeypatch.delenv("OMPI_MCA_pml", raising=False)
    said = {}
    for chosen in ("", "self,tcp"):
        env = {"OMPI_MCA_btl_base_verbose": "100"} | ({"OMPI_MCA_btl": chosen} if chosen else {})
        done = run([sys.executable, "-c", "import enclaveml.comm"], timeout=60, env=env)
        assert done.returncode == 0, done.stderr[-4000:]
        said[chosen] = {line.split()[-1] for line in done.stderr.splitlines() if "components_open: found loaded component" in line}
    assert {"self", "sm", "tcp"} <= said[""] and "ofi" not in said[""]
    assert said["self,tcp"] == {"self", "tcp"}
