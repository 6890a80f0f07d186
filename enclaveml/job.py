"""A job: what is to be computed, proved and combined, on which machine, and where to.

``load_job`` reads and checks a job file and raises one ``JobError`` with all of its faults.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from enclaveml.errors import Fault, JobError
from enclaveml.input_key import key_path
from enclaveml.job_checks import check
from enclaveml.job_files import missing
from enclaveml.job_layers import read_layers
from enclaveml.job_values import Values, read_values
from enclaveml.sampling import fraction
from enclaveml.schema import LABEL_BYTES, SECTIONS
from enclaveml.srs_file import SrsFile


@dataclass(frozen=True)
class ModelSpec:
    """The model. ``flax`` and ``preprocess`` are as written; a file in them is relative to the job file's folder.

    ``preprocess_proved``: whether ``preprocess`` is part of the model that is proved, or rank 0's before it.
    """

    flax: str
    args: Mapping[str, Any]
    weights: Path | None
    hash: str | None
    preprocess: str | None = None
    preprocess_proved: bool = True


@dataclass(frozen=True)
class InputSpec:
    """The dataset, a file or a folder of files. ``key`` None: the only array in the file, or x.

    ``scale``: what unsigned bytes are multiplied by, or None.
    """

    path: Path
    key: str | tuple[str, ...] | None
    labels: str | None
    scale: float | None = None


@dataclass(frozen=True)
class SplitSpec:
    strategy: str
    replicas: int = 2
    capacity: str = "memory"
    reassign: bool = True


@dataclass(frozen=True)
class AuditSpec:
    """At ``confidence``, a worker has no more than ``undetected_bad_rows`` wrong rows without being caught."""

    undetected_bad_rows: int
    confidence: float = 0.99


@dataclass(frozen=True)
class ProofSpec:
    """``tolerance`` is absolute, in units of the output; None: 0.01, or what the samples need.

    ``coverage`` is the part of the rows that is proved, with ``audit`` about that. ``beacon`` is
    absolute; None: rank 0 draws by its own randomness. ``rows_per_proof`` and ``scale`` (bits)
    None: chosen by the circuit plan. ``srs`` None: made by rank 0.
    """

    coverage: float = 1.0
    audit: AuditSpec | None = None
    beacon: Path | None = None
    beacon_wait_s: float = 3600.0
    recheck: float = 0.0
    system: str = "ezkl"
    slices: str = "1"
    inputs: str = "public"
    bounded_inputs: bool = False
    private_weights: bool = False
    srs: Path | None = None
    srs_sha256: str | None = None
    tolerance: float | None = None
    agreement: float = 0.995
    fallback: bool = True
    timeout_s: float = 600.0
    max_rejections: int = 1
    strict: bool = True
    rows_per_proof: int | None = None
    scale: int | None = None

    @property
    def hides_weights(self) -> bool:
        """Whether proofs themselves hide the weights: batch proofs can, of ezkl's there may be few."""
        return self.system == "batch" and self.private_weights

    @property
    def slices_asked(self) -> int | None:
        """Into how many slices the model is to be cut; None: into as few as fit memory, where the whole does not."""
        return None if self.slices == "auto" else int(self.slices)

    @property
    def srs_file(self) -> SrsFile | None:
        """The ceremony's file; None where rank 0 makes the SRS."""
        return SrsFile(self.srs, self.srs_sha256.lower()) if self.srs and self.srs_sha256 else None


@dataclass(frozen=True)
class CombineSpec:
    strategy: str = "average"
    input: str = "logits"


@dataclass(frozen=True)
class RankSpec:
    """One rank's machine. ``host`` None: any host that has no description of its own left."""

    node_id: str
    host: str | None
    device: str
    memory_gb: float


@dataclass(frozen=True)
class ClusterSpec:
    """``aggregator_computes`` None: rank 0 computes only when it is alone."""

    aggregator_computes: bool | None = None
    ranks: tuple[RankSpec, ...] = ()


@dataclass(frozen=True)
class OutputSpec:
    """``signing_key`` None: the file is sealed, and not signed."""

    path: Path
    signing_key: Path | None = None


@dataclass(frozen=True)
class JobSpec:
    """A job that was checked. Paths in the sections are absolute.

    ``path`` is the job file as it was given, ``given`` its text, ``overrides`` the
    command line's ``--set``, ``sample`` its ``--input`` (absolute), ``values`` the resolved
    job, ``marks`` where each key stands.
    """

    name: str
    model: ModelSpec
    input: InputSpec
    split: SplitSpec
    proof: ProofSpec
    combine: CombineSpec
    output: OutputSpec
    cluster: ClusterSpec
    path: Path
    given: str
    overrides: tuple[str, ...] = ()
    sample: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    marks: Mapping[str, str] = field(default_factory=dict, repr=False)

    def resolved(self) -> dict[str, Any]:
        """The job with every default applied, JSON-able; paths as written, relative to the job file."""
        return copy.deepcopy(dict(self.values))

    def resolved_yaml(self) -> str:
        """``resolved()`` as a job file that says the same from the same folder."""
        # All ASCII: with allow_unicode PyYAML 6 writes a NEL as it is, and reads it back as a space.
        return yaml.safe_dump(self.resolved(), sort_keys=False)

    def where(self, key: str) -> str:
        """``file:line`` or the option that a key's value, or else its section, comes from."""
        while key and key not in self.marks:
            key = key.rpartition(".")[0]
        return self.marks.get(key, str(self.path))


def load_job(
    path: Path | str, overrides: Sequence[str] = (), output: Path | None = None, input: Path | None = None
) -> JobSpec:
    """Read and check a job file. Raises JobError with all faults, in the order of file and line.

    ``overrides`` are ``--set``'s texts, ``section.key=value``, applied in order. ``output``
    replaces ``output.path``. ``input`` becomes ``sample``, data that stand in for the job's,
    whose shape is still needed. Paths in the job file
    are relative to its folder, paths in these three to the current folder.
    """
    path = Path(path)
    root, given, faults = read_layers(path, overrides, output)
    if input is not None and (problem := missing(input)):
        faults.append(Fault(f"--input {input}", "", problem))
    values = Values()
    if root is not None:
        values = read_values(root)
        if values.of.get("job.name", "") is None:
            values.of["job.name"] = _folder_name(path)
        faults = faults + values.faults + list(check(values, path))
    if faults:
        raise JobError(*sorted(dict.fromkeys(faults), key=_order))
    spec = _build(values, path, given, tuple(overrides))
    return spec if input is None else replace(spec, sample=input.absolute())


def _folder_name(path: Path) -> str:
    name = "".join(c for c in path.absolute().parent.name if c.isprintable())
    return name.encode("utf-8", "ignore")[:LABEL_BYTES].decode("utf-8", "ignore").strip() or "job"


def _order(fault: Fault) -> tuple[str, int]:
    file, _, line = fault.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (fault.where, 0)


def _build(values: Values, path: Path, given: str, overrides: tuple[str, ...]) -> JobSpec:
    of = values.of
    folder = path.absolute().parent

    def section(name: str) -> dict[str, Any]:
        return {key.partition(".")[2]: value for key, value in of.items() if key.startswith(name + ".")}

    def absolute(written: str | None) -> Path | None:
        return None if written is None else Path(os.path.normpath(folder / written))

    resolved: dict[str, Any] = {name: copy.deepcopy(section(name)) for name in SECTIONS}
    resolved["cluster"]["ranks"] = list(resolved["cluster"]["ranks"])
    model, data, output, proof = section("model"), section("input"), section("output"), section("proof")
    if proof["audit"] is not None:
        proof["audit"] = AuditSpec(**proof["audit"])
        proof["coverage"] = fraction(proof["audit"].undetected_bad_rows, proof["audit"].confidence)
    elif proof["coverage"] is None:
        proof["coverage"] = resolved["proof"]["coverage"] = 1.0
    proof["beacon"] = absolute(proof["beacon"])
    proof["srs"] = absolute(None if proof["srs"] == "own" else proof["srs"])
    key = tuple(data["key"]) if isinstance(data["key"], list) else data["key"]
    return JobSpec(
        name=of["job.name"],
        model=ModelSpec(model["flax"], model["args"], absolute(model["weights"]), model["hash"], model["preprocess"],
                        model["preprocess_proved"]),
        input=InputSpec(absolute(data["path"]) or folder, key, data["labels"], data["scale"]),
        split=SplitSpec(**section("split")),
        proof=ProofSpec(**proof),
        combine=CombineSpec(**section("combine")),
        output=OutputSpec(absolute(output["path"]) or folder, absolute(output["signing_key"])),
        cluster=ClusterSpec(
            of["cluster.aggregator_computes"], tuple(RankSpec(**r) for r in of["cluster.ranks"])
        ),
        path=path,
        given=given,
        overrides=overrides,
        values=resolved,
        marks=dict(values.marks),
    )


def journal_path(output: Path) -> Path:
    """The journal beside a results file, from which it is made."""
    return output.with_name(output.name + ".journal")


def check_output(job: JobSpec, resume: bool, force: bool) -> None:
    """Raise JobError if results, or the journal of a job that was stopped, are there already.

    ``resume`` goes on with them (and starts afresh where there are none, so that one script
    serves first run and requeue); ``force`` replaces them; not both.
    """
    if resume and force:
        raise JobError("--resume and --force exclude each other: go on with the results, or replace them")
    kept = [job.output.path, journal_path(job.output.path)]
    if job.proof.system == "batch" and job.proof.inputs == "committed":
        kept.append(key_path(job.output.path))
    found = next((p for p in kept if os.path.lexists(p)), None)
    if found is not None and not (resume or force):
        shown = os.path.relpath(found)
        raise JobError(
            Fault(
                job.where("output.path"),
                "output.path",
                f"{shown} exists; --resume goes on with it, --force replaces it, -o writes elsewhere",
            )
        )
