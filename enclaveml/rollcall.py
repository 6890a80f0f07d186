"""Who is there: each rank's machine, its description in the job, its device and its weight in the split."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from enclaveml.capacity import RankFacts, capacities, measure
from enclaveml.comm import World
from enclaveml.errors import Fault, JobError
from enclaveml.roster import Member
from enclaveml.together import together

if TYPE_CHECKING:
    from enclaveml.job import JobSpec


def call(world: World, job: JobSpec | None) -> tuple[Member, ...]:
    """Collective; ``job`` on rank 0 only. Everybody's members, by rank.

    Raises:
        JobError: the job's split cannot be made on these ranks, or a rank has no description.
    """
    facts = measure(world.host, world.local_rank, world.ranks_on_node)
    sent = world.gather_bytes(json.dumps(asdict(facts)).encode(), "the roll call")
    members: tuple[Member, ...] = ()
    with together(world, "the roll call"):
        if world.is_root:
            members = _members(job, [RankFacts(**json.loads(one)) for one in sent])
    text = json.dumps([_plain(m) for m in members]).encode() if world.is_root else None
    told = json.loads(world.bcast_bytes(text, "Bcast of the members"))
    return members or tuple(Member(**one) for one in told)


def _members(job: JobSpec, facts: list[RankFacts]) -> tuple[Member, ...]:
    from enclaveml.cluster import computing, match_ranks  # on rank 0 alone, which has read the job with it

    specs = match_ranks(job.cluster.ranks, [(f.host, f.local_rank) for f in facts], job.where("cluster.ranks"))
    computes = computing(job.cluster.aggregator_computes, len(facts))
    weights = capacities(facts, specs)
    replicas = job.split.replicas if job.split.strategy == "redundant" else 1
    if sum(computes) < replicas:
        raise JobError(Fault(
            job.where("split.replicas"), "split.replicas",
            f"{replicas} replicas of each row need {replicas} ranks that compute; {sum(computes)} of the "
            f"{len(facts)} ranks do. Start with `mpirun -np {replicas + (not computes[0])}` or more, or lower it"
            if sum(computes) else
            "no rank computes: with one rank, cluster.aggregator_computes must not be false",
        ))
    members = tuple(
        Member(
            rank=i, node_id=spec.node_id if spec else f"rank-{i}", host=fact.host, local_rank=fact.local_rank,
            device=spec.device if spec else "auto", memory_gb=float(spec.memory_gb if spec else fact.memory_gb),
            cores=float(fact.cores), capacity=float(weights[i]), computes=bool(computes[i]),
        )
        for i, (fact, spec) in enumerate(zip(facts, specs, strict=True))
    )
    for member in members:
        # A batch prover has one child, with all of its rank's threads.
        member.children = children_of(member, members) if job.proof.system == "ezkl" else int(member.computes)
    return members


def _plain(member: Member) -> dict[str, object]:
    names = ("rank", "node_id", "host", "local_rank", "device", "memory_gb", "cores", "capacity", "computes",
             "children")
    return {name: getattr(member, name) for name in names}


def threads_of(member: Member, members: tuple[Member, ...]) -> int:
    """How many threads each of a rank's provers has."""
    return max(1, children_of(member, members) // max(1, member.children))


def children_of(member: Member, members: tuple[Member, ...]) -> int:
    """How many provers of one thread each a rank can run: its share of the node's cores, one at least.

    Measured: two children of one thread prove more per second than one of two.
    """
    here = [m for m in members if m.host == member.host and m.computes]
    return max(1, int(np.floor(max(m.cores for m in here) / len(here)))) if member.computes else 0
