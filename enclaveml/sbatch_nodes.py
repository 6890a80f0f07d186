"""The nodes that a job asks Slurm for: what ``cluster.ranks`` describes, grouped by kind of node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from enclaveml.errors import Fault, JobError
from enclaveml.job import JobSpec, RankSpec

# Asked for where the job describes no machine: ranks, and GB of memory for each.
DEFAULT_RANKS = 4
HOST_GB = 8


@dataclass(frozen=True)
class Part:
    """Nodes of one kind: ``nodes`` of them with ``tasks`` ranks each, ``gpus`` and ``memory_gb`` of a node.

    ``hosts`` names them, or is empty where any node will do. ``cores`` of each rank, where not those of all ranks.
    """

    nodes: int
    tasks: int
    gpus: int
    memory_gb: int
    hosts: tuple[str, ...] = ()
    cores: int | None = None


def plan_parts(job: JobSpec, ranks: int | None = None, nodes: int | None = None,
               root_cores: int | None = None) -> tuple[Part, ...]:
    """The nodes to ask for, a part for each kind; the first has rank 0.

    Hosts that ``cluster.ranks`` names are asked for by name. Without names the ranks share
    ``nodes`` nodes of one kind, each big enough for the largest share. With ``root_cores`` rank 0 has a node to itself,
    of so many cores: it verifies every proof, which takes more than a share of a node where hundreds of ranks prove.
    """
    described = job.cluster.ranks
    for rank in described:
        if rank.device == "metal":
            raise JobError(
                Fault(
                    job.where("cluster.ranks"),
                    "cluster.ranks",
                    f"{rank.node_id}: device metal: Slurm nodes run Linux, which has no Metal; "
                    "allowed: cpu, cuda",
                )
            )
    if described and ranks is not None and ranks > len(described):
        raise JobError(
            Fault(
                job.where("cluster.ranks"),
                "cluster.ranks",
                f"describes {len(described)} ranks; found --ranks {ranks}: describe them, or ask for fewer",
            )
        )
    count = ranks or len(described) or DEFAULT_RANKS
    chosen = described[:count]
    hosts = [rank.host for rank in chosen if rank.host is not None]
    if hosts and len(hosts) < len(chosen):
        raise JobError(
            Fault(
                job.where("cluster.ranks"),
                "cluster.ranks",
                "names a host for some ranks and none for others; Slurm needs all hosts, or none",
            )
        )
    if hosts:
        if nodes is not None:
            raise JobError(
                "--nodes is for a job that names no hosts; cluster.ranks names "
                f"{len(set(hosts))}: {', '.join(dict.fromkeys(hosts))}"
            )
        if root_cores is None:
            return _named_parts(chosen)
        if hosts[0] in hosts[1:] or len(hosts) < 2:
            raise JobError(Fault(
                job.where("cluster.ranks"), "cluster.ranks",
                f"gives rank 0's host {hosts[0]} to {hosts.count(hosts[0])} of {len(hosts)} ranks; with --root-cores it must be "
                "rank 0's alone, and others prove"))
        return (replace(_part(chosen[:1], 1), hosts=(hosts[0],), cores=root_cores), *_named_parts(chosen[1:]))
    if root_cores is None:
        return _shared(chosen, count, nodes or 1)
    if count < 2:
        raise JobError("--root-cores: rank 0 is the job's only rank; allowed: where others prove")
    return (replace(_part(chosen[:1], 1), cores=root_cores), *_shared(chosen[1:], count - 1, nodes or 1))


def _shared(chosen: Sequence[RankSpec], count: int, nodes: int) -> tuple[Part, ...]:
    """``count`` ranks, the first of them described, on nodes of one kind."""
    if count % nodes:
        raise JobError(
            f"{count} ranks do not share {nodes} nodes evenly; allowed for --nodes: "
            + ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        )
    each = count // nodes
    shares = [_part(chosen[i : i + each], each) for i in range(0, max(len(chosen), 1), each)]
    return (Part(nodes, each, max(s.gpus for s in shares), max(s.memory_gb for s in shares)),)


def _named_parts(ranks: Sequence[RankSpec]) -> tuple[Part, ...]:
    """Hosts of one kind that follow each other are one part, so rank 0 stays on the first."""
    by_host: dict[str, list[RankSpec]] = {}
    for rank in ranks:
        by_host.setdefault(str(rank.host), []).append(rank)
    parts: list[Part] = []
    for host, own in by_host.items():
        part = _part(own, len(own))
        last = parts[-1] if parts else None
        if last and (last.tasks, last.gpus, last.memory_gb) == (part.tasks, part.gpus, part.memory_gb):
            parts[-1] = Part(last.nodes + 1, part.tasks, part.gpus, part.memory_gb, (*last.hosts, host))
        else:
            parts.append(Part(1, part.tasks, part.gpus, part.memory_gb, (host,)))
    return tuple(parts)


def _part(ranks: Sequence[RankSpec], tasks: int) -> Part:
    """One node for these ranks. ``memory_gb`` of a GPU is not the node's: such a rank gets HOST_GB."""
    undescribed = HOST_GB * (tasks - len(ranks))
    memory = sum(HOST_GB if rank.device == "cuda" else rank.memory_gb for rank in ranks) + undescribed
    return Part(1, tasks, sum(rank.device == "cuda" for rank in ranks), math.ceil(memory))
