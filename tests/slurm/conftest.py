"""The Slurm cluster and the small jobs that the tests here run on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, unavailable
from launch import environment
from slurm_conf import Node
from tiny import Tiny

# Sizes that differ, as far as Slurm knows. CPU jobs go to `plain` first (weights).
NODES = (Node("big", 64, 256, 4), Node("mid", 32, 128, 2), Node("small", 16, 64, 1), Node("plain", 16, 32))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``enclaveml`` and ``enclaveml-run`` of this source tree, for PATH."""
    folder = tmp_path_factory.mktemp("bin")
    for name, call in (("enclaveml", "main"), ("enclaveml-run", "run_main")):
        program = folder / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\nfrom enclaveml.cli import {call}\nsys.exit({call}())\n"
        )
        program.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def cluster(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of NODES, one for all tests; ended with everything in it at the end."""
    reason = unavailable()
    if reason:
        pytest.skip(f"NO SLURM CLUSTER, the scripts of slurm/ are not tested: {reason}")
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cache = os.environ.get("ENCLAVEML_CACHE") or str(tmp_path_factory.mktemp("cache"))
    with Cluster(NODES, environment({"PATH": path, "ENCLAVEML_CACHE": cache})) as running:
        yield running


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A small job in a folder of its own."""
    return Tiny.write(tmp_path / "job")
