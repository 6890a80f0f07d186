"""How positions read arrays (PROTOCOL.md, "Wiring"), of the rows of a batch and of elements of F at the row point alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from enclaveml.zk.batch.format import Layer, P, Wiring
from enclaveml.zk.batch.format import bits as bits_of
from enclaveml.zk.batch.prove import extension, multilinear
from enclaveml.zk.batch.prove.extension import Element, Extended

#: Cells of patches that are worked on at once.
_CELLS = 1 << 18


def patches(wiring: Wiring, values: np.ndarray) -> np.ndarray:
    """[n, P, K] of integers [n, features]: what each position reads. Sums of a window are not reduced modulo p."""
    if wiring.whole:
        return values[:, None, :]
    channels, n = wiring.shape[2], len(values)
    summed = _summed(wiring, values)
    top, left, bottom, right = wiring.pads
    if any(wiring.pads):
        summed = np.pad(summed, ((0, 0), (top, bottom), (left, right), (0, 0)))
    summed = np.ascontiguousarray(summed)
    row, down, beside, value = summed.strides
    # Of a patch each line of cells lies in one piece: its cells and their channels are one axis.
    windows = np.lib.stride_tricks.as_strided(
        summed, (n, *wiring.places, wiring.kernel[0], wiring.kernel[1] * channels),
        (row, down * wiring.stride[0], beside * wiring.stride[1], down, value), writeable=False)
    return windows.reshape(n, wiring.positions, wiring.inputs)


def _summed(wiring: Wiring, values: np.ndarray) -> np.ndarray:
    """[n, H', W', C] of [n, features]."""
    (height, width), (tall, wide) = wiring.pooled, wiring.pool
    cells = values.reshape(-1, *wiring.shape)
    if wiring.pool == (1, 1):
        return cells
    cells = cells[:, : height * tall, : width * wide]
    if wiring.cell is not None:
        return cells[:, wiring.cell[0] :: tall, wiring.cell[1] :: wide]
    found = np.zeros((len(cells), height, width, wiring.shape[2]), values.dtype)
    for dy in range(tall):
        for dx in range(wide):
            found += cells[:, dy::tall, dx::wide]
    return found


class Features:
    """A point phi over a layer's features, the positions' variables first: tables of eq."""

    def __init__(self, layer: Layer, point: list[Element]) -> None:
        split = bits_of(layer.positions)
        #: eq over the positions, five uint32 [P]; over their outputs, five uint32 [M'].
        self.positions, self.outputs = (tuple(v[:count] for v in multilinear.eq_table(part)) for part, count in (
            (point[:split], layer.positions), (point[split:], layer.outputs)))

    @cached_property
    def table(self) -> Extended:
        """eq(phi, f) of the features: five uint32 [M]."""
        product = extension.multiply(tuple(v[:, None] for v in self.positions), tuple(v[None] for v in self.outputs))
        return tuple(v.reshape(-1) for v in product)

    @cached_property
    def inside(self) -> Element:
        """The sum of eq over the positions."""
        return multilinear.total(self.positions)


def of_features(layer: Layer, table: Extended) -> Extended:
    """Of a vector over all places, five uint32 [2^variables], the features': five uint32 [M]."""
    if layer.positions == 1:
        return tuple(v[: layer.outputs] for v in table)
    shape = 1 << bits_of(layer.positions), 1 << bits_of(layer.outputs)
    return tuple(v.reshape(shape)[: layer.positions, : layer.outputs].reshape(-1) for v in table)


def placed(layer: Layer, values: Extended) -> Extended:
    """The inverse: zeros in the other places."""
    if layer.positions == 1:
        return multilinear.pad(values, 1 << layer.variables)
    more = (1 << bits_of(layer.positions)) - layer.positions, (1 << bits_of(layer.outputs)) - layer.outputs
    return tuple(np.pad(v.reshape(layer.positions, layer.outputs), ((0, more[0]), (0, more[1]))).reshape(-1) for v in values)


def read(wiring: Wiring, positions: Extended, values: Extended) -> Extended:
    """sum_p positions[p] (what p reads of values): five uint32 [K] of five uint32 [features]."""
    if wiring.whole:
        return extension.multiply(values, positions)
    wide = np.stack(values).astype(np.uint64)
    given = (patches(wiring, wide) % np.uint64(P)).astype(np.uint32)
    found = np.zeros((5, wiring.inputs), np.uint64)
    weights = np.stack(positions)
    for some in _portions(wiring):
        products = extension.multiply(given[:, some], weights[:, some, None])
        found += products.sum(axis=1, dtype=np.uint64)
    return tuple((v % np.uint64(P)).astype(np.uint32) for v in found)


def readers(wiring: Wiring, positions: Extended, inputs: Extended) -> Extended:
    """Of each feature the sum of positions[p] inputs[k] over the pairs that read it: five uint32 [features]."""
    if wiring.whole:
        return extension.multiply(inputs, positions)
    (height, width), (tall, wide), (top, left, bottom, right) = wiring.pooled, wiring.pool, wiring.pads
    (down, beside), (kernel_height, kernel_width) = wiring.places, wiring.kernel
    over = np.stack(positions).reshape(5, down, beside, 1)
    below = np.stack(inputs).reshape(5, kernel_height, kernel_width, 1, 1, wiring.shape[2])
    summed = np.zeros((5, top + height + bottom, left + width + right, wiring.shape[2]), np.uint64)
    for dy in range(kernel_height):
        for dx in range(kernel_width):
            summed[:, dy : dy + (down - 1) * wiring.stride[0] + 1 : wiring.stride[0],
                   dx : dx + (beside - 1) * wiring.stride[1] + 1 : wiring.stride[1]] += extension.multiply(over, below[:, dy, dx])
    inner = (summed[:, top : top + height, left : left + width] % np.uint64(P)).astype(np.uint32)
    found = np.zeros((5, *wiring.shape), np.uint32)
    whole = found[:, : height * tall, : width * wide]
    if wiring.cell is None:
        whole[:] = inner.repeat(tall, axis=1).repeat(wide, axis=2)
    else:
        whole[:, wiring.cell[0] :: tall, wiring.cell[1] :: wide] = inner
    return tuple(found.reshape(5, -1))


def _portions(wiring: Wiring) -> Iterator[slice]:
    size = max(1, _CELLS // wiring.inputs)
    return (slice(start, start + size) for start in range(0, wiring.positions, size))
