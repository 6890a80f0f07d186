"""The job file's schema, as data: one table of keys, from which everything else follows.

Validation (``job_values``), defaults, ``--set`` and the tables in JOB.md and the README are all made
from ``KEYS``; ``python -m enclaveml.schema`` prints that table.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

HEX_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
FLAX = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*|.*\.py):(?P<name>[^\W\d]\w*)")
LABEL_BYTES = 255
# Words of the same meaning, where the nearest spelling would mislead (mean: median, gpu: cpu).
SYNONYMS = {"mean": "average", "gpu": "cuda", "mps": "metal"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``open`` leaves out ``low`` itself."""

    low: float
    high: float | None = None
    open: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open else value >= self.low
        return above and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is not None:
            closed = f"from {self.low:g} to {self.high:g}"
            return f"above {self.low:g}, up to {self.high:g}" if self.open else closed
        return f"above {self.low:g}" if self.open else f"from {self.low:g}"


@dataclass(frozen=True)
class Pattern:
    """Text that matches ``regex`` as a whole; ``words`` say so to people."""

    regex: re.Pattern[str]
    words: str

    def holds(self, value: str) -> bool:
        return self.regex.fullmatch(value) is not None

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Label:
    """Printable text of at most ``LABEL_BYTES`` bytes of UTF-8: names travel in envelopes."""

    def holds(self, value: str) -> bool:
        return bool(value.strip()) and value.isprintable() and len(value.encode()) <= LABEL_BYTES

    def __str__(self) -> str:
        return f"printable text of 1 to {LABEL_BYTES} bytes"


@dataclass(frozen=True)
class Key:
    """One key of the job file.

    ``type`` is text, names (a text or a list of texts), path, flag, whole, number,
    mapping, ranks (a list of mappings, each with the keys of ``RANK_KEYS``) or audit (a
    mapping with those of ``AUDIT_KEYS``).
    ``default`` is the value as it would stand in YAML; None with ``required`` false
    means "not given", and ``default_words`` then says what happens.
    """

    path: str
    type: str
    default: Any
    unit: str
    meaning: str
    choices: tuple[str, ...] = ()
    check: Range | Pattern | Label | None = None
    required: bool = False
    default_words: str = ""

    @property
    def section(self) -> str:
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        return self.path.partition(".")[2]

    def allowed(self) -> str:
        """What may stand here, as error texts and the README say it."""
        if self.choices:
            return ", ".join(self.choices)
        if isinstance(self.check, Range):
            return f"a {'whole number' if self.type == 'whole' else 'number'} {self.check}"
        if self.check is not None:
            return str(self.check)
        return {
            "text": "text",
            "names": "text, or a list of texts",
            "path": "a path",
            "flag": "true or false",
            "whole": "a whole number",
            "number": "a number",
            "mapping": "a mapping of keyword arguments",
            "audit": "a mapping with " + " and ".join(k.path for k in AUDIT_KEYS),
            "ranks": "a list of mappings, each with " + ", ".join(k.path for k in RANK_KEYS),
        }[self.type]


# A table, so it is set as one.
# fmt: off
RANK_KEYS: tuple[Key, ...] = (
    Key("node_id", "text", None, "",
        "the rank's name in the log, the envelopes and the file; each one different",
        check=Label(), required=True),
    Key("host", "text", None, "",
        "the host that the entry is for, as the host names itself, with or without domain",
        check=Label(), default_words="any host that is left"),
    Key("device", "text", "cpu", "", "what the rank computes on", choices=("cpu", "cuda", "metal")),
    Key("memory_gb", "number", None, "GB", "the device's memory: the rank's capacity",
        check=Range(0, open=True), required=True),
)

AUDIT_KEYS: tuple[Key, ...] = (
    Key("undetected_bad_rows", "whole", None, "rows",
        "the most wrong rows that a worker may have without being caught",
        check=Range(0), required=True),
    Key("confidence", "number", 0.99, "", "at which the draws must show that", check=Range(0.5, 0.999999)),
)

KEYS: tuple[Key, ...] = (
    Key("job.name", "text", None, "", "the job's name, in the log, the envelopes and the file",
        check=Label(), default_words="the job file's folder"),
    Key("model.flax", "text", None, "",
        "the Flax model's class (NNX or Linen); a file is relative to the job file",
        check=Pattern(FLAX, "package.module:Class or file.py:Class"), required=True),
    Key("model.args", "mapping", {}, "", "keyword arguments for the class"),
    Key("model.weights", "path", None, "", "weights: .safetensors, .npz, Flax .msgpack or an Orbax checkpoint's folder",
        default_words="as the class initialises them"),
    Key("model.hash", "text", None, "",
        "the model hash that the model must have (`enclaveml hash` prints it)",
        check=Pattern(HEX_DIGEST, "64 hexadecimal digits"), default_words="any"),
    Key("model.preprocess", "text", None, "",
        "a function of the rows (B, ...) that is applied before the model: normalisation, reshaping; a file is relative to the job file",
        check=Pattern(FLAX, "package.module:function or file.py:function"), default_words="none"),
    Key("model.preprocess_proved", "flag", True, "",
        "the function is part of the model that is exported, hashed and proved (it must be JAX's then); `false`: it lies outside of the "
        "proof, rank 0 applies it with numpy, and verified rows speak of preprocessed rows"),
    Key("input.path", "path", None, "",
        "the dataset: .npy, .npz, HDF5 or CSV, or a folder of such files; one row per sample", required=True),
    Key("input.key", "names", None, "", "array in an npz, dataset in an HDF5 file, columns of a CSV",
        default_words="the only array, or x"),
    Key("input.labels", "text", None, "", "true classes (whole numbers: accuracy in log, file and report) or values (mean absolute error in the report) "
        "beside the rows",
        default_words="none"),
    Key("input.scale", "number", None, "",
        "what uint8 values are multiplied by (0.00392157: pixels from 0 to 1); proofs are about the products",
        check=Range(0, open=True), default_words="uint8 values as they are"),
    Key("split.strategy", "text", "by_capacity", "",
        "equal shards, shards in proportion to capacity, or each row to several workers",
        choices=("equal", "by_capacity", "redundant")),
    Key("split.replicas", "whole", 2, "workers", "how many workers get each row; `redundant` only",
        check=Range(1)),
    Key("split.capacity", "text", "memory", "",
        "what shards are in proportion to: the ranks' memory, as `cluster` has it or else as measured; only as "
        "`cluster` has it; or how fast each rank was so far, after a first small round",
        choices=("memory", "declared", "throughput")),
    Key("split.reassign", "flag", True, "", "give rows that failed, or that a slower worker has not begun, to another worker, which then sees them"),
    Key("proof.coverage", "number", None, "of rows", "the part of the rows that is proved; drawn after the "
                                                     "outputs are in",
        check=Range(0, 1), default_words="1, or what `proof.audit` needs"),
    Key("proof.audit", "audit", None, "", "instead of a coverage: as many rows of each worker as this bound needs",
        default_words="none"),
    Key("proof.beacon", "path", None, "",
        "file into which a public value is put once the outputs are sealed: the draw follows from both",
        default_words="rank 0's own randomness"),
    Key("proof.beacon_wait_s", "number", 3600.0, "s",
        "longest wait for that value; the job then ends with 75 and goes on with `--resume`",
        check=Range(0, open=True)),
    Key("proof.recheck", "number", 0.0, "of rows",
        "the part of the unproved rows that rank 0 computes itself, in float: a spot check, no proof",
        check=Range(0, 1)),
    Key("proof.system", "text", "ezkl", "",
        "how rows are proved: ezkl (zero-knowledge; any layers), or batch (thousands of rows in one proof, for dense layers and convolutions with ReLU, "
        "GELU, tanh and the like in 8 bits; integrity only unless proof.inputs is committed, and weights show without proof.private_weights; new, and audited by nobody)",
        choices=("ezkl", "batch")),
    Key("proof.slices", "text", "1", "",
        "a model too large for one circuit is cut at layers into so many slices, each with a key and a proof of its own and linked by "
        "KZG commitments (SLICES.md); auto: as few as fit memory, where the whole model does not",
        check=Pattern(re.compile("auto|[1-9]|[1-5][0-9]|6[0-4]"), "auto, or a whole number from 1 to 64")),
    Key("proof.inputs", "text", "public", "",
        "what the proof shows of the inputs: values, a KZG commitment, a Poseidon hash (slow); "
        "inputs that are easily guessed can be found from a commitment or hash by trying; with proof.system batch values, or "
        "a commitment on which no guess can be tried (on outputs and weights it can)",
        choices=("public", "committed", "hashed")),
    Key("proof.bounded_inputs", "flag", False, "",
        "committed or hashed inputs are bounded by the circuit itself, for an outside audit: costs 1.4 times the "
        "proof and more; rank 0 knows its inputs and needs none of it; public inputs need none"),
    Key("proof.private_weights", "flag", False, "",
        "ezkl: make no more proofs of this model, over all jobs, than keep its weights from who reads them; batch (with proof.inputs: "
        "committed): proofs hide the weights, which each run registers anew, and to who cannot tie the circuit's id to a model say only that some network "
        "of these shapes gave these outputs (PRIVACY.md); workers see the weights in any case, and who knows the inputs can fit a "
        "network to the outputs"),
    Key("proof.srs", "path", None, "",
        "a public ceremony's SRS file (kzgNN.srs) with at least as many rows as the circuit, in the format that "
        "ezkl reads; made here, it convinces rank 0 and nobody else",
        default_words="`own`: made by rank 0"),
    Key("proof.srs_sha256", "text", None, "", "the SHA-256 of that file, as the ceremony publishes it",
        check=Pattern(HEX_DIGEST, "64 hexadecimal digits"), default_words="needed with `proof.srs`"),
    Key("proof.tolerance", "number", None, "output",
        "largest absolute deviation of a float output from the proved one",
        check=Range(0, open=True), default_words="0.01, or twice what the sample rows need, if that need is at most a hundredth of an output's largest value; batch: three times what they need"),
    Key("proof.agreement", "number", 0.995, "of rows",
        "least part of the sample rows on which proved and float outputs have the same argmax, else the model "
        "is refused; nothing to ask of one output, 0 where outputs are no classes",
        check=Range(0, 1)),
    Key("proof.fallback", "flag", True, "",
        "make a second, wider circuit for rows that the first cannot prove"),
    Key("proof.timeout_s", "number", 600.0, "s", "longest time for one proof", check=Range(0, open=True)),
    Key("proof.max_rejections", "whole", 1, "proofs",
        "rejected proofs after which a worker gets no more rows",
        check=Range(1)),
    Key("proof.strict", "flag", True, "", "exit status 3 if any row that was to be proved ends unverified"),
    Key("proof.rows_per_proof", "whole", None, "rows", "rows in one proof; with `batch` a power of two from 4", check=Range(2, 65536),
        default_words="the circuit plan's choice"),
    Key("proof.scale", "whole", None, "bits", "fractional bits of the fixed-point numbers in the proof",
        check=Range(1, 30), default_words="the circuit plan's choice"),
    Key("combine.strategy", "text", "average", "",
        "how results become one: a row's replicas, and the rows of the job",
        choices=("average", "weighted_average", "majority_vote", "soft_vote", "median")),
    Key("combine.input", "text", "logits", "", "what the model's outputs are",
        choices=("logits", "probabilities")),
    Key("cluster.aggregator_computes", "flag", None, "", "whether rank 0 computes besides aggregating",
        default_words="only when it is alone"),
    Key("cluster.ranks", "ranks", (), "",
        "the machine, an entry for each rank", default_words="not described"),
    Key("output.path", "path", "results.h5", "", "the results file, HDF5"),
    Key("output.signing_key", "path", None, "",
        "Ed25519 private key that signs the results file's seal: 32 raw bytes, or OpenSSH without a passphrase",
        default_words="not signed"),
)
# fmt: on

SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(key.section for key in KEYS))
BY_PATH: dict[str, Key] = {key.path: key for key in KEYS}


def names(section: str) -> tuple[str, ...]:
    """The names of a section's keys, in the table's order."""
    return tuple(key.name for key in KEYS if key.section == section)


def nearest(name: str, among: Iterable[str]) -> str | None:
    """The name that was probably meant, or None: case and ``-`` do not count."""
    plain = {candidate.lower().replace("-", "_"): candidate for candidate in reversed(list(among))}
    written = name.strip().lower().replace("-", "_")
    if SYNONYMS.get(written) in plain:
        return plain[SYNONYMS[written]]
    close = difflib.get_close_matches(written, list(plain), n=1, cutoff=0.6)
    return plain[close[0]] if close else None


#: The keys that most jobs have, for the README's short table.
MOST_USED = ("model.flax", "model.weights", "input.path", "input.key", "input.labels", "split.strategy", "proof.coverage",
             "proof.system", "proof.inputs", "output.path")


def short_table() -> str:
    """The keys used most as a Markdown table for the README: key, default, meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for cells in (_cells(BY_PATH[path], path) for path in MOST_USED):
        choices = f" ({cells[5]})" if BY_PATH[cells[0]].choices else ""
        rows.append(f"| `{cells[0]}` | {cells[2]} | {cells[4]}{choices} |")
    return "\n".join(rows) + "\n"


def keys_table() -> str:
    """The keys as a Markdown table for JOB.md: key, type, default, unit, meaning, allowed."""
    rows = ["| key | type | default | unit | meaning | allowed |", "|---|---|---|---|---|---|"]
    for key in KEYS:
        if key.section == "cluster" and not any(row.startswith("| `cluster") for row in rows):
            rows.append(
                "| `cluster` | path or mapping | not described |  | the machine: a YAML file with "
                "the keys below "
                "(as in `configs/`), or the keys themselves | a path, or a mapping |"
            )
        rows.append(_table_row(key, key.path))
        if key.type == "ranks":
            rows += [_table_row(entry, f"{key.path}[].{entry.path}") for entry in RANK_KEYS]
        if key.type == "audit":
            rows += [_table_row(entry, f"{key.path}.{entry.path}") for entry in AUDIT_KEYS]
    return "\n".join(rows) + "\n"


def _table_row(key: Key, path: str) -> str:
    cells = _cells(key, path)
    return f"| `{cells[0]}` | " + " | ".join(cells[1:]) + " |"


def _cells(key: Key, path: str) -> tuple[str, str, str, str, str, str]:
    """Path, type, default, unit, meaning, allowed."""
    if key.required:
        default = "**required**"
    elif key.default_words:
        default = key.default_words
    elif key.type == "flag":
        default = f"`{str(key.default).lower()}`"
    elif isinstance(key.default, float):
        default = f"`{key.default:g}`"
    else:
        default = f"`{key.default}`"
    allowed = ", ".join(f"`{choice}`" for choice in key.choices) or key.allowed()
    kinds = {"ranks": "list", "audit": "mapping", "names": "text or list", "flag": "boolean", "whole": "integer"}
    kind = kinds.get(key.type, key.type)
    return path, kind, default, key.unit, key.meaning, allowed


if __name__ == "__main__":
    import sys

    print(short_table() if sys.argv[1:] == ["--short"] else keys_table(), end="")
