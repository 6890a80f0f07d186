"""The structure of a results file: all is there with its type and shape, and indices point somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enclaveml.results_schema import (
    ATTRIBUTES,
    FORMAT,
    FORMAT_VERSION,
    OUTPUTS,
    PROOFS,
    REPLICAS,
    ROWS,
    RowStatus,
)

if TYPE_CHECKING:
    from enclaveml.results_reader import Results


def check_structure(results: Results) -> None:
    """Raise FormatError for the first thing that is missing, of another type or shape, or out of range."""
    for name in ATTRIBUTES:
        results.attribute(name)
    if results.attribute("format") != FORMAT:
        raise results.fault("attribute format", f"is {results.attribute('format')!r}, expected {FORMAT!r}")
    version = results.attribute("format_version")
    if version != FORMAT_VERSION:
        raise results.fault("attribute format_version", f"is {version}; this version reads {FORMAT_VERSION}")
    _ = results.status, results.versions, results.ranks  # each checks itself
    lengths = {"N": results.n_rows, "D": results.n_outputs, "M": results.n_proofs, "A": results.n_answers}
    if (results.attribute("rows"), results.attribute("outputs")) != (results.n_rows, results.n_outputs):
        raise results.fault("attributes rows and outputs", "are not the shape of /outputs")
    for column in (*OUTPUTS, *ROWS, *PROOFS, *(REPLICAS if results.has_replicas else ())):
        shape = results.dataset(column.path).shape
        wanted = [
            lengths[s[0]] + s.endswith("+1") if s[0] in lengths else None for s in map(str, column.shape)
        ]
        if any(w is not None and w != got for w, got in zip(wanted, shape)):
            raise results.fault(f"/{column.path}", f"has shape {shape}, expected {tuple(wanted)}")
    _within(results, "proofs/rows", results.proof_rows("rows"), 0, results.n_rows)
    _within(results, "proofs/row_status", results.proof_rows("row_status"), 0, len(RowStatus))
    _within(results, "row/status", results.row("status"), 0, len(RowStatus))
    _within(results, "row/bundle", results.row("bundle"), -1, results.n_proofs)
    if results.has_replicas:
        _within(results, "replicas/row", results.replicas("row"), 0, results.n_rows)
        _within(results, "replicas/status", results.replicas("status"), 0, len(RowStatus))
        _within(results, "replicas/bundle", results.replicas("bundle"), -1, results.n_proofs)
    missing = sorted(set(results.proofs("circuit_id")) - set(results.circuit_ids))
    if missing:
        raise results.fault("/proofs/circuit_id", f"names {missing[0]!r}, which /keys has not")


def _within(results: Results, place: str, values: np.ndarray, low: int, high: int) -> None:
    bad = np.flatnonzero((values.astype(np.int64) < low) | (values.astype(np.int64) >= high))
    if len(bad):
        raise results.fault(f"/{place}[{bad[0]}]", f"is {values[bad[0]]}, expected {low} to {high - 1}")
