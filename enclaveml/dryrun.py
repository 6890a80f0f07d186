"""``--dry-run``: check a job against its data and show the shard plan. No MPI, no JAX."""

from __future__ import annotations

import os

import numpy as np

from enclaveml import shards
from enclaveml.cluster import computing, device_faults
from enclaveml.errors import Fault, JobError
from enclaveml.job import JobSpec, RankSpec, journal_path
from enclaveml.provenance import preprocessing, preprocessing_words
from enclaveml.zk.interface import caution_of


def dry_run(job: JobSpec, ranks: int | None = None) -> str:
    """The plan of a checked job, as text of a few lines.

    The ranks are those of ``cluster.ranks``, in the file's order and the first ``ranks`` of
    them if given; where none are described, ``ranks`` (default 1) of equal capacity. The plan
    is for the whole dataset at once; a run cuts it into rounds, in the same proportions.

    Reads the dataset's header only, and a few rows for preprocessing that lies outside of the proof.
    Raises JobError for a device that nothing here serves, for more ranks than are described, and for a split that these ranks cannot make, and
    passes on what ``open_rows`` raises.
    """
    faults = device_faults(job)
    if faults:
        raise JobError(*faults)
    machine = _machine(job, ranks)
    eligible = np.array(computing(job.cluster.aggregator_computes, len(machine)), dtype=bool)
    _check_split(job, eligible)
    measured = job.split.capacity == "throughput"
    capacities = np.array([1.0 if spec is None or measured else spec.memory_gb for spec in machine], dtype=np.float64)

    # Not before the checks above: this imports h5py.
    from enclaveml.preprocessing import open_rows

    dataset = open_rows(job)
    try:
        rows, shape, dtype = int(dataset.rows), tuple(dataset.row_shape), np.dtype(dataset.dtype)
    finally:
        dataset.close()
    copies = job.split.replicas if job.split.strategy == "redundant" else 1
    plan = shards.split(job.split.strategy, np.arange(rows, dtype=np.int64), capacities, eligible, copies)
    lines = _summary(job, rows, shape, dtype, eligible) + [""] + _table(machine, plan.counts, copies)
    return "\n".join(lines) + "\n"


def _machine(job: JobSpec, ranks: int | None) -> tuple[RankSpec | None, ...]:
    described = job.cluster.ranks
    if not described:
        return (None,) * (1 if ranks is None else ranks)
    if ranks is not None and ranks > len(described):
        raise JobError(
            Fault(
                job.where("cluster.ranks"),
                "cluster.ranks",
                f"describes {len(described)} ranks; --ranks asks for {ranks}",
            )
        )
    return described if ranks is None else described[:ranks]


def _check_split(job: JobSpec, eligible: np.ndarray) -> None:
    workers = int(eligible.sum())
    if workers == 0:
        key = "cluster.aggregator_computes"
        raise JobError(
            Fault(job.where(key), key, "found false with one rank, so no rank computes; allowed: true")
        )
    if job.split.strategy == "redundant" and job.split.replicas > workers:
        raise JobError(
            Fault(
                job.where("split.replicas"),
                "split.replicas",
                f"found {job.split.replicas}, and {workers} of {len(eligible)} ranks compute; allowed: 1 "
                f"to {workers}",
            )
        )


def _summary(
    job: JobSpec, rows: int, shape: tuple[int, ...], dtype: np.dtype, eligible: np.ndarray
) -> list[str]:
    written = job.resolved()
    model, data, proof = written["model"], written["input"], written["proof"]
    source = data["path"] if job.sample is None else f"{os.path.relpath(job.sample)}, for {data['path']}"
    exists = any(os.path.lexists(p) for p in (job.output.path, journal_path(job.output.path)))
    key = (
        ""
        if data["key"] is None
        else ", " + (data["key"] if isinstance(data["key"], str) else " ".join(data["key"]))
    )
    # A sample has no labels.
    labels = f", labels {data['labels']}" if data["labels"] and job.sample is None else ""
    tolerance = "chosen when the circuit is made" if proof["tolerance"] is None else f"{proof['tolerance']:g}"
    strategy = job.split.strategy + (
        f", {job.split.replicas} replicas" if job.split.strategy == "redundant" else ""
    )
    if job.split.capacity == "throughput":
        strategy += " by measured throughput (below as if all ranks were equally fast)"
    parts = {
        "job": job.name,
        "model": model["flax"] + (f", {model['weights']}" if model["weights"] else ""),
        "input": f"{source}{key}: {rows} rows of {_shape(shape)} {dtype.name}{labels}",
        **({"before": preprocessing_words(named)} if (named := preprocessing(model)) else {}),
        "split": f"{strategy}: {int(eligible.sum())} of {len(eligible)} ranks compute",
        "proof": f"{_system(job)}{_sampling(job)}, inputs {proof['inputs']}, tolerance {tolerance}",
        "combine": f"{job.combine.strategy} of {job.combine.input}",
        "output": written["output"]["path"] + (" (exists: run with --resume or --force)" if exists else ""),
    }
    return [f"{name:<8} {text}" for name, text in parts.items()]


def _system(job: JobSpec) -> str:
    caution = caution_of(job.proof.system, job.proof.inputs, job.proof.private_weights)
    return f"system {job.proof.system} ({caution}), " if caution else ""


def _sampling(job: JobSpec) -> str:
    audit = job.proof.audit
    if audit is None:
        return f"coverage {job.proof.coverage:g}"
    return (f"about {100 * job.proof.coverage:.3g} % of each worker's rows (at most {audit.undetected_bad_rows} wrong ones "
            f"undetected at {100 * audit.confidence:g} %)")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "one"


def _table(machine: tuple[RankSpec | None, ...], counts: np.ndarray, copies: int) -> list[str]:
    total = int(counts.sum())
    head = ("rank", "node_id", "device", "memory GB", "share %", "rows", "replicas")
    body = [
        (
            str(rank),
            "-" if spec is None else spec.node_id,
            "-" if spec is None else spec.device,
            "-" if spec is None else f"{spec.memory_gb:g}",
            f"{100 * int(count) / total if total else 0:.1f}",
            str(int(count)),
            str(copies),
        )
        for rank, (spec, count) in enumerate(zip(machine, counts, strict=True))
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    left = (1, 2)  # names to the left, numbers to the right
    return [
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *body]
    ]
