"""Combining the proved outputs of several replicas, or of all rows, into one answer. Pure numpy, float64.

Letters: N rows, R replicas of a row, D flat outputs of a row, C classes (D, or 2 where D is 1).

What each strategy gives, for logits (``input="logits"``) or probabilities:

=================  ========================================================================  =======
strategy           value                                                                     length
=================  ========================================================================  =======
average            mean of the outputs as they are                                           D
weighted_average   mean of the outputs, weighted by the capacity of the rank that made each  D
median             per-element median; of an even number, the mean of the middle two         D
soft_vote          mean of the softmax probabilities of the logits (one logit: its sigmoid,  D
                   the probability of class 1); probabilities are averaged as they are
majority_vote      class index that most replicas choose, as a float; ties go to the lowest  1
                   index. ``votes`` (C,) int64 has the counts. A replica chooses its largest
                   output, ties to the lowest index; with one output, class 1 where the
                   logit is above 0 or the probability above 0.5, else class 0
=================  ========================================================================  =======

Only what is marked valid (verified) takes part. A row with nothing valid gives NaN and no votes; so
does ``weighted_average`` where the valid weights are all 0. NaN in a valid output gives NaN.

No result depends on the order of replicas or rows: of replicas, values are sorted before they are
added; over rows, sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRATEGIES = ("average", "weighted_average", "majority_vote", "soft_vote", "median")
INPUTS = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Combined:
    """``value`` (…, W) float64, W by the module's table; ``votes`` (…, C) int64, or None unless the
    strategy is majority_vote; ``count`` (…) int64, the replicas (or rows) that took part."""

    strategy: str
    value: np.ndarray
    votes: np.ndarray | None
    count: np.ndarray


def combine(
    strategy: str,
    outputs: np.ndarray,
    weights: np.ndarray,
    input: str = "logits",
    valid: np.ndarray | None = None,
) -> Combined:
    """Combine over the first axis: ``outputs`` (R, …, D), ``weights`` (R,) or (R, …), ``valid`` (R, …) bool.

    ``weights`` are capacities in any unit, used by weighted_average alone; ``valid`` None means all.
    With ``outputs`` (R, D) that is one item over R replicas, and ``value`` has shape (W,).

    Raises ValueError for shapes that do not fit, a weight that is negative or not finite, and unknown
    names of strategy or input.
    """
    outputs, weights, valid = _checked(strategy, input, outputs, weights, valid)
    count = valid.sum(axis=0, dtype=np.int64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if strategy == "majority_vote":
            votes, broken = _votes(outputs, valid, input)
            return Combined(strategy, elected(votes, broken), votes, count)
        if strategy == "weighted_average":
            value = _weighted_mean(outputs, weights, valid)
        elif strategy == "median":
            value = _median(outputs, valid, count)
        else:
            scores = probabilities(outputs, input) if strategy == "soft_vote" else outputs
            value = _ordered_sum(scores, valid) / count[..., None]
    return Combined(strategy, value, None, count)


def combine_rows(
    strategy: str,
    outputs: np.ndarray,
    weights: np.ndarray,
    valid: np.ndarray,
    input: str = "logits",
) -> Combined:
    """Combine the replicas of N rows: ``outputs`` (N, R, D), ``weights`` (N, R), ``valid`` (N, R) bool.

    ``value`` is (N, W). Rows are independent of each other: call it on chunks of any size.
    """
    outputs, weights, valid = np.asarray(outputs), np.asarray(weights), np.asarray(valid)
    if outputs.ndim != 3 or weights.shape != outputs.shape[:2] or valid.shape != outputs.shape[:2]:
        raise ValueError(
            f"outputs {outputs.shape}, weights {weights.shape} and valid {valid.shape} found; "
            f"(N, R, D), (N, R) and (N, R) allowed"
        )
    return combine(strategy, np.moveaxis(outputs, 1, 0), weights.T, input, valid.T)


def replicas_by_row(rows: np.ndarray, outputs: np.ndarray, weights: np.ndarray, valid: np.ndarray):
    """From one entry a replica to one entry a row, for ``combine_rows``.

    ``rows`` (M,) int64, ``outputs`` (M, D), ``weights`` (M,), ``valid`` (M,) bool, in any order. Returns
    the rows, ascending (N,) int64, and outputs (N, R, D) float64, weights (N, R), valid (N, R); R is the
    largest number of entries that a row has, and places beyond a row's entries are not valid.
    """
    rows = np.asarray(rows, dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    found, first, counts = np.unique(rows[order], return_index=True, return_counts=True)
    replicas = int(counts.max(initial=1))
    at = np.repeat(np.arange(len(found)), counts)
    slot = np.arange(len(rows)) - np.repeat(first, counts)
    outputs = np.asarray(outputs, dtype=np.float64)
    packed = np.zeros((len(found), replicas, outputs.shape[1]))
    packed_weights, packed_valid = np.zeros((len(found), replicas)), np.zeros((len(found), replicas), bool)
    packed[at, slot] = outputs[order]
    packed_weights[at, slot] = np.asarray(weights, dtype=np.float64)[order]
    packed_valid[at, slot] = np.asarray(valid, dtype=bool)[order]
    return found, packed, packed_weights, packed_valid


def classes(outputs: np.ndarray, input: str = "logits") -> np.ndarray:
    """The class that each output (…, D) stands for: (…) int64, by the rule of majority_vote."""
    outputs = np.asarray(outputs, dtype=np.float64)
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > (0.0 if input == "logits" else 0.5)).astype(np.int64)
    return np.argmax(outputs, axis=-1).astype(np.int64)


def probabilities(outputs: np.ndarray, input: str = "logits") -> np.ndarray:
    """Softmax over the last axis of logits (…, D), or the sigmoid where D is 1; probabilities as they are."""
    outputs = np.ascontiguousarray(outputs, dtype=np.float64)
    if input == "probabilities":
        return outputs
    with np.errstate(invalid="ignore", over="ignore"):
        if outputs.shape[-1] == 1:
            small = np.exp(-np.abs(outputs))  # never overflows
            return np.where(outputs >= 0, 1.0, small) / (1.0 + small)
        powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


def elected(votes: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """From ``votes`` (…, C) the class index (…, 1) float64; NaN without votes or where ``broken`` (…)."""
    winner = np.argmax(votes, axis=-1).astype(np.float64)
    return np.where(broken | (votes.sum(axis=-1) == 0), np.nan, winner)[..., None]


def _votes(outputs: np.ndarray, valid: np.ndarray, input: str) -> tuple[np.ndarray, np.ndarray]:
    """Votes (…, C), and whether a valid replica has NaN (…): it chooses nothing, and spoils the election."""
    nan = np.isnan(outputs).any(axis=-1) & valid
    number = max(outputs.shape[-1], 2)
    chosen = np.where(valid & ~nan, classes(outputs, input), -1)
    votes = np.stack([(chosen == c).sum(axis=0, dtype=np.int64) for c in range(number)], axis=-1)
    return votes, nan.any(axis=0)


def _ordered_sum(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Sum over the first axis of what is valid, whatever the order of replicas. NaN sorts last and stays."""
    total = np.zeros(values.shape[1:])
    for replica in np.sort(np.where(valid[..., None], values, 0.0), axis=0):
        total = total + replica
    return total


def _weighted_mean(outputs: np.ndarray, weights: np.ndarray, valid: np.ndarray) -> np.ndarray:
    weights = np.where(valid, weights, 0.0)
    # Relative to the largest, equal weights are exactly 1: the plain mean, and one replica as it is.
    weights = weights / weights.max(axis=0)
    total = _ordered_sum(weights[..., None], valid)
    return _ordered_sum(outputs * weights[..., None], valid) / total


def _median(outputs: np.ndarray, valid: np.ndarray, count: np.ndarray) -> np.ndarray:
    ordered = np.sort(np.where(valid[..., None], outputs, np.inf), axis=0)
    nothing = count[..., None] == 0
    lower, upper = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(outputs) - 1)
    low = np.take_along_axis(ordered, lower[None, ..., None], axis=0)[0]
    high = np.take_along_axis(ordered, upper[None, ..., None], axis=0)[0]
    nan = (np.isnan(outputs) & valid[..., None]).any(axis=0)
    # The sum of two large values may be infinite where their mean is not.
    return np.where(nothing | nan, np.nan, np.where(low == high, low, low / 2 + high / 2))


def _checked(
    strategy: str, input: str, outputs: np.ndarray, weights: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    check_names(strategy, input)
    outputs = np.asarray(outputs, dtype=np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    shape = outputs.shape[:-1]
    valid = np.ones(shape, bool) if valid is None else np.asarray(valid, dtype=bool)
    if outputs.ndim < 2 or 0 in (outputs.shape[0], outputs.shape[-1]):
        raise ValueError(f"outputs {outputs.shape} found; (R, …, D) with R and D at least 1 allowed")
    if weights.shape not in (shape, shape[:1]) or valid.shape != shape:
        raise ValueError(
            f"weights {weights.shape} and valid {valid.shape} found beside outputs {outputs.shape}; "
            f"{shape} for both, or {shape[:1]} for weights, allowed"
        )
    check_weights(weights)
    return (
        outputs,
        np.broadcast_to(weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim)), shape),
        valid,
    )


def check_names(strategy: str, input: str) -> None:
    """Raise ValueError, naming what is allowed, for an unknown strategy or input."""
    if strategy not in STRATEGIES:
        raise ValueError(f"combine.strategy: {strategy!r} found; {', '.join(STRATEGIES)} allowed")
    if input not in INPUTS:
        raise ValueError(f"combine.input: {input!r} found; {', '.join(INPUTS)} allowed")


def check_weights(weights: np.ndarray) -> None:
    """Raise ValueError for a weight that is negative or not finite."""
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise ValueError("weights: a negative or non-finite number found; finite numbers, 0 or more, allowed")
