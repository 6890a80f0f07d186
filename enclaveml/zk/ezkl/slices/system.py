"""Circuits in slices as ``interface.ProofSystem`` has them. SLICES.md tells the whole."""

from __future__ import annotations

import json
from pathlib import Path

from enclaveml.zk.ezkl.files import SETTINGS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.slices.format import slices_of
from enclaveml.zk.ezkl.slices.packed import pack
from enclaveml.zk.ezkl.slices.prover import SlicesProver
from enclaveml.zk.ezkl.slices.verifier import SlicesVerifier
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import Circuit


class SlicesSystem(EzklSystem):
    """Proofs and verification by ezkl, a model in linked slices; preparing is ``EzklSystem``'s, which decides whether to cut."""

    def prover(self, folder: Path, children: int, threads_per_child: int = 1, scratch: Path | None = None) -> SlicesProver:
        """A prover for the circuit in ``folder``; EnvironmentFault where its files are damaged."""
        return SlicesProver(Path(folder), children, threads_per_child, scratch)

    def verifier(self, circuit: Circuit, processes: int = 1) -> SlicesVerifier:
        """A verifier for a circuit that this process made or loaded from its own cache."""
        return SlicesVerifier(circuit, processes)

    def plan_text(self, circuit: Circuit) -> str:
        """A line for each slice."""
        lines = [f"{circuit.rows} rows a proof in 2^{circuit.logrows} rows; one proof took {circuit.measured['prove_cpu_seconds']:.1f} CPU s and "
                 f"{circuit.measured['prove_peak_bytes'] / 1e9:.2f} GB at most"]
        for each in slices_of(circuit):
            args = each.settings
            lines.append(
                f"slice {each.number + 1}: {each.width} numbers a row to {each.outputs}, {args['weights']} weights, scale {each.input_scale}+"
                f"{args['param_scale']}, after it {each.output_scale}, multiplier {args['scale_rebase_multiplier']}, decomposition "
                f"{args['decomp_base']}^{args['decomp_legs']}, columns {args['num_inner_cols']}x{args['blocks']}"
            )
        return "\n".join(lines) + "\n"

    def auditor_files(self, circuit: Circuit) -> dict[str, bytes]:
        """vk and settings of all slices, packed (``packed.py``), and srs (388 bytes)."""
        slices = slices_of(circuit)
        settings = [json.loads((circuit.folder / each.file(SETTINGS)).read_text(encoding="utf-8")) for each in slices]
        return {
            "vk": pack([(circuit.folder / each.file(VK)).read_bytes() for each in slices]),
            "settings": json.dumps(settings, sort_keys=True).encode(),
            "srs": (circuit.folder / VERIFIER_SRS).read_bytes(),
        }
