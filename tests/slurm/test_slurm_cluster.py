"""The test cluster itself leaves nothing behind, even if its process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import unavailable
from reaper import members

HERE = Path(__file__).resolve().parent

PROGRAM = """\
import os, sys, time
from cluster import Cluster
from slurm_conf import Node
with Cluster([Node("one", 2, 4), Node("two", 4, 8, 1)], dict(os.environ)) as cluster:
    cluster.submit("--wrap", "touch began; sleep 600", cwd=cluster.folder)
    cluster.wait((cluster.folder / "began").exists, 30, "the job")
    print(cluster.conf, flush=True)
    if sys.argv[1] == "stay":
        time.sleep(60)
"""


@pytest.mark.parametrize("end", ["leave", "stay"])
def test_nothing_is_left(end: str) -> None:
    reason = unavailable()
    if reason:
        pytest.skip(f"NO SLURM CLUSTER: {reason}")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    try:
        assert process.stdout is not None
        conf = process.stdout.readline().strip()
        assert conf, "the cluster did not start"
        if end == "stay":
            names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in members(conf)}
            assert names >= {"munged", "slurmctld", "slurmd", "slurmstepd"}
            os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        deadline = time.monotonic() + 30
        while (members(conf) or Path(conf).parent.exists()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert members(conf) == []
        assert not Path(conf).parent.exists()
    finally:
        process.kill()
        process.wait(timeout=10)
