"""What an audit asks of a proof system: a statement from the keys of a results file, and somebody who checks proofs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from enclaveml.zk.interface import Circuit, Proof

if TYPE_CHECKING:
    from enclaveml.results_reader import CircuitKeys


@dataclass(frozen=True)
class Checked:
    """What became of one proof: ``error`` is empty when it is valid. ``owned``: the inputs given were tied."""

    task: int
    error: str
    owned: bool
    seconds: float


class Statement(Protocol):
    """What proofs of one circuit are checked against; each part agrees with every other and with the circuit's id."""

    @property
    def circuit(self) -> Circuit:
        """The circuit, as its manifest has it."""


class Auditor(Protocol):
    """Verifies proofs of one statement in child processes; no call blocks. Several may share a machine."""

    @property
    def outstanding(self) -> int:
        """Proofs submitted whose outcome poll has not returned yet."""

    def submit(self, task: int, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, nonce: bytes,
               input_key: bytes = b"") -> None:
        """Queue a proof of n rows.

        shown: the rows (n, *row_shape) that the file shows, needed where inputs are public. owned: the rows
        as their owner has them, to be tied to the proof; None: nobody gave them. nonce: of the order that the
        file says the proof is of. input_key: of that order, with ``owned``, where the circuit masks its inputs.
        """

    def wait(self, seconds: float) -> None:
        """Return when an outcome may be ready, or after so many seconds."""

    def poll(self) -> list[Checked]:
        """The outcomes that are ready."""

    def close(self) -> None:
        """Kill the children and remove their scratch files."""


class AuditSystem(Protocol):
    """How proofs of one system are audited."""

    def statement(self, circuit_id: str, keys: CircuitKeys) -> Statement:
        """The statement that keys of a results file stand for; FormatError where they do not."""

    def input_limit(self, wanted: Statement) -> float | None:
        """The largest magnitude of an input of a circuit that bounds its inputs; None for one that does not."""

    def auditor(self, wanted: Statement, processes: int, data: bool, srs: Path | None,
                progress: Callable[[str], None]) -> Auditor:
        """An auditor. data: whether inputs will be given, to be tied; srs: the whole SRS, where that needs one."""

    def version(self) -> str:
        """The version that is installed, as circuits name it."""
