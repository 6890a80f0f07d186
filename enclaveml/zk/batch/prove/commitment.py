"""Ligero's matrix commitment: columns, their codewords, one tree, and openings (PROTOCOL.md, "Opening")."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from enclaveml.zk.batch.format import BLOWUP, QUERIES
from enclaveml.zk.batch.prove import multilinear
from enclaveml.zk.batch.prove.encoding import codewords
from enclaveml.zk.batch.prove.extension import Extended
from enclaveml.zk.batch.prove.parallel import Pool
from enclaveml.zk.batch.prove.transcript import Transcript
from enclaveml.zk.batch.prove.tree import HASH, LEAF, Tree, hashing, releases_lock


class Committed:
    """The codewords of columns uint32 [n, C] (plain), and their tree.

    Codewords are kept by cosets, '<u4' [n, C] each: symbol 4k + c of all columns is row k of coset c. ``salts``, uint8 [4n, 16]: the
    leaves' own, in the order of positions.
    """

    def __init__(self, columns: np.ndarray | Sequence[np.ndarray], threads: Pool, salts: np.ndarray | None = None) -> None:
        """``columns``: in parts, which follow each other, where they are; int32 in (-p, p) likewise."""
        parts = [columns] if isinstance(columns, np.ndarray) else columns
        n = parts[0].shape[0]
        self._salts = np.zeros((BLOWUP * n, 0), np.uint8) if salts is None else salts
        # While leaves of one coset are hashed, threads may encode the next. Where hashing holds the interpreter's lock (``tree``),
        # encoding would have to wait at every step: then all is encoded before.
        self._cosets, encoded = codewords(parts, threads, not releases_lock(sum(part.shape[1] for part in parts)))
        hashes = np.empty((n, BLOWUP, HASH), np.uint8)
        started = []
        for c, coset in enumerate(self._cosets):
            for future in encoded[c]:
                future.result()
            started.append(hashing(LEAF, coset, self._salts[c::BLOWUP], threads))
        for c, shares in enumerate(started):
            hashes[:, c] = np.concatenate([share() for share in shares])
        self._tree = Tree(hashes.reshape(-1, HASH), threads)

    @property
    def root(self) -> bytes:
        return self._tree.root

    @property
    def shape(self) -> tuple[int, int]:
        """4n and C."""
        n, width = self._cosets[0].shape
        return BLOWUP * n, width

    def opened(self, positions: np.ndarray) -> np.ndarray:
        """Leaves, each with its salt and its siblings: uint8 [positions, .]."""
        found = np.empty((len(positions), self.shape[1]), "<u4")
        for c, coset in enumerate(self._cosets):
            here = positions % BLOWUP == c
            found[here] = coset[positions[here] // BLOWUP]
        return np.concatenate([found.view(np.uint8), self._salts[positions], self._tree.paths(positions)], axis=1)


#: u and e, plain uint32 [n, 5] each.
Combinations = tuple[np.ndarray, np.ndarray]


def open_columns(transcript: Transcript, trees: Sequence[Committed], combine: Callable[[Extended], Combinations]) -> None:
    """Send the opening of all columns of ``trees``: ``combine`` returns u and e for gamma, five uint32 [c] in Montgomery form."""
    send_combinations(transcript, combine(multilinear.from_plain(transcript.vector("gamma", sum(tree.shape[1] for tree in trees)))))
    send_leaves(transcript, trees, draw_positions(transcript, trees))


def send_combinations(transcript: Transcript, found: Combinations) -> None:
    """u, then e."""
    for label, column in zip(("proximity", "evaluation"), found, strict=True):
        transcript.message(label, column.astype("<u4").tobytes())


def draw_positions(transcript: Transcript, trees: Sequence[Committed]) -> np.ndarray:
    """Which leaves are shown: int64 [Q]."""
    return (transcript.words("positions", QUERIES) % np.uint64(trees[0].shape[0])).astype(np.int64)


def send_leaves(transcript: Transcript, trees: Sequence[Committed], positions: np.ndarray) -> None:
    """The leaves at the positions."""
    transcript.message("leaves", np.concatenate([tree.opened(positions) for tree in trees], axis=1).tobytes())
