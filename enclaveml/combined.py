"""What a job's verified answers combine to: ``/combined``, a pure function of statuses, outputs and weights.

The aggregator writes it and an audit does it again: the result depends on the set of verified
answers alone, to the last bit, and not on their order or on the size of chunks (see ``job_vector``).

Letters: N rows, n rows in a chunk, r answers of a row, D outputs of an answer.
"""

from __future__ import annotations

import numpy as np

from enclaveml.combine import classes, combine_rows
from enclaveml.job_vector import JobVector


class Combining:
    """Takes chunks of rows with their answers; :meth:`result` is what goes under ``/combined``.

    ``redundant``: rows go to several ranks, and each row's answers are combined first.
    """

    def __init__(self, strategy: str, kind: str, outputs: int, redundant: bool) -> None:
        self.strategy, self.kind, self._redundant = strategy, kind, redundant
        self._vector = JobVector(strategy, outputs, kind)

    def add(
        self, proved: np.ndarray, weights: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Take n rows: proved outputs (n, r, D), the capacity of each answer's rank (n, r), verified (n, r).

        Returns each row's one output (n, W), NaN where nothing is verified, and its votes or None.
        """
        if not self._redundant:
            held = valid[:, 0]
            self._vector.add(proved[held, 0], weights[held, 0])
            return np.where(held[:, None], proved[:, 0], np.nan), None
        rows = combine_rows(self.strategy, proved, weights, valid, self.kind)
        total = np.zeros(len(proved))
        for column in np.sort(np.where(valid, weights, 0.0), axis=1).T:  # in no order of ranks
            total = total + column
        self._vector.add_combined(rows, total)
        return rows.value, rows.votes

    def result(self) -> dict[str, np.ndarray]:
        """The job-level arrays: result, count and, for majority_vote, votes."""
        found = self._vector.result()
        out = {"result": found.value, "count": np.asarray(found.count)}
        if found.votes is not None:
            out["votes"] = found.votes
        return out


class Accuracy:
    """Share of rows whose verified class is the label, over rows with a verified output."""

    def __init__(self, strategy: str, kind: str, redundant: bool) -> None:
        self._voted = redundant and strategy == "majority_vote"
        self._kind = "probabilities" if redundant and strategy == "soft_vote" else kind
        self._right = self._known = 0

    def add(self, each: np.ndarray, labels: np.ndarray) -> None:
        """Take n rows' outputs (n, W) as ``Combining.add`` returns them, and their labels (n,)."""
        known = ~np.isnan(each).any(axis=1)
        if not known.any():
            return
        chosen = each[known, 0].astype(np.int64) if self._voted else classes(each[known], self._kind)
        self._right += int((chosen == labels[known]).sum())
        self._known += int(known.sum())

    def result(self, labels: np.ndarray | None) -> tuple[float, int] | None:
        """(share, rows), or None without class labels or verified rows."""
        if labels is None or not np.issubdtype(labels.dtype, np.integer) or not self._known:
            return None
        return self._right / self._known, self._known
