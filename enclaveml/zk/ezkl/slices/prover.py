"""A rank's prover of a circuit in slices: the witnesses of all slices, one after the other, then their proofs.

Where a bundle has no witness, the rows that are why are found as for a whole circuit (``ezkl/prover.py``). A proof of all slices has
the time of one bundle; a child holds the key of one slice at a time.
"""

from __future__ import annotations

import numpy as np

from enclaveml.zk.ezkl.files import COMPILED, PK, SETTINGS, SRS, VK
from enclaveml.zk.ezkl.prover import EzklProver, Stage
from enclaveml.zk.ezkl.slices.format import slices_of


class SlicesProver(EzklProver):
    """See ``interface.SlicesProverProtocol``."""

    def submit_backward(self, task: int, rows: np.ndarray, timeout_s: float) -> None:
        """See ``interface.SlicesProverProtocol``."""
        self._begin(task, rows, timeout_s, tuple(reversed(range(len(self._stages)))))

    def _files(self) -> tuple[str, ...]:
        slices = slices_of(self.circuit)
        return tuple(dict.fromkeys(each.file(name) for each in slices for name in (COMPILED, SETTINGS, PK, VK, SRS)))

    def _stages_of(self) -> tuple[Stage, ...]:
        slices, folder = slices_of(self.circuit), self.circuit.folder
        return tuple(
            Stage(each.paths(folder), tuple(each.settings["lookup_range"]), f", slice {each.number + 1} of {len(slices)}") for each in slices
        )
