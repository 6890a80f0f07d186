"""What the positions of a layer read (PROTOCOL.md, "Wiring"), in plain numpy: the reference for quantiser and prover.

Letters: N rows, P positions and K inputs of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from enclaveml.zk.batch.format import Wiring

#: Cells of patches that are laid out at once, about.
_CELLS = 1 << 22


def patches(wiring: Wiring, array: np.ndarray) -> np.ndarray:
    """(N, P, K) of an array (N, features), float64 or int64."""
    (height, width), (tall, wide), (top, left, bottom, right) = wiring.pooled, wiring.pool, wiring.pads
    cells = array.reshape(-1, *wiring.shape)
    if wiring.pool != (1, 1):
        windows = cells[:, : height * tall, : width * wide].reshape(-1, height, tall, width, wide, wiring.shape[2])
        cells = windows.sum(axis=(2, 4)) if wiring.cell is None else windows[:, :, wiring.cell[0], :, wiring.cell[1]]
    cells = np.pad(cells, ((0, 0), (top, bottom), (left, right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(cells, wiring.kernel, axis=(1, 2))
    windows = windows[:, :: wiring.stride[0], :: wiring.stride[1]]  # N, OH, OW, C, kh, kw
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(len(array), wiring.positions, wiring.inputs)


def read(wirings: Sequence[Wiring], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """(N, P, K): what wirings give side by side, of arrays (N, features) by number."""
    parts = [patches(wiring, arrays[wiring.source]) for wiring in wirings]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def portions(wirings: Sequence[Wiring], rows: int) -> Iterator[slice]:
    """The rows in portions whose patches take little memory."""
    size = max(1, _CELLS // (wirings[0].positions * sum(wiring.inputs for wiring in wirings)))
    return (slice(start, start + size) for start in range(0, rows, size))


def products(wirings: Sequence[Wiring], arrays: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """(N, P M') float64: what is read times weights (K, M'), of arrays of numbers; exact for integers that stay below 2^53."""
    if len(wirings) == 1 and wirings[0].whole:
        return arrays[wirings[0].source].astype(np.float64) @ weights
    found = [read(wirings, [array[some].astype(np.float64) for array in arrays]).reshape(-1, len(weights)) @ weights
             for some in portions(wirings, len(arrays[0]))]
    return np.concatenate(found).reshape(len(arrays[0]), -1)
