"""The time limit that a batch script asks for, from the forecast, where there is one."""

from __future__ import annotations

from enclaveml.errors import EnclaveError
from enclaveml.forecast import data_of, predict
from enclaveml.forecast_costs import target_of
from enclaveml.forecast_text import slurm_limit
from enclaveml.job import JobSpec
from enclaveml.progress import hours
from enclaveml.sbatch import DEFAULT_CORES
from enclaveml.sbatch_nodes import plan_parts

#: A day: a longer job is cut into parts of this length, each of which goes on with the one before.
MOST_S = 24 * 3600.0


def advised_time(job: JobSpec, ranks: int | None, nodes: int | None, cores: int | None,
                 root_cores: int | None = None) -> tuple[str, str] | None:
    """(limit in Slurm's format, where it is from); None where nothing was measured or the job cannot be read."""
    parts = plan_parts(job, ranks, nodes, root_cores)
    count = sum(part.nodes * part.tasks for part in parts)
    memory = min(part.memory_gb / part.tasks for part in parts)
    try:
        target = target_of(count, cores or DEFAULT_CORES, max(part.tasks for part in parts), "cpu", memory,
                           root_cores=root_cores, aggregator_computes=bool(job.cluster.aggregator_computes))
        found = predict(*data_of(job), target)
    except (EnclaveError, OSError):
        return None
    part = "" if found.ask <= MOST_S else ", in parts of a day"
    return slurm_limit(min(found.ask, MOST_S)), (f"Forecast {hours(found.wall)} for {count} ranks on cores like this "
                                                 f"machine's{part}, with some to spare")
