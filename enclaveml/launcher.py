"""What a launcher (mpirun, srun) says to the processes it starts, before MPI is there."""

from __future__ import annotations

from collections.abc import Mapping

#: Open MPI, PMIx, MPICH and its relatives, Slurm.
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_SIZE = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def launched_rank(environment: Mapping[str, str]) -> int:
    """This process's rank as its launcher says it; 0 without a launcher."""
    return _first(environment, _RANK, 0)


def launched_size(environment: Mapping[str, str]) -> int:
    """How many ranks mpirun (Open MPI's or MPICH's) started; 0 where it did not start this process."""
    return _first(environment, _SIZE, 0)


def _first(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    return default
