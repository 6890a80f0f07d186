"""What a results file contains, as data: statuses, datasets, their types, shapes, meanings and units.

Letters: N rows of the dataset, D flat outputs per row, A answers (one row given to one rank once;
kept where rows go to several ranks), M bundles (one envelope each), K rows over all bundles,
Y bytes of all envelopes, P lines of the table of ranks, W draws (coverage
below 1), L rows over all draws, S sessions that drew by a beacon, Z outputs sealed for it, R rechecks,
H rows over all rechecks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

#: Value of the root attribute ``format``, and the version that this package writes and reads.
FORMAT, FORMAT_VERSION = "EnclaveML results", 1


class RowStatus(IntEnum):
    """State of one row. The numbers are the file format (uint8, an HDF5 enum)."""

    PENDING = 0  # no proof asked for or seen yet
    VERIFIED = 1  # a proof of this row was verified and its float output is within tolerance
    REJECTED = 2  # its proof does not verify, or is about something else
    INCONSISTENT = 3  # its proof verifies, but the float output is beyond the tolerance
    UNPROVED = 4  # not drawn (coverage below 1); of an answer also: another rank's proof came first
    SUSPECT = 5  # not drawn, and computed by a rank that was caught lying
    LOST = 6  # no rank was left to compute it, or none could prove it


class FileStatus(str, Enum):
    """State of a whole job, the root attribute ``status``."""

    RUNNING = "running"  # no end was written: the job runs, or was killed
    RESUMABLE = "resumable"  # stopped early; --resume goes on
    COMPLETE = "complete"  # every row is verified
    COMPLETE_UNVERIFIED = "complete_unverified"  # ended by its own policy with rows unverified
    FAILED = "failed"


def status_names() -> dict[str, int]:
    """Name to number of every row status, as HDF5 enums spell them (``verified``: 1)."""
    return {status.name.lower(): int(status) for status in RowStatus}


@dataclass(frozen=True)
class Column:
    """One dataset of a results file.

    ``dtype`` is a numpy name, ``status`` (the enum above) or ``text`` (fixed-length UTF-8);
    ``shape`` is spelt in the letters above.
    """

    path: str
    dtype: str
    shape: tuple[str | int, ...]
    long_name: str
    units: str = "1"


OUTPUTS = (
    Column("outputs", "float32", ("N", "D"), "what the model said on the device that computed the row"),
    Column(
        "proved_outputs",
        "float64",
        ("N", "D"),
        "the output that the row's proof is about, dequantised; NaN without a valid proof",
    ),
)

ROWS = (
    Column("row/status", "status", ("N",), "state of the row"),
    Column("row/rank", "int32", ("N",), "MPI rank whose answer this is; -1 for none"),
    Column(
        "row/session",
        "int32",
        ("N",),
        "start (0) or resume (1, 2, ...) that the rank belongs to; -1 for none",
    ),
    Column("row/bundle", "int64", ("N",), "index into /proofs of the row's proof; -1 for none"),
    Column("row/attempts", "int32", ("N",), "how often the row was given to a rank"),
    Column("row/deviation", "float64", ("N",), "largest |proved output - output| of the row"),
    Column(
        "row/argmax_differs",
        "uint8",
        ("N",),
        "1 where output and proved output have different largest elements",
    ),
)

REPLICAS = (
    Column("replicas/row", "int64", ("A",), "row of the dataset", "row"),
    Column("replicas/rank", "int32", ("A",), "MPI rank that computed it"),
    Column("replicas/session", "int32", ("A",), "start (0) or resume (1, 2, ...) that the rank belongs to"),
    Column("replicas/status", "status", ("A",), "state of this answer"),
    Column("replicas/bundle", "int64", ("A",), "index into /proofs of this answer's proof; -1 for none"),
    Column("replicas/output", "float32", ("A", "D"), "what the model said on that rank's device"),
    Column(
        "replicas/proved_output",
        "float64",
        ("A", "D"),
        "the output that this answer's proof is about; NaN without a valid proof",
    ),
)

PROOFS = (
    Column("proofs/bytes", "uint8", ("Y",), "the envelopes, one after the other"),
    Column(
        "proofs/offset",
        "int64",
        ("M+1",),
        "where each envelope starts in /proofs/bytes, then its length",
        "byte",
    ),
    Column(
        "proofs/rows", "int64", ("K",), "the dataset's rows in each bundle, one bundle after the other", "row"
    ),
    Column("proofs/row_status", "status", ("K",), "what this proof made of each of those rows"),
    Column(
        "proofs/rows_offset", "int64", ("M+1",), "where each bundle starts in /proofs/rows, then its length"
    ),
    Column("proofs/id", "int64", ("M",), "number of the bundle in its session, as the log has it"),
    Column("proofs/rank", "int32", ("M",), "MPI rank that sent the envelope"),
    Column("proofs/session", "int32", ("M",), "start (0) or resume (1, 2, ...) that the rank belongs to"),
    Column("proofs/attempt", "int32", ("M",), "attempt at the rows, from 1"),
    Column("proofs/round", "int64", ("M",), "round of the job"),
    Column("proofs/circuit_id", "text", ("M",), "circuit that it was proved with, under /keys"),
    Column("proofs/witness_seconds", "float64", ("M",), "time for the witness, as its rank says; NaN if unknown", "s"),
    Column("proofs/prove_seconds", "float64", ("M",), "time for the proof, as its rank says; NaN if unknown", "s"),
    Column("proofs/verify_seconds", "float64", ("M",), "time that the aggregator took to verify", "s"),
    Column("proofs/judged", "float64", ("M",), "when the verdict was reached, since the session began", "s"),
    Column("proofs/verdict", "text", ("M",), "the aggregator's verdict in words"),
)

RANKS = (
    Column("ranks/session", "int32", ("P",), "start (0) or resume (1, 2, ...) that the rank belongs to"),
    Column("ranks/rank", "int32", ("P",), "MPI rank"),
    Column("ranks/node_id", "text", ("P",), "node of the job file that the rank is"),
    Column("ranks/host", "text", ("P",), "host name"),
    Column("ranks/device", "text", ("P",), "device that the model ran on"),
    Column("ranks/memory_gb", "float64", ("P",), "memory declared for the rank", "GB"),
    Column("ranks/share", "float64", ("P",), "share of the rows planned for the rank"),
    Column("ranks/rows", "int64", ("P",), "answers gathered from the rank", "row"),
    Column("ranks/rows_verified", "int64", ("P",), "answers of the rank that were verified", "row"),
    Column("ranks/proofs", "int64", ("P",), "envelopes received from the rank"),
    Column("ranks/rejections", "int64", ("P",), "envelopes or reports of the rank that were rejected"),
    Column("ranks/rows_per_second", "float64", ("P",), "rows that it proved per second, or inferred where nothing is proved"),
    Column("ranks/rows_moved_in", "int64", ("P",), "rows that it took over from ranks that had not begun them", "row"),
    Column("ranks/rows_moved_out", "int64", ("P",), "rows not begun that other ranks took over", "row"),
    Column("ranks/copies", "int64", ("P",), "bundles in flight at other ranks that it was given as well"),
    Column("ranks/discarded", "int64", ("P",), "its bundles of which another rank's proof came first"),
    Column("ranks/seconds_inferring", "float64", ("P",), "time in the model", "s"),
    Column("ranks/seconds_proving", "float64", ("P",), "time in the provers, for proofs and single slices that they finished", "s"),
    Column("ranks/seconds_waiting", "float64", ("P",), "time without work", "s"),
    Column(
        "ranks/fate",
        "text",
        ("P",),
        "how it ended for the rank: ok, lost, expelled; empty if nothing is known",
    ),
    Column("ranks/fate_reason", "text", ("P",), "why it was lost or expelled"),
    Column("ranks/fate_time", "text", ("P",), "when it was lost or expelled (ISO 8601 UTC)"),
    Column(
        "ranks/wrong_at_most",
        "int64",
        ("P",),
        "unproved rows of the rank that can be wrong at most, by its draws; -1 where there are none to speak of",
        "row",
    ),
    Column("ranks/claim", "text", ("P",), "what the rank's draws say of its rows, in words"),
)

DRAWS = (
    Column("draws/rank", "int32", ("W",), "MPI rank whose rows were drawn"),
    Column("draws/session", "int32", ("W",), "start (0) or resume (1, 2, ...) that the rank belongs to"),
    Column("draws/round", "int64", ("W",), "round of the job"),
    Column("draws/start", "int64", ("W",), "first row of the round", "row"),
    Column("draws/stop", "int64", ("W",), "row behind the last of the round", "row"),
    Column("draws/seed", "text", ("W",), "seed of the draw (hex)"),
    Column("draws/of", "int64", ("W",), "rows that were drawn from", "row"),
    Column("draws/drawn", "int64", ("W",), "rows to be proved", "row"),
    Column("draws/confidence", "float64", ("W",), "at which /ranks/claim says what follows from it"),
    Column("draws/rows", "int64", ("L",), "the rows drawn, ascending, one draw after the other", "row"),
    Column(
        "draws/rows_offset", "int64", ("W+1",), "where each draw starts in /draws/rows, then its length"
    ),
)

BEACON = (
    Column("beacon/session", "int32", ("S",), "start (0) or resume (1, 2, ...) that drew by the beacon"),
    Column("beacon/root", "text", ("S",), "SHA-256 (hex) of the leaves: the outputs before the draw"),
    Column("beacon/value", "text", ("S",), "the public value, later than the outputs"),
    Column("beacon/rows", "int64", ("Z",), "the rows that were drawn from, by rank and row", "row"),
    Column("beacon/ranks", "int32", ("Z",), "MPI rank whose output it is"),
    Column("beacon/leaf", "uint8", ("Z", 32), "SHA-256 of rank, row and output"),
    Column("beacon/rows_offset", "int64", ("S+1",), "where each session starts in /beacon/rows, then its length"),
)

RECHECKS = (
    Column("rechecks/rank", "int32", ("R",), "MPI rank whose rows rank 0 computed itself"),
    Column("rechecks/session", "int32", ("R",), "start (0) or resume (1, 2, ...) that the rank belongs to"),
    Column("rechecks/round", "int64", ("R",), "round of the job"),
    Column("rechecks/of", "int64", ("R",), "unproved rows that they were drawn from", "row"),
    Column("rechecks/differ", "int64", ("R",), "rows that were further off than allowed", "row"),
    Column("rechecks/allowed", "float64", ("R",), "largest deviation allowed between two float outputs"),
    Column("rechecks/deviation", "float64", ("R",), "largest deviation of the rows that were not"),
    Column("rechecks/rows", "int64", ("H",), "the rows computed, ascending, one line after the other", "row"),
    Column("rechecks/rows_offset", "int64", ("R+1",), "where each line starts in /rechecks/rows, then its length"),
)

#: The rows, where proofs show them (public inputs); float32 or int32, (N, ...) as the model takes them.
INPUTS = Column("inputs", "float32", ("N", "..."), "the rows that the model was given")

#: Names that the combining step is expected to write; others are allowed and described by their name.
COMBINED = (
    Column("combined/result", "float64", ("D",),
           "the job's one answer: all verified rows combined (majority_vote: one value, the class)"),
    Column("combined/count", "int64", (), "verified rows that took part", "row"),
    Column("combined/votes", "int64", ("C",), "majority_vote: how many rows chose each class", "row"),
    Column("combined/accuracy", "float64", (),
           "with class labels: the share of rows with a verified output whose class is the label"),
    Column("combined/outputs", "float64", ("N", "D"),
           "redundant: the verified answers of each row combined; NaN without any"),
    Column("combined/votes_by_row", "int64", ("N", "C"),
           "majority_vote and redundant: how many answers chose each class"),
)

#: What a circuit's group under /keys has, by the system that the circuit is of.
KEYS = {"ezkl": ("vk", "settings", "srs", "manifest"), "batch": ("vk", "settings", "weights_proof", "manifest")}
KEY_NAMES = {
    "vk": "verification key",
    "settings": "circuit settings (JSON)",
    "srs": "the part of the structured reference string that verification reads",
    "weights_proof": "the proof that the committed weights are int8",
    "manifest": "the circuit's manifest (JSON)",
}

#: Root attributes and their types. All are always there.
ATTRIBUTES: dict[str, type] = {
    "format": str,
    "format_version": int,
    "status": str,  # a FileStatus
    "exit_code": int,  # of the program; -1 while it runs
    "message": str,  # last log line
    "job": str,  # resolved job (YAML)
    "job_given": str,  # job file as written
    "inputs": str,  # public | committed | hashed
    "strategy": str,  # equal | by_capacity | redundant
    "versions": str,  # JSON: versions, host and command of the last session
    "model_hash": str,  # SHA-256 hex of the canonical ONNX document
    "dataset_fingerprint": str,  # SHA-256 hex; empty unless inputs are public (a hash of few rows leaks them)
    "started": str,  # ISO 8601 UTC
    "finished": str,  # ISO 8601 UTC, empty while it runs
    "counter": int,  # rounds completed
    "rows": int,  # N
    "outputs": int,  # D
    "sessions": str,  # JSON: [{started, versions}], one per start and resume
}
