"""Ligero's matrix commitment: columns, their codewords, one tree, and openings (PROTOCOL.md, "Opening")."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, QUERIES
from enclaveml.zk.batch.prove import kernels, multilinear
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.transcript import Transcript
from enclaveml.zk.batch.prove.tree import Tree

#: Columns that are encoded at once: more would leave the cache.
_COLUMNS = 256


class Committed:
    """The codewords uint32 [4n, C] of columns uint32 [n, C] (plain), and their tree."""

    def __init__(self, columns: np.ndarray) -> None:
        self._codewords = _encoded(columns)
        self._tree = Tree(self._codewords)

    @property
    def root(self) -> bytes:
        return self._tree.root

    @property
    def shape(self) -> tuple[int, int]:
        """4n and C."""
        return self._codewords.shape

    def opened(self, position: int) -> bytes:
        """A leaf and its siblings."""
        return self._codewords[position].tobytes() + self._tree.path(position)


def _encoded(columns: np.ndarray) -> np.ndarray:
    """All codewords, by blocks of columns of one width."""
    n, width = columns.shape
    block = -(-width // -(-width // _COLUMNS))
    if block == width:
        return np.asarray(kernels.encode(columns)).astype("<u4", copy=False)
    found = np.empty((BLOWUP * n, width), "<u4")
    for start in range(0, width, block):
        part = columns[:, start : start + block]
        if part.shape[1] < block:
            part = np.pad(part, ((0, 0), (0, block - part.shape[1])))
        found[:, start : start + block] = np.asarray(kernels.encode(part))[:, : width - start]
    return found


def open_columns(transcript: Transcript, trees: Sequence[Committed],
                 combine: Callable[[Extended], tuple[np.ndarray, np.ndarray]]) -> None:
    """Send the opening of all columns of ``trees``.

    ``combine`` returns u and e, plain uint32 [n, 5] each, for gamma, five uint32 [c] in Montgomery form.
    """
    gamma = multilinear.from_plain(transcript.vector("gamma", sum(tree.shape[1] for tree in trees)))
    for label, column in zip(("proximity", "evaluation"), combine(gamma), strict=True):
        transcript.message(label, column.astype("<u4").tobytes())
    positions = transcript.words("positions", QUERIES) % np.uint64(trees[0].shape[0])
    transcript.message("leaves", b"".join(tree.opened(i) for i in positions.tolist() for tree in trees))
