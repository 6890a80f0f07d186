"""The batch proof system as ``interface.ProofSystem`` has it: integrity only, or with committed inputs hiding these, and where asked the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enclaveml.zk.batch.activations import Held, lines
from enclaveml.zk.batch.files import auditor_files
from enclaveml.zk.batch.prover import BatchChildProver
from enclaveml.zk.batch.verifier import BatchVerifier
from enclaveml.zk.interface import Circuit, CircuitRequest, ModelFunction
from enclaveml.zk.rows import Progress


class BatchSystem:
    """Proofs of whole batches (PROTOCOL.md), each call in a child process."""

    def prepare(
        self, function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest,
        progress: Progress = lambda line: None,
    ) -> Circuit:
        """Quantise, commit and register, or take it from the cache (see ``prepare.py``)."""
        from enclaveml.zk.batch.prepare import prepare

        return prepare(function, sample_rows, request, progress)

    def prepare_fallback(
        self, function: ModelFunction, sample_rows: np.ndarray, request: CircuitRequest, primary: Circuit,
        progress: Progress = lambda line: None,
    ) -> None:
        """None: within the range of the inputs every row has a witness, and there are no finer numbers than int8."""
        return None

    def prover(
        self, folder: Path, children: int, threads_per_child: int = 1, scratch: Path | None = None
    ) -> BatchChildProver:
        """A prover for the circuit in ``folder``; EnvironmentFault where its files are damaged."""
        return BatchChildProver(Path(folder), children, threads_per_child, scratch)

    def verifier(self, circuit: Circuit, processes: int = 1) -> BatchVerifier:
        """A verifier for a circuit that this process made or loaded from its own cache."""
        return BatchVerifier(circuit, processes)

    def plan_text(self, circuit: Circuit) -> str:
        """What was calibrated, and what a proof takes."""
        measured, settings = circuit.measured, circuit.settings
        widths = "-".join(map(str, settings["widths"]))
        return "\n".join([
            f"batch circuit ({circuit.caution}): layers {widths}, {circuit.rows} rows and {circuit.proof_bytes / 1e6:.2f} MB a proof",
            *lines([Held(*each) for each in settings["activations"]]),
            f"deviation {circuit.deviation:.3g} (tolerance {circuit.tolerance:g}), argmax agreement {circuit.agreement:.4f} on {circuit.samples} sample rows",
            f"measured: {1e6 * measured['prove_cpu_seconds'] / circuit.rows:.3g} CPU us a row to prove, "
            f"{1e6 * measured['verify_seconds'] / circuit.rows:.3g} us to verify, {measured['prove_peak_bytes'] / 1e9:.2f} GB at the peak, "
            f"{measured['compile_seconds']:.1f} s to compile"]) + "\n"

    def auditor_files(self, circuit: Circuit) -> dict[str, bytes]:
        """vk, settings and the proof that the weights are int8."""
        return auditor_files(circuit)
