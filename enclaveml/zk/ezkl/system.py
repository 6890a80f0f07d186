"""The ezkl proof system as ``interface.ProofSystem`` has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enclaveml.zk.ezkl.files import auditor_files
from enclaveml.zk.ezkl.plan import Progress
from enclaveml.zk.ezkl.prover import EzklProver
from enclaveml.zk.ezkl.verifier import EzklVerifier
from enclaveml.zk.interface import SLICED, Circuit, CircuitRequest, ModelFunction


class EzklSystem:
    """Circuits, proofs and verification by ezkl, each call in a child process."""

    def prepare(
        self, function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest,
        progress: Progress = lambda line: None,
    ) -> Circuit:
        """Choose, set up and register a circuit, or take it from the cache (see ``prepare.py``).

        Of system ``ezkl-slices`` where the request asks for slices, or leaves that open and the whole is too large.
        """
        from enclaveml.zk.ezkl.layouts import TooLarge
        from enclaveml.zk.ezkl.prepare import prepare, prepare_if_it_fits

        if request.slices == 1:
            return prepare(function, sample_rows, request, progress)
        from enclaveml.zk.ezkl.slices.prepare import prepare_slices

        if request.slices is None:
            try:
                return prepare_if_it_fits(function, sample_rows, request, progress)
            except TooLarge as error:
                progress(f"{error}; it is cut into slices (proof.slices: auto)")
        return prepare_slices(function, sample_rows, request, progress)

    def prepare_fallback(
        self, function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, primary: Circuit,
        progress: Progress = lambda line: None,
    ) -> Circuit | None:
        """A wider circuit for what ``primary`` cannot prove, or None (see ``fallback.py``)."""
        if primary.system == SLICED:
            progress("no fallback circuit: there is none for a circuit in slices")
            return None
        from enclaveml.zk.ezkl.prepare import prepare_fallback

        return prepare_fallback(function, sample_rows, request, primary, progress)

    def prover(
        self, folder: Path, children: int, threads_per_child: int = 1, scratch: Path | None = None
    ) -> EzklProver:
        """A prover for the circuit in ``folder``; EnvironmentFault where its files are damaged."""
        return EzklProver(Path(folder), children, threads_per_child, scratch)

    def verifier(self, circuit: Circuit, processes: int = 1) -> EzklVerifier:
        """A verifier for a circuit that this process made or loaded from its own cache."""
        return EzklVerifier(circuit, processes)

    def plan_text(self, circuit: Circuit) -> str:
        """The table of what was tried."""
        from enclaveml.zk.ezkl.plan_table import text

        return text(circuit.folder, circuit.tolerance)

    def auditor_files(self, circuit: Circuit) -> dict[str, bytes]:
        """vk, settings and srs (388 bytes)."""
        return auditor_files(circuit)
