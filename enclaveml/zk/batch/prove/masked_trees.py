"""Trees of masked proofs, whose leaves are salted and whose openings are masked (PROTOCOL.md, "The masked proof")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaveml.zk.batch.format import BLOWUP
from enclaveml.zk.batch.prove import columns
from enclaveml.zk.batch.prove.commitment import Combinations, Committed
from enclaveml.zk.batch.prove.extension import Element, Extended
from enclaveml.zk.batch.prove.masked_opening import Masked, open_masked
from enclaveml.zk.batch.prove.masks import Masks
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.transcript import Transcript


@dataclass(frozen=True)
class MaskedTree:
    """A tree over columns uint32 [n, c], plain, with the pads after them."""

    columns: np.ndarray
    pads: np.ndarray
    committed: Committed


class MaskedTrees:
    """Commits and opens, with the masks of one proof."""

    def __init__(self, transcript: Transcript, masks: Masks, threads: Pool) -> None:
        self._transcript, self._masks, self._threads = transcript, masks, threads

    def commit(self, label: str, values: np.ndarray, pads: str = "") -> MaskedTree:
        """Send the root of columns uint32 [n, c], plain; ``pads`` is the name of their opening, if that isn't the tree's."""
        drawn = self._masks.pads(pads or label, len(values))
        committed = Committed([values, drawn], self._threads, self._masks.salts(label, BLOWUP * len(values)))
        self._transcript.message(label, committed.root)
        return MaskedTree(values, drawn, committed)

    def commit_weight_pads(self, length: int) -> MaskedTree:
        """The tree that masks an opening of hidden weights: of its pads alone."""
        return self.commit("weight pads", np.zeros((length, 0), np.uint32), "weights")

    def open(self, tree: MaskedTree, weights: Extended, theta: Extended, uniform: slice | None = None,
             hidden: Element | None = None) -> Element:
        """One tree's opening; xi. uniform: ``Masked.hidden``; hidden: what the pad is sent with where the claim is hidden."""
        return self.open_columns(Masked((tree.committed,), tree.pads, weights, uniform), tree.columns, theta, hidden)

    def open_columns(self, opened: Masked, values: np.ndarray, theta: Extended, hidden: Element | None = None) -> Element:
        """The opening of columns uint32 [n, c], plain; xi."""
        def combine(gamma: Extended, xi: Element) -> Combinations:
            return columns.combined(values, gamma, columns.times_element(theta, xi), self._threads)
        return open_masked(self._transcript, opened, combine, self._threads, hidden)
