"""The job-level vector: one answer over all verified rows, added up as they come.

Letters: n rows in one call, D flat outputs, C classes (D, or 2 where D is 1), W as in ``combine``.

The result depends on the set of rows alone, to the last bit: not on their order, on the size of the
chunks, on the number of ranks or on what was re-dispatched, because sums are exact and rounded once.
(``weighted_average`` depends on which rank made a row, as its name says.)

Memory is O(D) for every strategy but ``median``, which has to keep all rows: 8 N D bytes.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .combine import Combined, check_names, check_weights, classes, elected, probabilities

# Every finite float64 is an integer times 2**(e - 53) with frexp's e at least -1073.
_UNIT_EXPONENT = -1073 - 53
# Sums of halves of mantissas, below 2**27 each, stay exact in float64 for 2**26 rows.
_BLOCK_ROWS = 1 << 16


class ExactSum:
    """Column sums of float64 without rounding: each a Python integer, in units of 2**-1126.

    NaN and infinities are added up apart, by the rules of floating point, and win over the finite sum.
    """

    def __init__(self, columns: int) -> None:
        self._total = [0] * columns
        self._special = np.zeros(columns)

    def add(self, values: np.ndarray) -> None:
        """Add ``values`` (n, columns) float64."""
        for start in range(0, len(values), _BLOCK_ROWS):
            self._add_block(values[start : start + _BLOCK_ROWS])

    def _add_block(self, values: np.ndarray) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            with np.errstate(invalid="ignore"):
                self._special += np.where(finite, 0.0, values).sum(axis=0)
            values = np.where(finite, values, 0.0)
        fraction, exponent = np.frexp(values)
        mantissa = np.ldexp(fraction, 53).astype(np.int64)
        lowest = int(exponent.min())
        width = int(exponent.max()) - lowest + 1
        columns = values.shape[1]
        bins = (np.arange(columns) * width + (exponent - lowest)).ravel()
        high = np.bincount(bins, weights=(mantissa >> 26).ravel(), minlength=columns * width)
        low = np.bincount(bins, weights=(mantissa & ((1 << 26) - 1)).ravel(), minlength=columns * width)
        for at in np.flatnonzero((high != 0) | (low != 0)).tolist():
            column, offset = divmod(at, width)
            whole = (int(high[at]) << 26) + int(low[at])
            self._total[column] += whole << (lowest + offset - 53 - _UNIT_EXPONENT)

    def sums(self) -> list[Fraction]:
        """The exact sums of the finite values, one a column."""
        return [Fraction(total, 1 << -_UNIT_EXPONENT) for total in self._total]

    @property
    def special(self) -> np.ndarray:
        """(columns,) float64: 0, or the infinity or NaN that the sum is."""
        return self._special


class JobVector:
    """Accumulates verified rows into one ``Combined``, by ``strategy`` (see ``combine``'s table).

    ``outputs`` is D. Feed it the proved outputs of all verified rows with ``add``, in any order and any
    chunks; or, where rows have replicas, each row's combined value with ``add_combined``.
    """

    def __init__(self, strategy: str, outputs: int, input: str = "logits") -> None:
        check_names(strategy, input)
        self.strategy, self.input, self.outputs = strategy, input, outputs
        self._count = 0
        self._votes = np.zeros(max(outputs, 2), dtype=np.int64)
        self._broken = False
        self._by_weight: dict[float, tuple[ExactSum, int]] = {}
        self._rows: list[np.ndarray] = []

    def add(self, outputs: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add the outputs (n, D) of n verified rows, ``weights`` (n,) being the capacity of each one's rank.

        Raises ValueError for another D and for weights that are missing where they are needed, of
        another length, negative or not finite.
        """
        outputs = self._shaped(outputs, self.outputs)
        self._count += len(outputs)
        if self.strategy == "majority_vote":
            nan = np.isnan(outputs).any(axis=1)
            self._vote(classes(outputs[~nan], self.input), bool(nan.any()))
        elif self.strategy == "soft_vote":
            self._add(probabilities(outputs, self.input), weights)
        else:
            self._add(outputs, weights)

    def add_combined(self, combined: Combined, weights: np.ndarray | None = None) -> None:
        """Add n rows already combined over their replicas, ``combined.value`` (n, W) by the same strategy.

        Each row counts once, whatever its number of replicas: its class is one vote, its probabilities
        or outputs are one sample. ``weights`` (n,) are needed for weighted_average: what a row weighs,
        for instance the sum of its replicas' capacities. Rows without a valid replica are left out.
        """
        if combined.strategy != self.strategy:
            raise ValueError(f"rows combined by {combined.strategy!r} found; {self.strategy!r} allowed")
        width = 1 if self.strategy == "majority_vote" else self.outputs
        held = np.asarray(combined.count) > 0
        values = self._shaped(combined.value, width)[held]
        self._count += len(values)
        if self.strategy == "majority_vote":
            nan = np.isnan(values[:, 0])
            self._vote(values[~nan, 0].astype(np.int64), bool(nan.any()))
        else:
            self._add(values, None if weights is None else np.asarray(weights)[held])

    def result(self) -> Combined:
        """The job-level ``Combined``: value (W,), votes (C,) or None, count () rows. NaN without rows."""
        count = np.array(self._count, dtype=np.int64)
        if self.strategy == "majority_vote":
            value = elected(self._votes, np.array(self._broken))
            return Combined(self.strategy, value, self._votes.copy(), count)
        if self.strategy == "median":
            rows = np.concatenate([np.full((0, self.outputs), np.nan), *self._rows])
            value = np.median(rows, axis=0) if len(rows) else np.full(self.outputs, np.nan)
            return Combined(self.strategy, value, None, count)
        return Combined(self.strategy, self._mean(), None, count)

    def _shaped(self, outputs: np.ndarray, width: int) -> np.ndarray:
        outputs = np.asarray(outputs, dtype=np.float64)
        if outputs.ndim != 2 or outputs.shape[1] != width:
            raise ValueError(f"outputs {outputs.shape} found; (n, {width}) allowed")
        return outputs

    def _vote(self, chosen: np.ndarray, nan: bool) -> None:
        self._votes += np.bincount(chosen, minlength=len(self._votes))
        self._broken |= nan

    def _add(self, values: np.ndarray, weights: np.ndarray | None) -> None:
        if self.strategy == "median":
            self._rows.append(values)
            return
        if self.strategy != "weighted_average":
            weights = np.ones(len(values))
        elif weights is None or np.shape(weights) != (len(values),):
            found = "none" if weights is None else str(np.shape(weights))
            raise ValueError(
                f"weights: {found} found; ({len(values)},) allowed, the capacity of each row's rank"
            )
        weights = np.asarray(weights, dtype=np.float64)
        check_weights(weights)
        # One sum for each distinct weight (a rank's capacity) keeps the weighted sum exact as well.
        for weight in np.unique(weights).tolist():
            total, rows = self._by_weight.get(weight, (ExactSum(self.outputs), 0))
            chosen = values[weights == weight]
            total.add(chosen)
            self._by_weight[weight] = (total, rows + len(chosen))

    def _mean(self) -> np.ndarray:
        weight = sum(Fraction(w) * rows for w, (_, rows) in self._by_weight.items())
        if not weight:
            return np.full(self.outputs, np.nan)
        total, special = [Fraction(0)] * self.outputs, np.zeros(self.outputs)
        for w, (part, _) in self._by_weight.items():
            total = [t + Fraction(w) * s for t, s in zip(total, part.sums(), strict=True)]
            with np.errstate(invalid="ignore"):
                special = special + part.special
        mean = np.array([float(t / weight) for t in total])
        return np.where(special == 0, mean, special)
