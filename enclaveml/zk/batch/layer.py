"""A layer as a key has it, and how it reads the arrays before it (PROTOCOL.md, "Statement" and "Wiring"). No JAX here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from enclaveml.zk.batch.constants import (
    BIAS_CONSTANTS,
    MOST_READS,
    MOST_SHIFT,
    MOST_WIDTH,
    MOST_WIRINGS,
    bits,
    need,
    power_of_two,
    short,
)


@dataclass(frozen=True)
class Wiring:
    """How the positions of a layer read an array, ``source``: 0 the inputs, m the activations of hidden layer m.

    The array's features are a map ``shape`` (height, width, channels). It is summed over windows ``pool`` that do not overlap (rows and
    columns left over at its end are not read), or of each window the one ``cell`` is taken where there is one; ``pads`` zeros are put
    around it (top, left, bottom, right), and there is a position for each patch ``kernel`` of it every ``stride`` cells. PROTOCOL.md,
    "Wiring". A dense layer has one position, which reads the array in order.
    """

    source: int
    shape: tuple[int, int, int]
    pool: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    cell: tuple[int, int] | None = None

    @property
    def features(self) -> int:
        """Features of the array."""
        return math.prod(self.shape)

    @property
    def inputs(self) -> int:
        """What a position reads."""
        return math.prod(self.kernel) * self.shape[2]

    @property
    def window(self) -> int:
        """How many features are summed to what is read once."""
        return math.prod(self.pool) if self.cell is None else 1

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width of the summed map."""
        return self.shape[0] // self.pool[0], self.shape[1] // self.pool[1]

    @property
    def places(self) -> tuple[int, int]:
        """How many patches below and beside each other."""
        (height, width), (top, left, bottom, right) = self.pooled, self.pads
        return ((height + top + bottom - self.kernel[0]) // self.stride[0] + 1,
                (width + left + right - self.kernel[1]) // self.stride[1] + 1)

    @property
    def positions(self) -> int:
        """P."""
        return math.prod(self.places)

    @property
    def whole(self) -> bool:
        """Whether it is one position that reads the array as it is."""
        return self.pool == (1, 1) and self.kernel == self.pooled and not any(self.pads)

    @property
    def numbers(self) -> list[int]:
        """All of them."""
        return [self.source, *self.shape, *self.pool, *self.kernel, *self.stride, *self.pads, *(self.cell or ())]

    def check(self, number: int) -> None:
        """Raise ValueError where layer ``number`` could not be wired so."""
        sizes = self.shape, self.pool, self.kernel, self.stride, self.pads, self.cell or (0, 0)
        need(all(type(size) is tuple for size in sizes) and [*map(len, sizes)] == [3, 2, 2, 2, 4, 2],
              f"layer {number}: a wiring is not of the right form")
        need(all(type(value) is int for value in self.numbers), "a size is not an integer")
        need(0 <= self.source < number, f"layer {number} reads the array {short(self.source)}: 0 to {number - 1} are there")
        need(all(1 <= value <= MOST_WIDTH for size in sizes[:4] for value in size) and self.features <= MOST_WIDTH,
              f"layer {number}: a wiring's size is not 1 to {MOST_WIDTH}")
        inside = self.cell is None or (self.pool != (1, 1) and all(0 <= at < size for at, size in zip(self.cell, self.pool, strict=True)))
        need(inside, f"layer {number}: the cell of a window is not in it")
        # Of an axis: the kernel fits into the summed map and its zeros, and no patch is of zeros alone.
        for pooled, kernel, zeros in zip(self.pooled, self.kernel, (self.pads[::2], self.pads[1::2]), strict=True):
            need(all(0 <= value < kernel for value in zeros), f"layer {number}: zeros around a map are 0 to the kernel's size less 1")
            need(pooled >= 1 and kernel <= pooled + sum(zeros), f"layer {number}: a window is larger than the map")


@dataclass(frozen=True)
class Layer:
    """K ``inputs`` of a position, M' ``outputs`` of it, the ``shift`` s of the rescaling (0: the last layer).

    wirings: what a position reads, one after the other; () for a dense layer that reads the layer before it.
    residual: None, or (m, e): 2^e times array m is added to the sums. table: which of the key's tables, from 1, is its activation; 0: ReLU.
    """

    inputs: int
    outputs: int
    shift: int
    wirings: tuple[Wiring, ...] = ()
    residual: tuple[int, int] | None = None
    table: int = 0

    @property
    def length(self) -> int:
        """n: the length of a column of its weights, the power of two from K + 3."""
        return max(4, power_of_two(self.inputs + len(BIAS_CONSTANTS)))

    @property
    def positions(self) -> int:
        """P: how often the same weights are used."""
        return self.wirings[0].positions if self.wirings else 1

    @property
    def features(self) -> int:
        """M = P M': what it computes; feature p M' + c is output c of position p."""
        return self.positions * self.outputs

    @property
    def variables(self) -> int:
        """Variables of its features: those of positions before those of outputs."""
        return bits(self.positions) + bits(self.outputs)

    def check(self, number: int, last: bool) -> None:
        """Raise ValueError where the format has no such layer ``number``."""
        need(type(self.wirings) is tuple and all(type(wiring) is Wiring for wiring in self.wirings), "the wirings are Wirings")
        need(len(self.wirings) <= MOST_WIRINGS, f"layer {number} reads {len(self.wirings)} arrays; {MOST_WIRINGS} are allowed")
        need(all(type(value) is int for value in (self.inputs, self.outputs, self.shift, self.table)), "a size is not an integer")
        for wiring in self.wirings:
            wiring.check(number)
        if self.residual is not None:
            need(type(self.residual) is tuple and len(self.residual) == 2, f"layer {number}: a residual is an array and an exponent")
            source, exponent = self.residual
            need(type(source) is int and type(exponent) is int, "a size is not an integer")
            need(0 <= source < number, f"layer {number} adds the array {short(source)}: 0 to {number - 1} are there")
            need(0 <= exponent <= MOST_SHIFT, f"layer {number}: a residual's exponent is 0 to {MOST_SHIFT}")
        need(1 <= self.inputs <= MOST_WIDTH and 1 <= self.outputs <= MOST_WIDTH,
              f"layer {number} has {short(self.inputs)} inputs and {short(self.outputs)} outputs: 1 to {MOST_WIDTH} are allowed")
        if self.wirings:
            need(len({wiring.positions for wiring in self.wirings}) == 1, f"layer {number} reads arrays at different numbers of positions")
            need(sum(wiring.inputs for wiring in self.wirings) == self.inputs, f"layer {number}: its wirings do not read {self.inputs} inputs")
            need(self.wirings != (Wiring(number - 1, (1, 1, self.inputs)),), f"layer {number}: a dense layer's wiring is left out")
            need(self.features <= MOST_WIDTH and self.positions * self.inputs <= MOST_READS, f"layer {number} has too many positions")
        need(1 <= self.shift <= MOST_SHIFT if not last else self.shift == 0,
              f"layer {number} has the shift {short(self.shift)}: 1 to {MOST_SHIFT}, in the last layer 0")
        need(not (last and self.table), f"layer {number}: the last layer has no activation, and no table of one")

    def to_json(self) -> list:
        """[K, M', s], and behind it what differs from a dense layer that reads the one before."""
        if not self.wirings and self.residual is None and not self.table:
            return [self.inputs, self.outputs, self.shift]
        wirings = [[w.source, w.shape, w.pool, w.kernel, w.stride, w.pads, w.cell] for w in self.wirings]
        return [self.inputs, self.outputs, self.shift, {"residual": self.residual, "wirings": wirings, **({"table": self.table} if self.table else {})}]

    @classmethod
    def from_json(cls, given: list) -> Layer:
        """The inverse; whatever is wrong is found when the key is made, or by its encoding."""
        inputs, outputs, shift, *more = given
        if not more:
            return cls(inputs, outputs, shift)
        (more,) = more
        wirings = tuple(Wiring(source, *map(tuple, sizes), cell if cell is None else tuple(cell)) for source, *sizes, cell in more["wirings"])
        return cls(inputs, outputs, shift, wirings, None if more["residual"] is None else tuple(more["residual"]), more.get("table", 0))
