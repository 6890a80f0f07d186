"""What a report says of one results file: plain values, taken from the file and from nothing else.

A report repeats what the file claims; it verifies no proof. ``enclaveml audit`` does, and the words
of a report say so.

Letters: N rows, M bundles, D outputs per row, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.audit_rows import job_of
from enclaveml.combine import classes
from enclaveml.provenance import preprocessing
from enclaveml.results_reader import Results, read_results
from enclaveml.results_schema import RowStatus
from enclaveml.seal import check_seal
from enclaveml.zk.interface import SLICED

#: A confusion matrix of more classes than this is not readable.
MOST_CLASSES = 20

#: Rejections that are told one by one; the rest is counted.
MOST_REJECTIONS = 50


@dataclass(frozen=True)
class Span:
    """One proof in time: from when its rank began to when rank 0 had it, seconds since its session's start.

    ``verify`` is what rank 0 then took. NaN where the file does not say.
    """

    session: int
    rank: int
    begin: float
    end: float
    verify: float
    rejected: bool


@dataclass(frozen=True)
class Facts:
    """One file. ``document`` is what --json prints; the arrays are for the plots.

    deviation: (n,) float64, of the rows with a valid proof. prove, verify: (M,) seconds a proof.
    confusion: (C, C) int64, label by class of the proved output; None without integer labels.
    """

    document: Mapping[str, Any]
    deviation: np.ndarray
    prove: np.ndarray
    verify: np.ndarray
    spans: tuple[Span, ...]
    confusion: np.ndarray | None


def read_facts(path: Path) -> Facts:
    """Read a results file. Raises FormatError for one that is damaged, EnvironmentFault for one that cannot be read."""
    with read_results(path) as results:
        return _facts(results)


def _facts(results: Results) -> Facts:
    status, deviation = results.row("status"), results.row("deviation")
    circuits = [_circuit(results, name) for name in results.circuit_ids]
    score, confusion = _scores(results)
    prove = np.asarray(results.proofs("prove_seconds"), float)
    verify = np.asarray(results.proofs("verify_seconds"), float)
    seal = check_seal(results.file)
    known = deviation[np.isfinite(deviation)]
    versions = results.versions
    document = {
        "file": str(results.path),
        "status": results.status.value,
        "exit_code": int(results.attribute("exit_code")),
        "message": results.attribute("message"),
        "started": results.attribute("started"),
        "finished": results.attribute("finished"),
        "wall_seconds": _seconds_between(results.attribute("started"), results.attribute("finished")),
        "rows": results.n_rows,
        "outputs_per_row": results.n_outputs,
        "statuses": {s.name.lower(): int((status == s).sum()) for s in RowStatus if (status == s).any()},
        "coverage": _coverage(results),
        "inputs": results.attribute("inputs"),
        "preprocess": _preprocess(results),
        "strategy": results.attribute("strategy"),
        "sealed": seal.sealed,
        "seal_changes": [f"{c.where}: {c.text}" if c.where else c.text for c in seal.changes][:MOST_REJECTIONS],
        "signed": bool(seal.signature),
        "circuits": circuits,
        "ranks": results.ranks,
        "sessions": json.loads(results.attribute("sessions")),
        "proofs": results.n_proofs,
        "proofs_verified": results.proofs_verified,
        "proof_bytes": int(results.offsets[0][-1]),
        "prove_seconds_total": float(np.nansum(prove)),
        "verify_seconds_total": float(np.nansum(verify)),
        "deviation": {"largest": float(known.max()), "median": float(np.median(known))} if len(known) else None,
        "argmax_differs": int(results.row("argmax_differs").sum()),
        "score": score,
        "combine": {key: str(job_of(results)["combine"].get(key, "unknown")) for key in ("strategy", "input")},
        "combined": _combined(results),
        "rejections": _rejections(results),
        "draws": _draws(results),
        "model_hash": results.attribute("model_hash"),
        "dataset_fingerprint": results.attribute("dataset_fingerprint"),
        "versions": versions,
        "job": results.attribute("job"),
    }
    return Facts(document, known, prove, verify, _spans(results, prove, verify), confusion)


def _coverage(results: Results) -> float | None:
    """``proof.coverage``; None where ``proof.audit`` asks for a bound instead."""
    proof = job_of(results)["proof"]
    return None if proof.get("audit") else proof["coverage"]


def _preprocess(results: Results) -> dict[str, Any] | None:
    """The job's preprocessing: the function, whether it is part of what is proved, and its file's SHA-256; None without one."""
    named = preprocessing(job_of(results).get("model") or {})
    if named is None:
        return None
    return {"function": named[0], "proved": named[1], "sha256": results.versions.get("preprocess_sha256", "")}


def _circuit(results: Results, name: str) -> dict[str, Any]:
    manifest = results.circuit(name).manifest
    used = np.asarray([c == name for c in results.proofs("circuit_id")], bool)
    found: dict[str, Any] = {"circuit_id": name, "proofs": int(used.sum())}
    for key in ("rows", "tolerance", "deviation", "agreement", "samples", "input_scale", "output_scale", "logrows"):
        value = manifest.get(key)
        found[key] = value if type(value) in (int, float) and math.isfinite(value) else None
    found["inputs_bounded"] = manifest.get("inputs_bounded") is True
    found["hides_weights"] = manifest.get("weights") == "hidden"
    settings = manifest.get("settings")
    slices = settings.get("slices") if isinstance(settings, dict) and manifest.get("system") == SLICED else None
    found["slices"] = len(slices) if isinstance(slices, list) else 1
    return found | {key: str(manifest.get(key, "unknown")) for key in ("system", "version", "srs_origin")}


def _scores(results: Results) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """How verified outputs compare with the labels that came with the data; and the confusion matrix (C, C).

    Whole-number labels are classes, by the rule of the job's combining (as in ``combined.Accuracy``); others
    are values, compared where there is one output a row.
    """
    labels = results.labels
    if labels is None:
        return None, None
    job = job_of(results)["combine"]
    redundant = results.has_replicas
    each = results.combined.get("outputs") if redundant else results.proved_outputs()
    if each is None:
        return None, None
    known = ~np.isnan(each).any(axis=1)
    if not redundant:
        known &= results.row("status") == RowStatus.VERIFIED
    each, truth = each[known], labels[known]
    if not len(truth):
        return None, None
    if labels.dtype.kind == "f":
        if each.shape[1] != 1:
            return None, None
        return {"rows": len(truth), "mean_absolute_error": float(np.abs(each[:, 0] - truth).mean())}, None
    voted = redundant and job["strategy"] == "majority_vote"
    kind = "probabilities" if redundant and job["strategy"] == "soft_vote" else job["input"]
    guess = each[:, 0].astype(np.int64) if voted else classes(each, kind)
    right = int((guess == truth).sum())
    score = {"rows": len(truth), "right": right, "accuracy": right / len(truth)}
    n = max(int(truth.max()), int(guess.max())) + 1
    if min(truth.min(), guess.min()) < 0 or n > MOST_CLASSES:
        return score, None
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (truth, guess), 1)
    return score, counts


def _combined(results: Results) -> dict[str, Any]:
    """The job's one answer, and what else is small enough to print."""
    return {name: value.tolist() for name, value in results.combined.items() if value.size <= 64}


def _rejections(results: Results) -> list[dict[str, Any]]:
    """Every bundle of which a row was rejected or inconsistent, with the aggregator's verdict."""
    found = []
    starts, status = results.offsets[1], results.proof_rows("row_status")
    rows = results.proof_rows("rows")
    columns = {name: results.proofs(name) for name in ("id", "rank", "session", "attempt", "verdict")}
    for i in range(results.n_proofs):
        mine = slice(int(starts[i]), int(starts[i + 1]))
        bad = np.isin(status[mine], (RowStatus.REJECTED, RowStatus.INCONSISTENT))
        if bad.any():
            found.append({**{name: _plain(values[i]) for name, values in columns.items()},
                          "status": RowStatus(int(status[mine][bad].min())).name.lower(),
                          "first_row": int(rows[mine][bad][0]), "rows": int(bad.sum())})
    return found


def _draws(results: Results) -> list[str]:
    """What the draws say of each rank's rows, as the file has it in words (``claims.py``)."""
    lines, draws = [], results.draws
    said = {(line["session"], line["rank"]): line["claim"] for line in results.ranks}
    for session, rank in sorted({(d["session"], d["rank"]) for d in draws}):
        mine = [d for d in draws if (d["session"], d["rank"]) == (session, rank)]
        population, drawn = sum(d["of"] for d in mine), sum(d["drawn"] for d in mine)
        claim = said.get((session, rank)) or "none of them is left unproved"
        lines.append(f"rank {rank}: {drawn} of {population} rows drawn: {claim}")
    return lines


def _spans(results: Results, prove: np.ndarray, verify: np.ndarray) -> tuple[Span, ...]:
    witness = np.asarray(results.proofs("witness_seconds"), float)
    # Rank 0 verifies as soon as it can: what it took before the verdict is when the proof had come.
    received = np.asarray(results.proofs("judged"), float) - verify
    starts, status = results.offsets[1], results.proof_rows("row_status")
    session, rank = results.proofs("session"), results.proofs("rank")
    return tuple(
        Span(int(session[i]), int(rank[i]), float(received[i] - prove[i] - witness[i]), float(received[i]),
             float(verify[i]),
             bool(np.isin(status[int(starts[i]):int(starts[i + 1])], (RowStatus.REJECTED,)).any()))
        for i in range(results.n_proofs)
    )


def _seconds_between(started: str, finished: str) -> float | None:
    """Seconds between two ISO 8601 times; None where one is missing or no time."""
    try:
        return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
