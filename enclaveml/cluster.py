"""Which rank is which machine of ``cluster.ranks``, which ranks compute, and what no plugin serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from enclaveml.errors import Fault, JobError

if TYPE_CHECKING:
    from enclaveml.job import JobSpec, RankSpec

LAST_METAL_JAX = (0, 5)


def match_ranks(
    ranks: Sequence[RankSpec], where: Sequence[tuple[str, int]], source: str = "cluster"
) -> tuple[RankSpec | None, ...]:
    """The description of each of P ranks; ``where[p]`` is rank p's (host, node-local rank).

    A host's own descriptions go to its ranks by local rank, in the order of the file.
    Every other rank takes, in rank order, the next description without host. Host names
    are equal if they are the same, or if one is without domain and the first labels are
    the same. Descriptions that are left over are no fault: a job may run with fewer
    ranks than the cluster has. With no descriptions at all each rank gets None.

    Raises JobError, naming ``source``, where a rank is left without a description:
    its capacity would have to be guessed.
    """
    if not ranks:
        return (None,) * len(where)
    matched: dict[int, RankSpec] = {}
    hosted = [spec for spec in ranks if spec.host is not None]
    for rank in sorted(range(len(where)), key=lambda p: where[p][1]):
        own = next((spec for spec in hosted if _same_host(spec.host or "", where[rank][0])), None)
        if own is not None:
            matched[rank] = own
            hosted.remove(own)
    anywhere = iter([spec for spec in ranks if spec.host is None])
    for rank in range(len(where)):
        if rank not in matched and (spec := next(anywhere, None)) is not None:
            matched[rank] = spec
    faults = [
        Fault(
            source,
            "cluster.ranks",
            f"rank {rank} (host {host}, local rank {local}) has no description left: {len(ranks)} ranks "
            "are described, "
            f"{sum(_same_host(spec.host, host) for spec in ranks if spec.host)} of them for this host; "
            f"allowed: an entry for each of the {len(where)} ranks, or start fewer",
        )
        for rank, (host, local) in enumerate(where)
        if rank not in matched
    ]
    if faults:
        raise JobError(*faults)
    return tuple(matched[rank] for rank in range(len(where)))


def _same_host(described: str, actual: str) -> bool:
    described, actual = described.lower().rstrip("."), actual.lower().rstrip(".")
    if "." in described and "." in actual:
        return described == actual
    return described.partition(".")[0] == actual.partition(".")[0]


def computing(aggregator_computes: bool | None, ranks: int) -> tuple[bool, ...]:
    """Which of P ranks compute: all but rank 0, and rank 0 when told to or (None) when alone."""
    first = ranks == 1 if aggregator_computes is None else aggregator_computes
    return (first,) + (True,) * (ranks - 1)


def device_faults(job: JobSpec, installed: Mapping[str, str] | None = None) -> tuple[Fault, ...]:
    """A fault for each described rank whose device no plugin of this environment serves.

    Reads the installed distributions' versions (``installed`` stands in for them in tests);
    imports nothing. ``run`` and ``--dry-run`` call this; ``load_job`` does not, so that a
    cluster's description can be read, and its devices overridden, anywhere.
    """
    versions = _versions("jax", "jax-metal") if installed is None else installed
    reason = metal_refusal(versions)
    return tuple(
        Fault(
            job.where(f"cluster.ranks.{index}.device"),
            f"cluster.ranks.{index}.device",
            f"found 'metal' for {spec.node_id!r}; {reason}; allowed here: cpu, cuda",
        )
        for index, spec in enumerate(job.cluster.ranks)
        if spec.device == "metal" and reason
    )


def metal_refusal(versions: Mapping[str, str]) -> str:
    """Why no Metal plugin serves the installed JAX; "" if one does.

    References: jax-metal on PyPI (its last release asks for JAX 0.4 to 0.5).
    """
    jax = versions.get("jax")
    if jax is None:
        return "JAX is not installed"
    release = tuple(int(part) for part in jax.split(".")[:2] if part.isdigit())
    if release > LAST_METAL_JAX:
        return f"no Metal plugin serves JAX {jax}: jax-metal ended at JAX 0.5"
    return "" if "jax-metal" in versions else "jax-metal is not installed"


def _versions(*distributions: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
