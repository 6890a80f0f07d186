"""What a graph's nodes give, as sums of arrays' features (``Value``) or as a layer before its activation (``Sums``), and what can be done to both.

Everything linear between two activations ends in one layer: factors, constants, means, concatenations, sums of branches and BatchNorm go into weights,
biases and wirings. Shapes here are of a row, without the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from enclaveml.zk.batch.float_model import Activation, FloatLayer
from enclaveml.zk.batch.format import Wiring

Moved = Callable[[np.ndarray], np.ndarray]


class NotHeld(Exception):
    """What a batch proof does not hold: what it is, and what to do instead."""

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(what)
        self.instead = instead


@dataclass(frozen=True, eq=False)
class Term:
    """Of each entry of a value, which feature of array ``source`` it is (-1: none), times ``scale``; both of the value's shape.

    view: how the array is seen, a wiring of which source, shape and pool count: an entry's feature is one of the summed map.
    """

    view: Wiring
    index: np.ndarray
    scale: np.ndarray

    @property
    def cells(self) -> int:
        """Features of the summed map."""
        return math.prod(self.view.pooled) * self.view.shape[2]

    def as_map(self) -> tuple[Term, np.ndarray, np.ndarray]:
        """Of a value (H, W, C) seen as a map (H, W, C') of the array: itself so seen, and for each c its channel (C,) and scale (C,).

        A c without a feature has the scale 0. Raises NotHeld where the array's features do not lie as such a map.
        """
        height, width, _ = self.index.shape
        channels, left = divmod(self.cells, height * width)
        there = self.index[0, 0] >= 0
        channel = np.where(there, self.index[0, 0], 0)
        expected = np.where(there, np.arange(height * width).reshape(height, width, 1) * channels + channel, -1)
        if left or (channel >= max(channels, 1)).any() or not np.array_equal(self.index, expected):
            raise NotHeld("values of a row that do not lie as a map with its channels last",
                          "give rows and maps with their channels last, and keep the order of their cells")
        scale = np.where(there, self.scale[0, 0], 0.0)
        if not (np.where(there, self.scale, 0.0) == scale).all():
            raise NotHeld("a factor that differs between the cells of a map", "")
        view = self.view if self.view.pool != (1, 1) else Wiring(self.view.source, (height, width, channels))
        if view.pooled != (height, width):
            raise NotHeld("means of a map that are then read as another map", "")
        return Term(view, self.index, self.scale), channel, scale


@dataclass(frozen=True, eq=False)
class Value:
    """The sum of terms and a constant, ``offset``, which has the value's shape."""

    terms: tuple[Term, ...]
    offset: np.ndarray

    @classmethod
    def of(cls, source: int, index: np.ndarray, features: int) -> Value:
        """Features of an array, at the places that ``index`` says."""
        return cls((Term(Wiring(source, (1, 1, features)), index, np.ones(index.shape)),), np.zeros(index.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.offset.shape

    def moved(self, move: Moved) -> Value:
        """The same entries at other places."""
        return Value(tuple(replace(term, index=move(term.index), scale=move(term.scale)) for term in self.terms), move(self.offset))

    def times(self, factor: np.ndarray) -> Value:
        """Entry by entry."""
        return Value(tuple(replace(term, scale=term.scale * factor) for term in self.terms), self.offset * factor)

    def shifted(self, summand: np.ndarray) -> Value:
        """With a constant added to each entry."""
        return Value(self.terms, self.offset + summand)

    def plus(self, other: Value) -> Value:
        """Entry by entry."""
        return Value(self.terms + other.terms, self.offset + other.offset)

    def beside(self, other: Value, axis: int) -> Value:
        """The two one after the other along an axis."""
        def widened(value: Value, before: tuple[int, int]) -> tuple[Term, ...]:
            around = [(0, 0)] * len(value.shape)
            around[axis] = before
            return tuple(replace(term, index=np.pad(term.index, around, constant_values=-1), scale=np.pad(term.scale, around))
                         for term in value.terms)
        terms = widened(self, (0, other.shape[axis])) + widened(other, (self.shape[axis], 0))
        return Value(terms, np.concatenate([self.offset, other.offset], axis=axis))

    def positive(self, signed: Container[int]) -> bool:
        """Whether no entry can be negative: a ReLU leaves it as it is. signed: arrays whose values can."""
        return all(term.view.source not in signed and (term.scale >= 0).all() for term in self.terms) and bool((self.offset >= 0).all())

    def pooled(self, window: tuple[int, int]) -> Value:
        """Means over windows without overlap of a value (H, W, C)."""
        return self._windows(window, None)

    def picked(self, window: tuple[int, int], cell: tuple[int, int]) -> Value:
        """Of each window, without overlap, of a value (H, W, C) one cell."""
        return self._windows(window, cell)

    def _windows(self, window: tuple[int, int], cell: tuple[int, int] | None) -> Value:
        height, width = (n // w for n, w in zip(self.shape[:2], window, strict=True))
        size = 1 if cell else math.prod(window)
        terms = []
        for term in self.terms:
            seen, channel, scale = term.as_map()
            if seen.view.pool != (1, 1) and (seen.view.cell is None) != (cell is None):
                raise NotHeld("a mean of maxima, or a maximum of means", "put a layer with a ReLU between them")
            at = cell and tuple(c * pool + inner for c, pool, inner in zip(cell, seen.view.pool, seen.view.cell or (0, 0), strict=True))
            view = replace(seen.view, pool=tuple(a * b for a, b in zip(seen.view.pool, window, strict=True)), cell=at)
            cells = np.arange(height * width).reshape(height, width, 1) * view.shape[2]
            index = np.where(term.index[0, 0] >= 0, cells + channel, -1)
            terms.append(Term(view, index, np.broadcast_to(scale / size, index.shape)))
        offset = _means(self.offset, window) if cell is None else self.offset[cell[0] :: window[0], cell[1] :: window[1]][:height, :width]
        return Value(tuple(terms), offset)

    def conv(self, weights: np.ndarray, bias: np.ndarray, stride: tuple[int, int], pads: tuple[int, int, int, int]) -> Sums:
        """A convolution of a value (H, W, C): weights (kh, kw, C, M'), bias (M',)."""
        kernel, outputs = weights.shape[:2], weights.shape[3]
        whole = Wiring(0, self.shape, (1, 1), kernel, stride, pads)
        if min(whole.places) < 1 or any(zeros >= kernel[axis % 2] for axis, zeros in enumerate(pads)):
            raise NotHeld("a convolution whose kernel is larger than the map, or not larger than the zeros around it", "")
        parts = []
        for term in self.terms:
            seen, channel, scale = term.as_map()
            mine = np.zeros((*kernel, seen.view.shape[2], outputs))
            np.add.at(mine, (slice(None), slice(None), channel), weights * scale[:, None])
            parts.append((replace(seen.view, kernel=kernel, stride=stride, pads=pads), mine.reshape(-1, outputs)))
        if self.offset.any():
            fixed = FloatLayer(weights.reshape(-1, outputs), bias, (whole,)).sums(1, [self.offset.reshape(1, -1)]).reshape(-1, outputs)
            if not np.allclose(fixed, fixed[:1], rtol=1e-9, atol=1e-12):
                raise NotHeld("a constant added to a map before a convolution with zeros around it",
                              "use padding VALID there, or add the constant to the rows of the data set")
            bias = fixed[0]
        return Sums(tuple(parts), bias, np.arange(whole.positions * outputs).reshape(*whole.places, outputs)).tidy()

    def dense(self, weights: np.ndarray, bias: np.ndarray) -> Sums:
        """A product of a value (K,) with weights (K, M)."""
        parts = []
        for term in self.terms:
            mine = np.zeros((term.cells, weights.shape[1]))
            there = term.index >= 0
            np.add.at(mine, term.index[there], weights[there] * term.scale[there, None])
            parts.append((replace(term.view, kernel=term.view.pooled), mine))
        return Sums(tuple(parts), self.offset @ weights + bias, np.arange(weights.shape[1])).tidy()


@dataclass(frozen=True, eq=False)
class Sums:
    """A layer before its activation: wirings with their weights (K, M'), bias (M',), an array that is added, if any; ``index``: of each entry the feature."""

    parts: tuple[tuple[Wiring, np.ndarray], ...]
    bias: np.ndarray
    index: np.ndarray
    residual: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.index.shape

    @property
    def features(self) -> int:
        """P M'."""
        return self.parts[0][0].positions * len(self.bias)

    def tidy(self) -> Sums:
        """With the weights of equal wirings added up."""
        found: dict[Wiring, np.ndarray] = {}
        for wiring, weights in self.parts:
            found[wiring] = found[wiring] + weights if wiring in found else weights
        return replace(self, parts=tuple(found.items()))

    def moved(self, move: Moved) -> Sums:
        """The same entries at other places."""
        return replace(self, index=move(self.index))

    def _by_output(self, constant: np.ndarray) -> np.ndarray:
        """Of a constant for each entry that for each output, (M',); 1 for outputs that no entry is."""
        found, outputs = np.ones(len(self.bias)), self.index.reshape(-1) % len(self.bias)
        flat = np.broadcast_to(constant, self.shape).reshape(-1)
        found[outputs] = flat
        if not np.array_equal(found[outputs], flat, equal_nan=True):
            raise NotHeld("a constant that differs between the cells of a map", "make it one for each channel")
        return found

    def times(self, factor: np.ndarray) -> Sums:
        """Entry by entry."""
        each, whole = self._by_output(factor), self.by_weights()
        return replace(whole, parts=tuple((wiring, weights * each) for wiring, weights in whole.parts), bias=whole.bias * each)

    def shifted(self, summand: np.ndarray) -> Sums:
        """With a constant added to each entry."""
        return replace(self, bias=self.bias + self._by_output(summand))

    def by_weights(self) -> Sums:
        """The same without a residual: as weights that are 1 or 0."""
        if self.residual is None:
            return self
        outputs = len(self.bias)
        height, width = self.parts[0][0].places
        wiring = Wiring(self.residual, (height, width, outputs))
        return replace(self, parts=(*self.parts, (wiring, np.eye(outputs))), residual=None).tidy()

    def plus(self, other: Sums | Value) -> Sums:
        """Entry by entry."""
        if isinstance(other, Sums):
            if len(other.bias) != len(self.bias) or not np.array_equal(other.index, self.index) or (
                    self.parts[0][0].places != other.parts[0][0].places):
                raise NotHeld("a sum of two layers whose values lie differently", "")
            if self.residual is not None:
                other = other.by_weights()
            return replace(self, parts=self.parts + other.parts, bias=self.bias + other.bias,
                           residual=self.residual if self.residual is not None else other.residual).tidy()
        found = self.shifted(other.offset) if other.offset.any() else self
        for term in other.terms:
            found = found._with(term)
        return found

    def _with(self, term: Term) -> Sums:
        """One term of a value added."""
        if (self.residual is None and term.view.pool == (1, 1) and term.cells == self.features and (term.scale == 1).all()
                and np.array_equal(term.index, self.index)):
            return replace(self, residual=term.view.source)
        if len(np.unique(self.index)) < self.index.size:
            raise NotHeld("a sum with values of a layer that stand there more than once", "add before they are repeated")
        places, outputs = self.parts[0][0].places, len(self.bias)
        index, scale = np.full(self.features, -1), np.zeros(self.features)
        index[self.index.reshape(-1)], scale[self.index.reshape(-1)] = term.index.reshape(-1), term.scale.reshape(-1)
        laid = replace(term, index=index.reshape(*places, outputs), scale=scale.reshape(*places, outputs))
        seen, channel, each = laid.as_map()
        weights = np.zeros((seen.view.shape[2], outputs))
        weights[channel, np.arange(outputs)] = each
        return replace(self, parts=(*self.parts, (seen.view, weights))).tidy()

    def pooled(self, window: tuple[int, int]) -> Sums:
        """Means over windows without overlap of a value (H, W, M'): a convolution and a mean are one with a larger kernel and stride."""
        whole, outputs = self.by_weights(), len(self.bias)
        places = self.parts[0][0].places
        if self.shape != (*places, outputs) or not np.array_equal(self.index.reshape(-1), np.arange(self.features)):
            raise NotHeld("a mean over something else than the cells of a map", "")
        parts = []
        for wiring, weights in whole.parts:
            kernel = tuple((w - 1) * s + k for w, s, k in zip(window, wiring.stride, wiring.kernel, strict=True))
            stride = tuple(w * s for w, s in zip(window, wiring.stride, strict=True))
            mine = np.zeros((*kernel, wiring.shape[2], outputs))
            given = weights.reshape(*wiring.kernel, wiring.shape[2], outputs)
            for dy, dx in product(range(window[0]), range(window[1])):
                y, x = dy * wiring.stride[0], dx * wiring.stride[1]
                mine[y : y + wiring.kernel[0], x : x + wiring.kernel[1]] += given / math.prod(window)
            parts.append((replace(wiring, kernel=kernel, stride=stride), mine.reshape(-1, outputs)))
        places = parts[0][0].places
        return Sums(tuple(parts), self.bias, np.arange(math.prod(places) * outputs).reshape(*places, outputs)).tidy()

    def dense(self, weights: np.ndarray, bias: np.ndarray) -> Sums:
        """A product of a value (K,) with weights (K, M), no ReLU between."""
        whole = self.by_weights()
        if whole.parts[0][0].positions > 1:
            raise NotHeld("a dense layer after a convolution without a ReLU between them", "put a ReLU between them")
        spread = np.zeros((len(self.bias), weights.shape[1]))
        np.add.at(spread, self.index, weights)
        parts = tuple((wiring, mine @ spread) for wiring, mine in whole.parts)
        return Sums(parts, whole.bias @ spread + bias, np.arange(weights.shape[1]))

    def layer(self, number: int, activation: Activation | None = None) -> FloatLayer:
        """As layer ``number`` of a network."""
        wirings = tuple(wiring for wiring, _ in self.parts)
        weights = np.concatenate([weights for _, weights in self.parts])
        (first, *more) = wirings
        dense = not more and first.source == number - 1 and first.whole
        return FloatLayer(weights, self.bias, () if dense else wirings, self.residual, activation)


def _means(values: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    (height, width), channels = (n // w for n, w in zip(values.shape[:2], window, strict=True)), values.shape[2]
    cut = values[: height * window[0], : width * window[1]]
    return cut.reshape(height, window[0], width, window[1], channels).mean(axis=(1, 3))
