"""A Slurm batch script for a job, filled in from the job's description of the machine.

The script is slurm/checkpoint.sbatch (for parts of different kind: slurm/heterogeneous.sbatch with
the same end) with this job's numbers: it is signalled before its limit, stops resumable and goes
back to the queue until it is complete.

References: sbatch(1) of Slurm 22.05, "HETEROGENEOUS JOBS" and the formats of --time and --mem.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from enclaveml.errors import JobError
from enclaveml.job import JobSpec
from enclaveml.sbatch_nodes import HOST_GB, Part, plan_parts
from enclaveml.sbatch_text import AGENT, ENVIRONMENT, HETEROGENEOUS_RUN, LAUNCH, NODES_FILE, RUN, TRAP

# Cores of a rank, and the limit of one part of the job.
DEFAULT_CORES = 4
DEFAULT_TIME = "01:00:00"

# Seconds before the limit at which Slurm signals the script, and how much earlier it may do so.
SIGNAL_S = 90
EARLY_S = 60

_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<h>\d+)(?::(?P<m>\d+))?(?::(?P<s>\d+))?)|(?P<rest>\d+(?::\d+){0,2})")


def script(
    job: JobSpec,
    given: str,
    *,
    overrides: Sequence[str] = (),
    folder: str = "",
    ranks: int | None = None,
    nodes: int | None = None,
    cores: int | None = None,
    root_cores: int | None = None,
    time: str | None = None,
    venv: str | None = None,
    forecast: tuple[str, str] | None = None,
) -> str:
    """The batch script for ``job``.

    Args:
        given: the job file's path as it goes into the script; overrides: ``--set`` of its run.
        folder: where the job runs and its log goes; "": where it is submitted.
        ranks: how many; default: those that ``cluster.ranks`` describes, else 4.
        nodes: over how many nodes of one kind; default: the hosts that are named there, else 1.
        cores: for each rank; default 4. root_cores: of a node that rank 0 has to itself; None: it shares one.
        time: limit of one part, in Slurm's format.
        forecast: the limit where ``time`` is None, and a line that says where it is from; without either,
            DEFAULT_TIME.
        venv: folder of the virtual environment that the script activates.

    Raises:
        JobError: a time that is none or leaves no time to stop, ranks that cannot be placed.
    """
    parts = plan_parts(job, ranks, nodes, root_cores)
    cores = DEFAULT_CORES if cores is None else cores
    limit = time or (forecast[0] if forecast else DEFAULT_TIME)
    _check_time(limit)
    arguments = [given, *(word for each in overrides for word in ("--set", each))]
    lines = [
        "#!/bin/bash",
        f"# {_plain(job.name)}: {_ranks_words(parts)}. Made by `enclaveml slurm`.",
        "#",
        "#     sbatch THIS_FILE [--partition, --account, ... go before its name]",
        "#",
        f"#SBATCH --job-name={_file_name(job.name)}",
        "#SBATCH --output=%x-%j.log",
        "# One log for all parts of the job.",
        "#SBATCH --open-mode=append",
    ]
    if folder:
        lines.append(f"#SBATCH --chdir={_quoted(folder)}")
    lines += [
        "# SIGUSR1 to this script alone before the limit; it then stops and requeues itself.",
        f"#SBATCH --signal=B:USR1@{SIGNAL_S}",
        "#SBATCH --requeue",
    ]
    for number, part in enumerate(parts):
        if number:
            lines += ["#", "#SBATCH hetjob"]
        lines += ["#", *_wishes(job, part, cores)]
        if time is None:
            said = forecast[1] if forecast else (
                "A guess, since no circuit of this model is in this machine's cache (`enclaveml prepare` makes one)")
            lines.append(f"# {said}: each part of the job ends at this limit and goes on in the next.")
        lines.append(f"#SBATCH --time={limit}")
    activate = (
        f"# The environment that EnclaveML is installed in.\nsource {shlex.quote(f'{venv}/bin/activate')}\n"
    )
    arguments_line = f'set -- --resume {shlex.join(arguments)} "$@"\n'
    run = (NODES_FILE + AGENT, TRAP + HETEROGENEOUS_RUN) if len(parts) > 1 else (TRAP + RUN,)
    return "\n".join(
        [*lines, "", activate if venv else ENVIRONMENT, arguments_line, *run[:-1], run[-1] + LAUNCH]
    )


def _wishes(job: JobSpec, part: Part, cores: int) -> list[str]:
    lines = [f"#SBATCH --nodes={part.nodes}", f"#SBATCH --ntasks-per-node={part.tasks}"]
    if part.hosts:
        lines.append(f"#SBATCH --nodelist={','.join(part.hosts)}")
    lines += [
        f"# Rank 0 verifies every proof, and proves {'as well' if job.cluster.aggregator_computes else 'nothing'}." if part.cores else
        "# A rank runs as many provers as it has cores: more is faster.",
        f"#SBATCH --cpus-per-task={part.cores or cores}",
    ]
    if job.cluster.ranks:
        lines.append(
            "# Memory of a node, from cluster.ranks"
            + (f"; {HOST_GB} GB for each rank with a GPU." if part.gpus else ".")
        )
    else:
        lines.append(
            f"# Memory of a node: {HOST_GB} GB a rank, since the job describes no machine (cluster.ranks)."
        )
    lines.append(f"#SBATCH --mem={part.memory_gb}G")
    if part.gpus:
        lines.append(f"#SBATCH --gres=gpu:{part.gpus}")
    return lines


def _ranks_words(parts: Sequence[Part]) -> str:
    nodes, ranks = sum(p.nodes for p in parts), sum(p.nodes * p.tasks for p in parts)
    return f"{ranks} rank{'s' if ranks > 1 else ''} on {nodes} node{'s' if nodes > 1 else ''}"


def _check_time(text: str) -> None:
    seconds = time_seconds(text)
    least = SIGNAL_S + EARLY_S
    if seconds is None:
        raise JobError(
            f"--time: found {text!r}; allowed: minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes, days-hours:minutes:seconds"
        )
    if seconds <= 2 * least:
        raise JobError(
            f"--time: found {text!r}, {seconds} s; the job is signalled up to {least} s before the limit, "
            f"so allow more than {2 * least} s"
        )


def time_seconds(text: str) -> int | None:
    """Seconds of a time in Slurm's format (sbatch(1), ``--time``); None if it is none."""
    found = _TIME.fullmatch(text)
    if found is None or not text.isascii():
        return None
    if found["rest"] is None:
        days, h, m, s = (int(found[name] or 0) for name in ("days", "h", "m", "s"))
        return ((days * 24 + h) * 60 + m) * 60 + s
    numbers = [int(n) for n in found["rest"].split(":")]
    if len(numbers) < 3:  # minutes, or minutes:seconds
        numbers = [0, *numbers, 0][:3]
    return (numbers[0] * 60 + numbers[1]) * 60 + numbers[2]


def _file_name(name: str) -> str:
    """A job name that is also safe as the log's file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "enclaveml"


def _plain(name: str) -> str:
    return " ".join(name.split())


def _quoted(folder: str) -> str:
    """As sbatch reads an option in the script: quotes keep spaces, a backslash keeps the next character."""
    return (
        '"' + folder.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if re.search(r"[^\w./-]", folder)
        else folder
    )
