"""What holds between keys, and between the job and the files that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from enclaveml.cluster import computing
from enclaveml.errors import Fault
from enclaveml.job_files import class_missing, import_in, missing, missing_weights
from enclaveml.job_values import Values
from enclaveml.schema import FLAX
from enclaveml.signature import key_problem
from enclaveml.srs_file import srs_problem
from enclaveml.zk.batch.format import LEAST_MASKS


#: Libraries that a function outside of the proof must not import: rank 0 runs it before JAX is bound to its device.
NOT_OUTSIDE = frozenset({"jax", "jaxlib", "flax"})


def check(values: Values, job: Path) -> Iterator[Fault]:
    """Faults that no key shows alone. Keys that are faulty themselves are passed over."""
    yield from _files(values, job)
    yield from _code_file(values, job, "model.flax")
    yield from _preprocess(values, job)
    yield from _output(values, job)
    yield from _signing_key(values, job)
    yield from _srs(values, job)
    yield from _batch(values)
    yield from _sampling(values)
    yield from _cluster(values)
    yield from _capacity(values)


def _files(values: Values, job: Path) -> Iterator[Fault]:
    for key in ("model.weights", "input.path"):
        written = values.of.get(key)
        if written is not None:
            path = Path(os.path.normpath(job.parent / written))
            folder = key == "input.path" and path.is_dir()
            problem = missing_weights(path) if key == "model.weights" else "" if folder else missing(path)
            if problem:
                yield Fault(values.marks[key], key, f"found {written!r}; {problem}")


def _code_file(values: Values, job: Path, key: str) -> Iterator[Fault]:
    written, path, name = _named(values, job, key)
    if path is not None and (problem := missing(path) or class_missing(path, name, function=key != "model.flax")):
        yield Fault(values.marks[key], key, f"found {written!r}; {problem}")


def _named(values: Values, job: Path, key: str) -> tuple[str, Path | None, str]:
    """What a key that names code says, the file in it (None for an installed package, or none at all), and the name there."""
    written = values.of.get(key) or ""
    match = FLAX.fullmatch(written)
    if match is None or not match["module"].endswith(".py"):
        return written, None, ""
    return written, Path(os.path.normpath(job.parent / match["module"])), match["name"]


def _preprocess(values: Values, job: Path) -> Iterator[Fault]:
    yield from _code_file(values, job, "model.preprocess")
    written, path, _ = _named(values, job, "model.preprocess")
    key, proved = "model.preprocess_proved", values.of.get("model.preprocess_proved", ...)
    if proved is not False:
        return
    if "model.preprocess" in values.of and not written:
        yield Fault(values.marks[key], key, "found false, and model.preprocess names no function; allowed: both, or neither")
    found = import_in(path, NOT_OUTSIDE) if path is not None else None
    if found:
        yield Fault(values.marks["model.preprocess"], "model.preprocess",
                    f"found {written!r}, whose file imports {found[0]} (line {found[1]}), and {key} is false; allowed: a file of its own "
                    "that imports numpy and no JAX, which is bound to a device later")


def _output(values: Values, job: Path) -> Iterator[Fault]:
    written = values.of.get("output.path")
    if written is None:
        return
    where, path = values.marks["output.path"], Path(os.path.normpath(job.parent / written))
    if os.path.isdir(path):
        yield Fault(where, "output.path", f"found {written!r}; a folder; allowed: a file's path")
    elif not os.path.isdir(path.parent):
        yield Fault(
            where, "output.path", f"found {written!r}; the folder {str(path.parent)!r} does not exist"
        )
    taken = {"the job file": job.name} | {
        f"{key}": values.of[key] for key in ("input.path", "model.weights", "output.signing_key") if values.of.get(key) is not None
    }
    for name, other in taken.items():
        if os.path.realpath(path) == os.path.realpath(job.parent / other):
            yield Fault(where, "output.path", f"found {written!r}; that is {name}, and would be overwritten")
    data = values.of.get("input.path")
    if data is not None and os.path.realpath(path.parent) == os.path.realpath(job.parent / data):
        yield Fault(where, "output.path", f"found {written!r}; in the folder of the data, of which it would become a part")


def _signing_key(values: Values, job: Path) -> Iterator[Fault]:
    key, written = "output.signing_key", values.of.get("output.signing_key")
    if written is None:
        return
    path = Path(os.path.normpath(job.parent / written))
    problem = missing(path) or key_problem(path)
    if problem:
        yield Fault(values.marks[key], key, f"found {written!r}; {problem}")


def _srs(values: Values, job: Path) -> Iterator[Fault]:
    key, written, digest = "proof.srs", values.of.get("proof.srs"), values.of.get("proof.srs_sha256", ...)
    if digest is ...:
        return
    if written in (None, "own"):
        if digest is not None:
            yield Fault(values.marks["proof.srs_sha256"], "proof.srs_sha256", "given without the file; give proof.srs too")
        return
    path = Path(os.path.normpath(job.parent / written))
    if problem := missing(path) or srs_problem(path, digest):
        yield Fault(values.marks[key], key, f"found {written!r}; {problem}")


#: Key to what system batch cannot do with it, and to the value that it has to have.
_NOT_BATCH = {
    "proof.bounded_inputs": (False, "its inputs are bounded by whoever has them"),
    "proof.srs": (None, "it needs no SRS"),
    "proof.srs_sha256": (None, "it needs no SRS"),
    "proof.scale": (None, "its scales are calibrated on sample rows"),
    "proof.slices": ("1", "its proofs are not cut"),
}


def _batch(values: Values) -> Iterator[Fault]:
    """What proof.system batch cannot do: hide the weights, and what stands and falls with ezkl's circuits."""
    if values.of.get("proof.system") != "batch":
        return
    for key, (wanted, why) in _NOT_BATCH.items():
        found = values.of.get(key, wanted)
        if found != wanted and not (key == "proof.srs" and found == "own"):
            shown = str(found).lower() if isinstance(found, bool) else repr(found)
            words = "leave it out" if wanted is None else str(wanted).lower()
            yield Fault(values.marks.get(key, values.marks.get("proof.system", "")), key,
                        f"found {shown} with proof.system batch: {why}; "
                        f"allowed: {words}, or proof.system: ezkl")
    inputs = values.of.get("proof.inputs", "public")
    if values.of.get("proof.private_weights") is True:
        where = values.marks["proof.private_weights"]
        if inputs != "committed":
            yield Fault(where, "proof.private_weights", f"found true with proof.system batch and proof.inputs {inputs}: who knows the inputs could work "
                        "out weights of what is shown of activations; allowed: proof.inputs: committed with it, or false")
        if values.of.get("model.hash") is not None:
            yield Fault(values.marks["model.hash"], "model.hash", "found with proof.private_weights and proof.system batch: the results file has the "
                        "job's text, and guesses of the weights could be tried on that hash; allowed: leave it out, and compare what `enclaveml hash` "
                        "prints")
    if inputs == "hashed":
        yield Fault(values.marks["proof.inputs"], "proof.inputs", "found 'hashed' with proof.system batch: its proofs commit to what they "
                    "do not show; allowed: public, committed, or proof.system: ezkl")
    rows, masks = values.of.get("proof.rows_per_proof"), LEAST_MASKS if inputs == "committed" else 0
    if rows is not None and ((rows + masks) & (rows + masks - 1) or rows < max(4, masks)):
        allowed = f"a power of two less {masks} rows that mask the others: 256, 768, 1792, 3840 .. 65280" if masks else (
            "a power of two from 4 to 65536")
        yield Fault(values.marks["proof.rows_per_proof"], "proof.rows_per_proof",
                    f"found {rows} with proof.system batch{' and proof.inputs committed' if masks else ''}; allowed: {allowed}")


def _capacity(values: Values) -> Iterator[Fault]:
    key = "split.capacity"
    found = values.of.get(key)
    if found not in ("declared", "throughput"):
        return
    if values.of.get("split.strategy") == "equal":
        yield Fault(values.marks[key], key, f"found {found!r}, and split.strategy equal weighs no rank; allowed: "
                                            f"split.strategy by_capacity or redundant with it")
    if found == "declared" and values.of.get("cluster.ranks") == ():
        yield Fault(values.marks[key], key, "found 'declared', and no rank is described; allowed: cluster.ranks with it, "
                                            "or memory or throughput")


def _sampling(values: Values) -> Iterator[Fault]:
    coverage, audit = values.of.get("proof.coverage"), values.of.get("proof.audit")
    if coverage is not None and audit is not None:
        yield Fault(values.marks["proof.audit"], "proof.audit",
                    f"found beside proof.coverage ({values.marks['proof.coverage']}); allowed: one of them, since each "
                    f"says how many rows are proved")
    if values.of.get("proof.beacon") is not None and audit is None and not 0 < (1 if coverage is None else coverage) < 1:
        yield Fault(values.marks["proof.beacon"], "proof.beacon",
                    "found, and nothing is drawn; allowed: with proof.audit, or proof.coverage between 0 and 1")
    if values.of.get("proof.recheck") and audit is None and (coverage is None or coverage == 1):
        yield Fault(values.marks["proof.recheck"], "proof.recheck",
                    f"found {values.of['proof.recheck']:g}, and all rows are proved; allowed: with proof.audit, or "
                    f"proof.coverage below 1")


def _cluster(values: Values) -> Iterator[Fault]:
    ranks = values.of.get("cluster.ranks")
    computes = values.of.get("cluster.aggregator_computes", ...)
    if not ranks or computes is ...:
        return
    first: dict[str, str] = {}
    for index, entry in enumerate(ranks):
        key = f"cluster.ranks.{index}.node_id"
        name = entry["node_id"]
        if name in first:
            yield Fault(
                values.marks[key], key, f"found {name!r}, as at {first[name]}; allowed: a name of its own"
            )
        first.setdefault(name, values.marks[key])
    workers = sum(computing(computes, len(ranks)))
    if workers == 0:
        yield Fault(
            values.marks["cluster.aggregator_computes"],
            "cluster.aggregator_computes",
            "found false with one rank described, so no rank computes; allowed: true, or more ranks",
        )
    elif values.of.get("split.strategy") == "redundant" and values.of.get("split.replicas", 0) > workers:
        yield Fault(
            values.marks["split.replicas"],
            "split.replicas",
            f"found {values.of['split.replicas']}; allowed: 1 to {workers}, the workers that cluster.ranks "
            "describes",
        )
