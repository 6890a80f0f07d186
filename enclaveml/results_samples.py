"""The tables of a job that does not prove all of its rows: draws, the beacon, rechecks, and what follows of each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from enclaveml import hdf5
from enclaveml.claims import Lines, claims
from enclaveml.journal_index import JournalIndex
from enclaveml.results_schema import BEACON, DRAWS, RECHECKS, Column, RowStatus


def write_samples(file: hdf5.File, index: JournalIndex) -> None:
    """``/draws``, ``/beacon`` and ``/rechecks``, each where there is anything to be in it."""
    for columns, lines in ((DRAWS, index.draws), (BEACON, index.beacons), (RECHECKS, index.rechecks)):
        if lines:
            _write(file, columns, lines)


def _write(file: hdf5.File, columns: Sequence[Column], lines: Sequence[Mapping[str, Any]]) -> None:
    """A table of which some columns have several values for each line, and ``rows_offset`` cuts them."""
    for column in columns:
        name = column.path.rsplit("/", 1)[1]
        if name == "rows_offset":
            values: Any = np.cumsum([0, *(len(line["rows"]) for line in lines)])
        elif isinstance(lines[0][name], np.ndarray):
            values = np.concatenate([line[name] for line in lines])
        else:
            values = [line[name] for line in lines]
        data = hdf5.texts([str(v) for v in values]) if column.dtype == "text" else np.asarray(values, column.dtype)
        hdf5.write(file, column.path, data, long_name=column.long_name, units=column.units)


def rank_claims(index: JournalIndex) -> dict[tuple[int, int], dict[str, Any]]:
    """(session, rank) to the columns of /ranks that say what its draws mean; of the others nothing."""
    if not index.draws:
        return {}
    lines = [(b.session, b.meta["rank"], b.rows[b.status == RowStatus.VERIFIED]) for b in index.bundles]
    proved = Lines(*(np.concatenate([np.zeros(0, np.int64), *(np.broadcast_to(line[i], len(line[2])) for line in lines)])
                     for i in range(3)))
    answers, left = index.answers, index.answers.status == RowStatus.UNPROVED
    if index.start["strategy"] != "redundant":
        # Only what the file shows: an answer that a later session's replaced is nobody's claim any more.
        counts = np.zeros(len(left), bool)
        counts[index.states.answer[index.states.answer >= 0]] = True
        left = left & counts
    unproved = Lines(answers.session[left], answers.rank[left], answers.row[left])
    nodes = {key: str(known.get("node_id") or "") for key, known in index.ranks.items()}
    found = claims(index.draws, nodes, proved, unproved)
    return {key: {"wrong_at_most": claim.most, "claim": claim.text} for key, claim in found.items()}
