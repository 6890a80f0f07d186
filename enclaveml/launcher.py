"""What a launcher (mpirun, srun) says to the processes it starts, and what they tell MPI, before it is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: Open MPI, PMIx, MPICH and its relatives, Slurm.
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

# Open MPI's one-sided transfers over libfabric, of which no rank makes any. Where no network serves them, as on most
# machines, the component is closed in MPI_Init and then sleeps for a second (its mca_btl_ofi_component_close; seen in
# 5.0.11: MPI_Init took 1.06 s with it, 0.04 s without). Transfers between two ranks over libfabric are another component's.
_MPI_SETTINGS = {"OMPI_MCA_btl": "^ofi"}


def launched_rank(environment: Mapping[str, str]) -> int:
    """This process's rank as its launcher says it; 0 without a launcher."""
    return _first(environment, _RANK, 0)


def launched_size(environment: Mapping[str, str]) -> int:
    """How many ranks mpirun (Open MPI's or MPICH's) started; 0 where it did not start this process."""
    return _first(environment, _SIZE, 0)


def mpi_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to set before MPI begins; none where the user has chosen what Open MPI transfers with, on mpirun's
    command line, in a file that mpirun reads, or in a variable. Other MPIs don't look at them. (srun reads no such
    file: what a site's openmpi-mca-params.conf says of ``btl`` gives way there.)"""
    chosen = any(name in environment for name in ("OMPI_MCA_btl", "OMPI_MCA_pml"))
    return {} if chosen else dict(_MPI_SETTINGS)


def with_package(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours, which finds this package where it is not installed either."""
    parent = str(Path(__file__).resolve().parents[1])
    return dict(environment) | {"PYTHONPATH": os.pathsep.join(filter(None, [parent, environment.get("PYTHONPATH", "")]))}


def _first(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    return default
