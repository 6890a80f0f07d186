"""The journal of a run: begun afresh, or gone on with after checking that it is the same job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from enclaveml import input_key
from enclaveml.datasets import Dataset
from enclaveml.errors import EnvironmentFault, Fault, JobError
from enclaveml.job import JobSpec, journal_path
from enclaveml.journal import Journal, holds_nothing
from enclaveml.journal_index import index_journal
from enclaveml.options import RunOptions
from enclaveml.preprocess_function import digest
from enclaveml.provenance import utc_now, versions
from enclaveml.resume import Resume, ResumeState
from enclaveml.roster import Member
from enclaveml.zk.interface import Circuit

# What may differ between a job and its resumption: where it runs and what it is called.
_FREE = ("cluster", "output", "job")


def registration_of(job: JobSpec) -> str:
    """The circuit_id of the registration of hidden weights that a job to go on with has; "" where there is none yet.

    Raises JobError where that job is another one, which may hide no weights: naming each key in which it differs.
    """
    path = journal_path(job.output.path)
    if not path.exists() or holds_nothing(path):
        return ""
    index = index_journal(path)
    if index.circuits and (faults := _settings_that_differ(job, index.start)):
        raise JobError(*faults)
    return next(iter(index.circuits), "")


def begin(job: JobSpec, options: RunOptions, dataset: Dataset, circuit: Circuit | None, model: Any,
          members: tuple[Member, ...], mpi: str) -> tuple[Journal, ResumeState | None, bytes | None]:
    """Open the journal with its first record of this session written.

    Returns it and, with --resume on a journal, what earlier sessions reached; and the job's input key, where its circuit masks inputs.

    Raises:
        JobError: naming each key in which the job that is there differs.
        EnvironmentFault: the folder cannot be written, or the input key of a job to go on with is not there.
    """
    path = journal_path(job.output.path)
    fresh = {
        "job": job.resolved_yaml(), "job_given": job.given, "inputs": job.proof.inputs,
        "strategy": job.split.strategy, "versions": versions(mpi) | _preprocess(job),
        "model_hash": circuit.model_hash if circuit else "", "model_fingerprint": model.function.fingerprint,
        "dataset_fingerprint": dataset.fingerprint(), "rows": dataset.rows,
        "name": job.name, "replicas": job.split.replicas if job.split.strategy == "redundant" else 1,
        "outputs": circuit.outputs if circuit else model.outputs, "started": utc_now(),
        "ranks": [_rank(m) for m in members],
    }
    before = key = None
    masked, key_file = circuit is not None and circuit.masked, input_key.key_path(job.output.path)
    if options.resume and path.exists() and not holds_nothing(path):
        before = Resume.load(path)
        _same_job(job, before.start, fresh)
        if circuit is not None and circuit.hides_weights and not before.circuit_ids:
            before = None  # killed before its circuit was noted: nothing is proved, and what it registered is lost
    if before is not None:
        if masked:
            key = input_key.load(key_file, str(before.start["versions"].get(input_key.DIGEST, "")))
            fresh["versions"][input_key.DIGEST] = input_key.digest(key)
        journal = Journal.open_append(path)
        journal.append("resume", {name: fresh[name] for name in ("started", "versions", "ranks")})
    else:
        if options.force:
            for old in (job.output.path, path):
                _remove(old)
        if masked:
            # With --resume nothing was begun, or its results were moved away: a key that is left may be the only one that opens them.
            keep = options.resume and os.path.lexists(key_file)
            key = input_key.load(key_file) if keep else input_key.create(key_file, replace=options.force)
            fresh["versions"][input_key.DIGEST] = input_key.digest(key)
        # The journal holds a fingerprint of the data, by which few rows could be searched for.
        journal = Journal.create(path, overwrite=options.resume, private=job.proof.inputs != "public")
        journal.append("start", fresh)
    journal.flush()
    return journal, before, key


def _remove(path: os.PathLike[str]) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be replaced (--force): {error.strerror}") from error


def _preprocess(job: JobSpec) -> dict[str, str]:
    """What the preprocessing was, beside the versions of what else made the result: the SHA-256 of its file."""
    name = job.model.preprocess
    return {} if name is None else {"preprocess_sha256": digest(name, job.path.absolute().parent)}


def _rank(member: Member) -> dict[str, Any]:
    return {"rank": member.rank, "node_id": member.node_id, "host": member.host, "device": member.device,
            "memory_gb": member.memory_gb, "share": member.capacity}


def _settings_that_differ(job: JobSpec, there: Mapping[str, Any]) -> list[Fault]:
    """A fault for each key but those that are free in which a job differs from the one to go on with, by its start record."""
    import yaml

    faults = []
    old, new = yaml.safe_load(there["job"]), job.resolved()
    for section in sorted((set(old) | set(new)) - set(_FREE)):
        before, now = old.get(section) or {}, new.get(section) or {}
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key):
                name = f"{section}.{key}"
                faults.append(Fault(job.where(name), name,
                                    f"found {now.get(key)!r}; the job to go on with has {before.get(key)!r}. "
                                    f"Put it back, or start anew with --force"))
    return faults


def _same_job(job: JobSpec, there: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Refuse to go on with a job that is not this one.

    Raises:
        JobError: with a fault for each difference.
    """
    faults = _settings_that_differ(job, there)
    for name, what in (("model_fingerprint", "model.weights: the model or its weights differ"),
                       ("dataset_fingerprint", "input.path: the data differ"),
                       ("rows", "input.path: the number of rows differs"),
                       ("outputs", "model.flax: the number of outputs differs")):
        if there.get(name) != fresh[name]:
            key, _, text = what.partition(": ")
            faults.append(Fault(job.where(key), key, f"{text} from those of the job to go on with "
                                                     f"({str(fresh[name])[:16]} here, {str(there.get(name))[:16]} there)"))
    for library in ("ezkl", "jax2onnx"):
        before, now = there["versions"].get(library), fresh["versions"].get(library)
        if before != now:
            faults.append(Fault(str(job.path), library, f"version {now} is installed; the job was begun with {before}, "
                                                        f"and circuits are bound to it. Install that, or use --force"))
    if faults:
        raise JobError(*faults)
