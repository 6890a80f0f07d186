"""Provenance: versions without imports, commands without paths."""

from __future__ import annotations

import getpass
import re
import subprocess
import sys

import numpy as np

from enclaveml import __version__, provenance


def test_versions():
    found = provenance.versions("Open MPI v5.0.11, package:\0 x ")
    assert found["enclaveml"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == np.__version__
    assert found["mpi"] == "Open MPI v5.0.11, package: x"
    assert {"h5py", "ezkl", "host", "command", "platform"} <= set(found)
    assert all(isinstance(value, str) for value in found.values())
    assert "user" not in found and "mpi" not in provenance.versions()


def test_versions_import_nothing_heavy():
    code = (
        "import sys; from enclaveml import provenance; provenance.versions(); "
        "sys.exit(bool({'jax', 'mpi4py', 'ezkl', 'h5py', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_command_line_has_no_path_of_the_program():
    program = f"/home/{getpass.getuser()}/ve/bin/enclaveml-run"
    assert provenance.command_line([program, "a job.yaml", "--force"]) == "enclaveml-run 'a job.yaml' --force"
    assert provenance.command_line([]) == "python"


def test_utc_now():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", provenance.utc_now())
