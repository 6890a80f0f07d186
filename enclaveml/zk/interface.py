"""What a proof system offers: prepare a circuit for a model, prove bundles of rows, verify them.

Letters: N rows in the dataset, B rows per bundle (one proof), n <= B rows actually in a bundle (the
rest are copies of its last row), D flat outputs per row, S sample rows, ``row_shape`` the shape of
one input row.

The aggregator calls :meth:`ProofSystem.prepare` once, sends the circuit's folder to the workers,
workers call :meth:`ProofSystem.prover`, the aggregator :meth:`ProofSystem.verifier`. Nothing here
imports JAX, MPI or a proof system.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.srs_file import SrsFile

#: Codes of ``Verdict.status``; the numbers are those of the results file's row status.
VERIFIED, REJECTED, INCONSISTENT = 1, 2, 3

#: The proof systems (job key ``proof.system``), and what is said of one whose proofs hide nothing.
SYSTEMS = ("ezkl", "batch")
INTEGRITY_ONLY = "integrity only, not zero-knowledge"
WEIGHTS_SHOW = "inputs hidden, weights not"
#: Of proofs that hide the weights too: there may be a network for any outputs, so that much hangs on the circuit's id (AUDIT.md).
WEIGHTS_HIDDEN = "inputs and weights hidden: some network of these shapes, unless its circuit's id is tied to a model"

#: ``Circuit.system`` of what ``proof.system: ezkl`` makes of a model that is cut into slices (SLICES.md).
SLICED = "ezkl-slices"

#: Tolerance of float outputs where the job gives none, and the model is accurate enough or nothing is proved.
DEFAULT_TOLERANCE = 0.01

#: How a circuit shows its inputs (job key ``proof.inputs``).
INPUT_MODES = ("public", "committed", "hashed")

#: Name of the document in a circuit's folder that :func:`load_circuit` reads.
MANIFEST = "circuit.json"

#: Files of circuits that hide their weights which nobody but ranks may have, nor a digest of them: the weights and the seed of what hides them.
SECRET_FILES = frozenset({"weights.int8", "weights.seed"})

#: What a job uses a circuit for: all rows, or those that the primary circuit cannot prove.
PRIMARY, FALLBACK = ROLES = ("primary", "fallback")

#: How a bundle with fewer than B rows is filled. Part of every ``circuit_id``.
PADDING = "repeat-last-row"


@dataclass(frozen=True)
class ModelFunction:
    """A model as the proof system sees it.

    ``apply`` maps rows (B, *row_shape) to flat outputs (B, D) float32, traceable by JAX at any B;
    ``dtype`` of the rows is float32 or int32. ``fingerprint`` is a hex digest of everything that
    ``apply`` depends on (code, arguments, weights): equal fingerprints mean the same function, and
    a cached circuit is found by it without exporting the model again. Empty: never cached. ``output_sizes``: where the
    model has several outputs, how many of the D columns each has, in order.
    """

    apply: Callable[[Any], Any]
    row_shape: tuple[int, ...]
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    fingerprint: str = ""
    output_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class CircuitRequest:
    """What a job asks of a circuit, whichever system makes it. None means: chosen by the system's plan.

    tolerance: largest allowed |proved - float| per output, absolute. agreement: least share of the sample
    rows on which proved and float outputs must have the same argmax (D = 1 has no argmax: the share is 1,
    and the tolerance alone decides). expected_rows: how many rows
    the circuit will prove in all (B is not chosen larger than pays). memory_gb: GB (1e9 bytes) that
    set-up, or the ``children`` of one rank together, may take. cores: how many children will prove
    at a time, over all ranks. processors: how many of those get a core of their own, fewer where ranks
    crowd a node (0: all, or this machine's where each rank has one child). bounded: committed or
    hashed inputs are bounded by the circuit itself. srs: a ceremony's file (None: made here). slices: into how many linked
    slices the model is cut (SLICES.md); 1: not at all; None: into as few as fit memory, where the whole does not.
    hides_weights: from whoever has proofs, by a registration of the job's own; registration: the circuit_id of the one to go on with
    ("": a new one).
    """

    inputs: str = "public"
    bounded: bool = False
    srs: SrsFile | None = None
    slices: int | None = 1
    tolerance: float | None = None
    agreement: float = 0.995
    rows_per_proof: int | None = None
    scale: int | None = None
    expected_rows: int = 1
    memory_gb: float = 8.0
    cores: int = 1
    children: int = 1
    processors: int = 0
    setup_timeout_s: float = 3600.0
    hides_weights: bool = False
    registration: str = ""

    def __post_init__(self) -> None:
        if self.inputs not in INPUT_MODES:
            raise ValueError(f"inputs is {self.inputs!r}; allowed: {', '.join(INPUT_MODES)}")

    @property
    def bounds_inputs(self) -> bool:
        """Whether the circuit bounds its inputs: public ones are there for whoever verifies to look at."""
        return self.bounded and self.inputs != "public"


def caution_of(system: str, inputs: str, hides_weights: bool = False) -> str:
    """What must be said of such proofs wherever they are spoken of; "" where there is nothing to say."""
    if system != "batch":
        return ""
    if hides_weights:
        return WEIGHTS_HIDDEN
    return INTEGRITY_ONLY if inputs == "public" else WEIGHTS_SHOW


@dataclass(frozen=True)
class Circuit:
    """A circuit that was set up for one model, with its keys in ``folder``.

    ``files`` maps the name of each file in ``folder`` to its SHA-256 (hex); they are all that a
    prover or a verifier needs. ``deviation`` is the largest |witness - float| over ``samples``
    sample rows, ``agreement`` the share of them with the same argmax. ``inputs_bounded`` says
    whether the circuit itself bounds the inputs' range; where it is False, the statement holds for
    a verifier who fixes the input values himself. ``proof_bytes`` is the exact length of a proof.
    ``measured`` holds seconds and peak memory (bytes) seen at preparation, ``role`` what the aggregator
    uses the circuit for (of ROLES); both are in no hash. ``hides_weights``: proofs show nothing of the weights either, and
    ``model_hash`` is mixed with a secret, so that no guess of the weights can be tried on it. As ``"weights": "hidden"`` it
    stands in such circuits' manifests alone.
    """

    system: str
    version: str
    circuit_id: str
    model_hash: str
    rows: int
    outputs: int
    row_shape: tuple[int, ...]
    dtype: str
    input_scale: int
    output_scale: int
    tolerance: float
    inputs: str
    inputs_bounded: bool
    deviation: float
    agreement: float
    samples: int
    logrows: int
    proof_bytes: int
    srs_origin: str
    settings: Mapping[str, Any]
    measured: Mapping[str, float]
    files: Mapping[str, str]
    folder: Path
    role: str = PRIMARY
    hides_weights: bool = False

    @property
    def caution(self) -> str:
        """What must be said wherever this circuit's proofs are spoken of; "" where there is nothing to say."""
        return caution_of(self.system, self.inputs, self.hides_weights)

    @property
    def masked(self) -> bool:
        """Whether its proofs mask their inputs with an order's input key."""
        return self.system == "batch" and self.inputs == "committed"

    @property
    def bound(self) -> str:
        """How the circuit bounds its inputs, as its ``circuit_id`` has it; "" where it does not."""
        return str(self.settings.get("bound", ""))

    @property
    def slices(self) -> int:
        """Of how many linked slices the circuit is; 1 for a whole one."""
        return len(self.settings["slices"]) if self.system == SLICED else 1

    def slice_bytes(self, number: int) -> int:
        """The exact length of one slice's proof (from 0), of a circuit in slices that this process made or loaded."""
        return int(self.settings["slices"][number]["proof_bytes"])

    def manifest(self) -> dict[str, Any]:
        """Everything but the folder, as JSON can hold it; :func:`load_circuit` reads it back."""
        document = asdict(self)
        del document["folder"]
        if document.pop("hides_weights"):
            document["weights"] = "hidden"
        document["row_shape"] = list(self.row_shape)
        document["format"] = "enclaveml-circuit-1"
        return document

    def published(self) -> dict[str, Any]:
        """The manifest for a results file: where weights are hidden without digests of what nobody may see, on which guesses can be tried."""
        document = self.manifest()
        if self.hides_weights:
            document["files"] = {name: digest for name, digest in self.files.items() if name not in SECRET_FILES}
        return document

    def check_files(self, names: tuple[str, ...] | None = None) -> None:
        """Compare the SHA-256 of the files (all, or ``names``) with the manifest.

        Raises EnvironmentFault naming the first file that is missing or differs.
        """
        for name in names if names is not None else tuple(self.files):
            path = self.folder / name
            try:
                with open(path, "rb") as handle:
                    found = hashlib.file_digest(handle, "sha256").hexdigest()
            except OSError as error:
                raise EnvironmentFault(f"{path}: cannot be read: {error.strerror}") from error
            if found != self.files[name]:
                raise EnvironmentFault(
                    f"{path}: SHA-256 is {found}, the circuit's manifest says {self.files[name]}"
                )


def circuit_from_manifest(document: Mapping[str, Any], folder: Path) -> Circuit:
    """A circuit from its manifest (as ``json.load`` gives it) and the folder with its files.

    Raises FormatError for a document that is not a circuit's manifest.
    """
    try:
        given = dict(document)
        if given.pop("format") != "enclaveml-circuit-1":
            raise ValueError("format is not enclaveml-circuit-1")
        given["row_shape"] = tuple(int(n) for n in given["row_shape"])
        if given.pop("weights", "hidden") != "hidden" or "weights" in document and given["system"] != "batch":
            raise ValueError("weights is there; allowed: hidden, of system batch")
        circuit = Circuit(folder=Path(folder), **given, hides_weights="weights" in document)
        if circuit.rows < 1 or circuit.outputs < 1 or not math.isfinite(circuit.tolerance):
            raise ValueError("rows, outputs or tolerance out of range")
        if circuit.role not in ROLES:
            raise ValueError(f"role is {circuit.role!r}; allowed: {', '.join(ROLES)}")
        if any("/" in name or name.startswith(".") for name in circuit.files):
            raise ValueError("a file name with a path in it")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{folder}: not a circuit manifest: {error}") from error
    return circuit


def load_circuit(folder: Path) -> Circuit:
    """Read the circuit whose files are in ``folder`` (digests are not checked here).

    Raises EnvironmentFault when the manifest cannot be read, FormatError when it is none.
    """
    path = Path(folder) / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error}") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{path}: not a circuit manifest: {error}") from error
    return circuit_from_manifest(document, Path(folder))


@dataclass(frozen=True)
class Proof:
    """The three proof sections of an envelope, as a prover makes them.

    computation: the proof's bytes, bound to the order's nonce where the system binds it. commitment: what ties the input (public: empty; committed: the
    64-byte commitment; hashed: the 32-byte hash). outputs: (B, D) int64, fixed point at the
    circuit's output scale; a value v stands for v / 2**output_scale.
    """

    computation: bytes
    commitment: bytes
    outputs: np.ndarray


@dataclass(frozen=True)
class ProofResult:
    """What became of one submitted bundle: a proof, or ``error`` says why there is none.

    overflow: places in the bundle of the rows that this circuit has no witness for (a value leaves its range),
    where that is why; empty where time, memory or a crash is, which says nothing about rows.
    slice: None, or which slice (from 0) of a bundle this is the proof of (``SlicesProverProtocol.poll_slices``): its
    ``computation`` is that slice's proof, its ``commitment`` is there for the first.
    """

    task: int
    proof: Proof | None
    error: str
    witness_seconds: float
    prove_seconds: float
    overflow: tuple[int, ...] = ()
    slice: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Rank 0's finding about one bundle of n rows.

    status: (n,) uint8, VERIFIED, REJECTED or INCONSISTENT. text: why, empty when every row is
    verified. proved: (n, D) float64, the values the proof is about (NaN where rejected).
    deviation: (n,) float64, largest |proved - float| of the row (NaN where it is not a number).
    argmax_differs: (n,) bool. seconds: what the verification took, without waiting for its turn. faults: of a rejected proof
    whose slices are from several ranks, those (from 0) that are wrong; empty where that is not known. undecided: nothing is
    verified, and no rank has a part in that: rank 0's own child failed at rank 0's own rows.
    """

    task: int
    status: np.ndarray
    text: str
    proved: np.ndarray
    deviation: np.ndarray
    argmax_differs: np.ndarray
    seconds: float
    faults: tuple[int, ...] = ()
    undecided: bool = False


class Prover(Protocol):
    """Proves bundles in child processes, several at a time; no call blocks on a proof."""

    def submit(self, task: int, rows: np.ndarray, timeout_s: float, nonce: bytes, input_key: bytes = b"") -> None:
        """Queue rows (n <= B, *row_shape); ``timeout_s`` counts from when a child takes them up.

        nonce: 32 bytes that name the order (``nonce.py``); a system that can, binds the proof to it. input_key: of the order
        (``input_key.py``), where the circuit masks its inputs with it.
        """

    def cancel(self, task: int) -> bool:
        """Drop a bundle, killing the child that proves it. False where its result is there already."""

    def poll(self) -> list[ProofResult]:
        """The results that are ready, in the order they came; never blocks."""

    @property
    def outstanding(self) -> int:
        """Bundles submitted whose result was not yet returned by poll."""

    def close(self) -> None:
        """Kill the children and remove their scratch files."""


class Verifier(Protocol):
    """Verifies bundles against statements built from rank 0's own rows; no call blocks."""

    def submit(self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray, nonce: bytes,
               input_key: bytes = b"") -> None:
        """Queue a check: rows (n, *row_shape) rank 0's own, float_outputs (n, D) float32 as gathered.

        nonce, input_key: of what rank 0 ordered, not what the worker says; a system that binds proofs to it rejects any other.
        """

    def poll(self) -> list[Verdict]:
        """The verdicts that are ready; never blocks."""

    @property
    def outstanding(self) -> int:
        """Bundles submitted whose verdict was not yet returned by poll."""

    def close(self) -> None:
        """Kill the children and remove their scratch files."""


class SlicesProverProtocol(Prover, Protocol):
    """A prover of a circuit in slices, which gives single slices' proofs too."""

    def poll_slices(self) -> list[ProofResult]:
        """Slices that were proved of bundles that poll has not returned yet, each given once; never blocks."""

    def submit_backward(self, task: int, rows: np.ndarray, timeout_s: float) -> None:
        """As ``submit``, the last slice first: somebody else proves the same bundle from the first on."""


class SlicesVerifierProtocol(Verifier, Protocol):
    """A verifier of a circuit in slices."""

    def submit_joined(self, task: int, rows: np.ndarray, proof: Proof, float_outputs: np.ndarray) -> None:
        """As ``submit``, for a proof whose slices are from several ranks: a rejection says which slices are wrong."""


class ProofSystem(Protocol):
    """One way of proving: ``zk.ezkl.system.EzklSystem``, ``zk.batch.system.BatchSystem``."""

    def prepare(
        self,
        function: ModelFunction,
        sample_rows: np.ndarray,
        request: CircuitRequest,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Circuit:
        """Choose, set up and register a circuit for the model, or take it from the cache."""

    def prepare_fallback(
        self,
        function: ModelFunction,
        sample_rows: np.ndarray,
        request: CircuitRequest,
        primary: Circuit,
        progress: Callable[[str], None] = lambda line: None,
    ) -> Circuit | None:
        """A small circuit of finer scale and far more range than ``primary``, or None where there is none."""

    def prover(
        self, folder: Path, children: int, threads_per_child: int = 1, scratch: Path | None = None
    ) -> Prover:
        """A prover for the circuit in ``folder``, whose files' digests are checked first."""

    def verifier(self, circuit: Circuit, processes: int = 1) -> Verifier:
        """A verifier for a circuit that this process prepared or loaded itself."""

    def plan_text(self, circuit: Circuit) -> str:
        """Why this circuit and no other, for people: lines, each with its end."""

    def auditor_files(self, circuit: Circuit) -> dict[str, bytes]:
        """What someone else needs to verify proofs of this circuit, by its name under /keys of the results file."""
