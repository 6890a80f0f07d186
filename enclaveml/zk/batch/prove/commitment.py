"""Ligero's matrix commitment: columns, their codewords, one tree, and openings (PROTOCOL.md, "Opening")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, QUERIES
from enclaveml.zk.batch.prove import code, extension, field, multilinear
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.transcript import Transcript
from enclaveml.zk.batch.prove.tree import Tree


class Committed:
    """Columns uint32 [n, C] (plain) with their codewords [4n, C] and tree."""

    def __init__(self, columns: np.ndarray) -> None:
        self.columns = columns
        self._codewords = np.asarray(code.encode(columns))
        self._tree = Tree(self._codewords)

    @property
    def root(self) -> bytes:
        return self._tree.root

    def opened(self, position: int) -> bytes:
        """A leaf and its siblings."""
        return np.ascontiguousarray(self._codewords[position], "<u4").tobytes() + self._tree.path(position)


def open_columns(transcript: Transcript, trees: Sequence[Committed], theta: Extended) -> None:
    """Send the opening of all columns of ``trees``, combined with theta (five uint32 [c], Montgomery form)."""
    gamma = multilinear.from_plain(transcript.vector("gamma", len(theta[0])))
    columns = np.concatenate([tree.columns for tree in trees], axis=1)
    for label, coefficients in (("proximity", gamma), ("evaluation", theta)):
        transcript.message(label, _combined(columns, coefficients).astype("<u4").tobytes())
    positions = transcript.words("positions", QUERIES) % np.uint64(BLOWUP * columns.shape[0])
    transcript.message("leaves", b"".join(tree.opened(i) for i in positions.tolist() for tree in trees))


def _combined(columns: np.ndarray, coefficients: Extended) -> np.ndarray:
    """sum_j c_j C_j: plain coordinates uint32 [n, 5]."""
    sums = extension.sum_last(tuple(field.multiply(columns, c[None, :]) for c in coefficients))
    return np.stack(sums, axis=-1)
