"""What a results file says of its rows as a whole: each covered by a bundle or marked, status and job agreeing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from enclaveml import hdf5
from enclaveml.audit_report import Report
from enclaveml.errors import FormatError
from enclaveml.results_reader import Results
from enclaveml.results_schema import FileStatus, RowStatus

_PROVED = (RowStatus.VERIFIED, RowStatus.INCONSISTENT)
_BLOCK = 1 << 22


def job_of(results: Results) -> dict[str, Any]:
    """The resolved job that the file names. Raises FormatError."""
    try:
        job = yaml.safe_load(results.attribute("job"))
        combine, proof, split = job["combine"], job["proof"], job["split"]
        _ = combine["strategy"], combine["input"], proof["coverage"], proof["inputs"], proof["strict"], split["strategy"]
    except (yaml.YAMLError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise results.fault("attribute job", f"is no resolved job: {str(error).splitlines()[0]}") from error
    return job


def check_rows(results: Results, report: Report) -> None:
    """Every row is verified exactly where a bundle verifies it, and its other columns follow."""
    status, bundle = results.row("status"), results.row("bundle")
    report.rows = len(status)
    report.statuses = {s.name.lower(): int((status == s).sum()) for s in RowStatus}
    rows, of_row = results.proof_rows("rows"), results.proof_rows("row_status")
    number = np.repeat(np.arange(results.n_proofs), np.diff(results.offsets[1]))

    verified = np.zeros(len(status), bool)
    verified[rows[of_row == RowStatus.VERIFIED]] = True
    _fail(report, "/row/status", "is verified, and no bundle verifies it", (status == RowStatus.VERIFIED) & ~verified)
    _fail(report, "/row/status", "is not verified, and a bundle verifies it", (status != RowStatus.VERIFIED) & verified)

    # What the row's own bundle made of it, -1 where it names none or one that has it not.
    own = np.full(len(status), -1, np.int64)
    mine = bundle[rows] == number
    own[rows[mine]] = of_row[mine]
    _fail(report, "/row/bundle", "is a bundle without that row", (bundle >= 0) & (own < 0))
    _fail(report, "/row/bundle", "is not the bundle that verifies it", (status == RowStatus.VERIFIED) & (own != RowStatus.VERIFIED))
    proved = np.isin(own, _PROVED)
    for start, values in _blocks(results, "proved_outputs"):
        part = slice(start, start + len(values))
        _fail(report, "/proved_outputs", "has a value, and no proof speaks of the row",
              ~proved[part] & ~np.isnan(values).all(axis=1), start)
    deviation, differs = results.row("deviation"), results.row("argmax_differs")
    _fail(report, "/row/deviation", "has a value, and no proof speaks of the row", ~proved & ~np.isnan(deviation))
    _fail(report, "/row/argmax_differs", "is set, and no proof speaks of the row", ~proved & (differs != 0))
    said = _blocks(results, "outputs")
    for start, values in said:
        missing = np.isnan(values).all(axis=1) & (status[start : start + len(values)] == RowStatus.UNPROVED)
        _fail(report, "/outputs", "has nothing, and the row is called not drawn", missing, start)
    if results.has_replicas:
        _answers(results, report, status, number, rows, of_row)


def _answers(results: Results, report: Report, status: np.ndarray, number: np.ndarray, rows: np.ndarray,
             of_row: np.ndarray) -> None:
    row, own, bundle = (results.replicas(name) for name in ("row", "status", "bundle"))
    some = np.zeros(len(status), bool)
    some[row[own == RowStatus.VERIFIED]] = True
    _fail(report, "/replicas/status", "no answer is verified, and the row is", (status == RowStatus.VERIFIED) & ~some)
    # Each verified answer names a bundle that verifies its row, and each verified line of a bundle has its answer.
    n = len(status)
    lines = set((number * n + rows)[of_row == RowStatus.VERIFIED].tolist())
    named = (bundle * n + row)[own == RowStatus.VERIFIED].tolist()
    bad = [key % n for key in named if key not in lines]
    if bad:
        report.fail("/replicas/bundle", "an answer is called verified, and its bundle does not verify it", sorted(set(bad)))
    for start, values in _blocks(results, "replicas/proved_output"):
        part = slice(start, start + len(values))
        without = (bundle[part] < 0) & ~np.isnan(values).all(axis=1)
        if without.any():
            report.fail("/replicas/proved_output", "has a value, and no proof speaks of it",
                        sorted(set(row[part][without].tolist())))


def check_job(results: Results, report: Report, job: Mapping[str, Any]) -> None:
    """The file's attributes against each other, its rows and its job."""
    status, counts = results.status, report.statuses
    strict, coverage = job["proof"]["strict"], job["proof"]["coverage"]
    proved, unproved = counts["verified"], counts["unproved"]
    done = proved + unproved == report.rows
    code = results.attribute("exit_code")
    if status is FileStatus.COMPLETE and not (done and code == 0):
        report.fail("attribute status", f"is complete with exit status {code}, and {report.rows - proved - unproved} rows "
                                        f"are neither verified nor left out of the draw")
    if status is FileStatus.COMPLETE_UNVERIFIED and (done or code != (3 if strict else 0)):
        report.fail("attribute status", f"is complete_unverified with exit status {code}, which its rows and job do not give")
    if coverage == 1 and job["proof"].get("audit") is None and unproved:
        report.fail("/row/status", "is unproved, and the job asks for all rows",
                    np.flatnonzero(results.row("status") == RowStatus.UNPROVED))
    for name, there, here in (("inputs", job["proof"]["inputs"], results.attribute("inputs")),
                              ("strategy", job["split"]["strategy"], results.attribute("strategy"))):
        if there != here:
            report.fail(f"attribute {name}", f"is {here!r}, its job says {there!r}")
    known = "fingerprint of the data", results.attribute("dataset_fingerprint")
    if results.inputs is not None and known[1]:
        found = fingerprint(results)
        if found != known[1]:
            report.fail("/inputs", f"has the fingerprint {found[:16]}, attribute dataset_fingerprint says {known[1][:16]}")
    if results.inputs is not None and results.attribute("inputs") != "public":
        report.fail("/inputs", f"is in the file, and the inputs are {results.attribute('inputs')}")


def fingerprint(results: Results) -> str:
    """SHA-256 (hex) of ``/inputs`` as ``datasets.Dataset.fingerprint`` makes it."""
    dataset = results.inputs
    assert dataset is not None
    try:
        parts = json.loads(hdf5.get_attribute(dataset, "parts", str))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{results.path}: /inputs: attribute parts is no JSON: {error}") from error
    digest = hashlib.sha256(json.dumps([results.n_rows, str(dataset.dtype), parts]).encode())
    size = max(1, _BLOCK // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
    for start in range(0, results.n_rows, size):
        with hdf5.reading(results.path, "/inputs"):
            digest.update(np.ascontiguousarray(dataset[start : start + size]).tobytes())
    return digest.hexdigest()


def _blocks(results: Results, path: str):
    """(first line, lines) of a dataset of the schema, some MB at a time."""
    dataset = results.dataset(path)
    size = max(1, _BLOCK // max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))
    for start in range(0, dataset.shape[0], size):
        with hdf5.reading(results.path, f"/{path}"):
            yield start, dataset[start : start + size]


def _fail(report: Report, where: str, text: str, bad: np.ndarray, start: int = 0) -> None:
    if bad.any():
        report.fail(where, text, np.flatnonzero(bad) + start)
