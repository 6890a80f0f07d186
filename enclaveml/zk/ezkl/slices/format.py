"""A circuit in slices: its parts, its files, its proofs, and what links them. SLICES.md tells the whole.

The proof of a bundle is the slices' proofs, one behind the other, each of the exact length that its key's proofs have. The
values between two slices are in neither: each of the two proofs begins with a KZG commitment to them (64 bytes, x and y
big-endian; a slice with committed inputs *and* outputs has the inputs' first), and the two commitments are the same
bytes. Whoever verifies checks each proof by its own key, and these links.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enclaveml.errors import FormatError
from enclaveml.zk.ezkl import cost
from enclaveml.zk.ezkl.files import FILES, SRS, VERIFIER_SRS
from enclaveml.zk.ezkl.statement import COMMITMENT_BYTES, SECTION_BYTES
from enclaveml.zk.interface import SLICED, Circuit

#: Most slices of a circuit.
MOST = 64


@dataclass(frozen=True)
class Slice:
    """One slice of a circuit of B rows a proof.

    number: from 0. last: its outputs are the model's, and public; those of the others are committed. inputs: how
    it shows its inputs (``interface.INPUT_MODES``; committed for all but the first). start, end: the values of the canonical
    document between which it is, "" for the model's input and output. circuit_id: its own (``statement.circuit_id``).
    width, outputs: numbers of a row that go in and come out. settings: as in ``Circuit.settings``.
    """

    number: int
    last: bool
    inputs: str
    start: str
    end: str
    circuit_id: str
    rows: int
    width: int
    outputs: int
    input_scale: int
    output_scale: int
    logrows: int
    proof_bytes: int
    settings: Mapping[str, Any]

    @property
    def output_mode(self) -> str:
        """How the slice shows its outputs."""
        return "public" if self.last else "committed"

    def file(self, name: str) -> str:
        """The file of the circuit's folder that is this slice's ``name`` (of ``files.FILES``); all share one SRS."""
        return file_of(self.number, name)

    def paths(self, folder: Path) -> dict[str, str]:
        """Path of each of ``files.FILES`` in the circuit's folder."""
        return {name: str(folder / self.file(name)) for name in FILES}

    def input_commitment(self, proof: bytes) -> bytes:
        """The commitment to the slice's inputs that its proof begins with (committed inputs)."""
        return proof[:COMMITMENT_BYTES]

    def output_commitment(self, proof: bytes) -> bytes:
        """The commitment to the slice's outputs in its proof (committed outputs)."""
        at = COMMITMENT_BYTES if self.inputs == "committed" else 0
        return proof[at : at + COMMITMENT_BYTES]


def file_of(number: int, name: str) -> str:
    """The file's name in the circuit's folder; the SRS is the same for every slice."""
    return name if name in (SRS, VERIFIER_SRS) else f"slice{number + 1}-{name}"


def room_for(logrows: int) -> int:
    """Most values that a slice commits to at a place: they must fit one column, else one commitment would not hold them all."""
    return cost.usable_rows(logrows)


def circuit_id(slices: Sequence[str]) -> str:
    """SHA-256 (hex) over the slices' own ids, in order: they cover keys, settings, scales, visibilities and SRS of each."""
    text = json.dumps({"format": "enclaveml-ezkl-slices-1", "linked_by": "kzg-commitments", "slices": list(slices)},
                      sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_of(slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """The slices as ``Circuit.settings["slices"]`` holds them."""
    return [asdict(each) for each in slices]


def slices_of(circuit: Circuit) -> tuple[Slice, ...]:
    """The slices of a circuit, as its manifest has them, each agreeing with the next and with the circuit.

    Raises FormatError where they do not: the manifest may be somebody else's.
    """
    where = f"circuit {str(circuit.circuit_id)[:16]}"
    try:
        found = tuple(_slice(document) for document in circuit.settings["slices"])
        if not 2 <= len(found) <= MOST:
            raise ValueError(f"{len(found)} slices; allowed: 2 to {MOST}")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where}: its manifest has no slices: {error}") from error
    first, final = found[0], found[-1]
    said = {
        "numbers of the slices": ([s.number for s in found], list(range(len(found)))),
        "the last slice": ([s.last for s in found], [s is final for s in found]),
        "inputs of the slices": ([s.inputs for s in found], [circuit.inputs] + ["committed"] * (len(found) - 1)),
        "cuts": ([s.start for s in found[1:]] + [final.end, first.start], [s.end for s in found[:-1]] + ["", ""]),
        "rows": ([s.rows for s in found], [circuit.rows] * len(found)),
        "logrows": ([s.logrows for s in found], [circuit.logrows] * len(found)),
        "numbers between slices": ([s.width for s in found], [math.prod(circuit.row_shape)] + [s.outputs for s in found[:-1]]),
        "scales between slices": ([s.input_scale for s in found], [circuit.input_scale] + [s.output_scale for s in found[:-1]]),
        "outputs": (final.outputs, circuit.outputs),
        "output scale": (final.output_scale, circuit.output_scale),
        "length of a proof": (sum(s.proof_bytes for s in found), circuit.proof_bytes),
        "circuit_id": (circuit_id([s.circuit_id for s in found]), circuit.circuit_id),
    }
    for name, (claimed, wanted) in said.items():
        if claimed != wanted:
            raise FormatError(f"{where}: {name}: its slices say {claimed!r}, and it must be {wanted!r}")
    for each in found:  # a second column of inputs would move the outputs' commitment, and be compared by nobody
        widths = [each.width] * (each.inputs == "committed") + [each.outputs] * (not each.last)
        for width in widths:
            if each.rows * width > room_for(each.logrows):
                raise FormatError(f"{where}: slice {each.number + 1} commits to {each.rows} rows of {width} values, which one commitment at "
                                  f"2^{each.logrows} does not hold")
    return found


def _slice(document: Mapping[str, Any]) -> Slice:
    """Raises TypeError, ValueError for anything but a slice."""
    found = Slice(**document)
    texts = {"inputs", "start", "end", "circuit_id"}
    for name, value in asdict(found).items():
        kind = str if name in texts else bool if name == "last" else dict if name == "settings" else int
        if type(value) is not kind or (kind is int and not 0 <= value < 1 << 40):
            raise ValueError(f"{name} of a slice is {str(value)[:40]!r}")
    if found.inputs not in SECTION_BYTES or found.proof_bytes < 2 * COMMITMENT_BYTES or not 1 <= found.logrows < 40:
        raise ValueError(f"inputs {found.inputs[:40]!r}, a proof of {found.proof_bytes} bytes, 2^{found.logrows} rows")
    return found


def parts_of(computation: bytes, slices: Sequence[Slice]) -> list[bytes]:
    """The slices' proofs. Raises FormatError for bytes of another length than a proof of this circuit."""
    wanted = sum(each.proof_bytes for each in slices)
    if len(computation) != wanted:
        raise FormatError(f"computation proof is {len(computation)} bytes, a proof of this circuit is {wanted}")
    found, at = [], 0
    for each in slices:
        found.append(computation[at : at + each.proof_bytes])
        at += each.proof_bytes
    return found


def check_links(slices: Sequence[Slice], proofs: Sequence[bytes]) -> None:
    """Raise FormatError unless what each slice says it gives is what the next one says it takes."""
    for (one, proof), (other, later) in zip(
        zip(slices, proofs, strict=True), zip(slices[1:], proofs[1:], strict=True), strict=False
    ):
        if one.output_commitment(proof) != other.input_commitment(later):
            raise FormatError(f"slice {one.number + 1}'s commitment to its outputs is not slice {other.number + 1}'s to its inputs")
