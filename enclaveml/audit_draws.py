"""The draws of a job that proves only some rows, made again: seeds, rows, the beacon, and what each rank's say.

What a file no longer knows of a draw is which rows it was from where those were given to other ranks
later; then the rows that are known must be in the order of the seed, and that is all.

Letters: l rows drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclaveml import sampling
from enclaveml.audit_report import Report
from enclaveml.beacon import leaves, root_of, seed_of
from enclaveml.claims import Claim, Lines, claims
from enclaveml.results_reader import Results
from enclaveml.results_schema import RowStatus


@dataclass(frozen=True)
class _Answers:
    """Answers (A,) of ranks to rows, and where their float outputs are in the file."""

    session: np.ndarray
    rank: np.ndarray
    row: np.ndarray
    status: np.ndarray
    outputs: str

    def lines(self, chosen: np.ndarray) -> Lines:
        return Lines(self.session[chosen], self.rank[chosen], self.row[chosen])


def check_draws(results: Results, report: Report, job: Mapping[str, Any]) -> list[str]:
    """Make every draw again. Returns what they say of the rows not drawn, and what they cannot say, a line each."""
    draws, beacons = results.draws, {b["session"]: b for b in results.beacons}
    answers = _answers(results)
    unproved = answers.lines(answers.status == RowStatus.UNPROVED)
    sound = [draw for i, draw in enumerate(draws) if _draw(f"draw {i}", draw, beacons.get(draw["session"]), unproved,
                                                          job["proof"], report)]
    if draws or beacons:
        _uncovered(draws, unproved, report)
    lines = [line for session, beacon in sorted(beacons.items())
             for line in _beacon(f"beacon of session {session}", beacon, results, answers, report)]
    if any(draw["session"] not in beacons for draw in draws):
        lines.insert(0, "that rows were drawn fairly: the aggregator drew them, and could have drawn again until it suited")
    found = _claims(results, sound, unproved)
    if len(sound) == len(draws):
        _compare(results, found, report)
    return lines + _words(found, beacons, job["proof"].get("audit")) + _rechecks(results)


def _answers(results: Results) -> _Answers:
    if results.has_replicas:
        read, row = results.replicas, results.replicas("row")
        return _Answers(read("session"), read("rank"), row, read("status"), "replicas/output")
    return _Answers(results.row("session"), results.row("rank"), np.arange(results.n_rows), results.row("status"), "outputs")


def _draw(where: str, draw: Mapping[str, Any], beacon: Mapping[str, Any] | None, unproved: Lines,
          proof: Mapping[str, Any], report: Report) -> bool:
    """Whether one draw is what its seed gives, as far as its rows are known."""
    rows, before = draw["rows"], len(report.failures)
    if len(rows) != draw["drawn"] or not 0 <= draw["drawn"] <= draw["of"] or (np.diff(rows) <= 0).any():
        report.fail(where, f"has {len(rows)} rows, drawn {draw['drawn']} of {draw['of']}")
        return False
    if not 0 < draw["confidence"] < 1:
        report.fail(where, f"its confidence is {draw['confidence']}")
        return False
    if beacon is not None and draw["seed"] != seed_of(beacon["root"], beacon["value"], draw["rank"]):
        report.fail(where, "its seed does not follow from the sealed outputs and the beacon's value", rows)
    if draw["drawn"] < _asked(proof, draw["of"]):
        report.fail(where, f"{draw['drawn']} of {draw['of']} rows are drawn, the job asks for {_asked(proof, draw['of'])}", rows)
    left = unproved.of(draw["session"], draw["rank"])
    left = left[(left >= draw["start"]) & (left < draw["stop"])]
    wrong = np.intersect1d(left, rows)
    if len(wrong):
        report.fail(where, "its rows were drawn, and are called not drawn", wrong)
        return False
    known = np.union1d(rows, left)
    if beacon is not None:  # then all that it was from are known
        known = np.union1d(known, beacon["rows"][beacon["ranks"] == draw["rank"]])
    try:
        if len(known) > draw["of"]:
            report.fail(where, f"is of {draw['of']} rows, and there are {len(known)} of that rank", left)
        elif len(known) == draw["of"]:
            if not np.array_equal(known[sampling.pick(known, draw["drawn"], draw["seed"])], rows):
                report.fail(where, "its rows are not those that its seed draws", rows)
        elif len(left) and len(rows) and sampling.marks(rows, draw["seed"]).max() > sampling.marks(left, draw["seed"]).min():
            report.fail(where, "its rows are not those that its seed draws", rows)
    except ValueError as error:
        report.fail(where, f"its seed is none: {error}")
    return len(report.failures) == before


def _asked(proof: Mapping[str, Any], population: int) -> int:
    """The fewest rows that a draw by this job may have."""
    audit = proof.get("audit")
    try:
        if audit is None:
            return math.ceil(float(proof["coverage"]) * population)
        return sampling.enough(population, int(audit["undetected_bad_rows"]), float(audit["confidence"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return population


def _uncovered(draws: Sequence[Mapping[str, Any]], unproved: Lines, report: Report) -> None:
    """Rows that are called not drawn were in a draw of their rank."""
    covered = np.zeros(len(unproved.row), bool)
    for draw in draws:
        covered |= ((unproved.session == draw["session"]) & (unproved.rank == draw["rank"])
                    & (unproved.row >= draw["start"]) & (unproved.row < draw["stop"]))
    if not covered.all():
        report.fail("/draws", "rows are called not drawn, and there is no draw of their rank", unproved.row[~covered])


def _beacon(where: str, beacon: Mapping[str, Any], results: Results, answers: _Answers, report: Report) -> list[str]:
    """The sealed outputs are those of the file, as far as it still has them."""
    rows, ranks, leaf = beacon["rows"], beacon["ranks"], beacon["leaf"]
    if leaf.shape[1:] != (32,) or root_of(leaf) != beacon["root"]:
        report.fail(where, "the digest of the outputs is not that of their leaves")
        return []
    width = max(results.n_rows, int(rows.max(initial=0)) + 1)
    mine = np.flatnonzero(answers.session == beacon["session"])
    keys = answers.rank[mine].astype(np.int64) * width + answers.row[mine]
    order = np.argsort(keys, kind="stable")
    wanted = ranks.astype(np.int64) * width + rows
    at = np.searchsorted(keys[order], wanted)
    there = at < len(keys)
    there[there] = keys[order][at[there]] == wanted[there]
    for start in range(0, len(rows), 1 << 12):
        part = np.flatnonzero(there[start : start + (1 << 12)]) + start
        if not len(part):
            continue
        outputs = results.take(answers.outputs, mine[order][at[part]])
        bad = (leaves(rows[part], ranks[part], outputs) != leaf[part]).any(axis=1)
        if bad.any():
            report.fail(where, "the float output is not the one that was sealed", rows[part][bad])
    lines = [f"that the outputs were fixed before the public value {beacon['value'][:80]!r} was: who was told their digest "
             f"{beacon['root']} before that knows it"]
    if not there.all():
        lines.append(f"{int((~there).sum())} of the {len(rows)} sealed outputs: their rows were given to others later")
    return lines


def _claims(results: Results, draws: Sequence[Mapping[str, Any]], unproved: Lines) -> dict[tuple[int, int], Claim]:
    number = np.repeat(np.arange(results.n_proofs), np.diff(results.offsets[1]))
    good = results.proof_rows("row_status") == RowStatus.VERIFIED
    proved = Lines(results.proofs("session")[number[good]], results.proofs("rank")[number[good]],
                   results.proof_rows("rows")[good])
    nodes = {(line["session"], line["rank"]): line["node_id"] for line in results.ranks}
    return claims(draws, nodes, proved, unproved)


def _compare(results: Results, found: Mapping[tuple[int, int], Claim], report: Report) -> None:
    """What /ranks says of the draws is what follows from them."""
    for line in results.ranks:
        claim = found.get((line["session"], line["rank"]))
        wanted = (-1, "") if claim is None else (claim.most, claim.text)
        if (line["wrong_at_most"], line["claim"]) != wanted:
            report.fail("/ranks/claim", f"of rank {line['rank']} does not follow from the draws: {line['wrong_at_most']} and "
                                        f"{line['claim'][:80]!r}, found {wanted[0]} and {wanted[1][:80]!r}")


def _words(found: Mapping[tuple[int, int], Claim], beacons: Mapping[int, Any], audit: Any) -> list[str]:
    asked = audit.get("undetected_bad_rows") if isinstance(audit, dict) else None
    lines = []
    for (session, _), claim in found.items():
        fair = "if the outputs were fixed before the beacon's value" if session in beacons else "if the draw was fair"
        more = f"; the job asked for fewer than {asked + 1:,}" if isinstance(asked, int) and claim.most > asked else ""
        lines.append(f"the rows not drawn, {fair}: {claim.text}{more}")
    return lines


def _rechecks(results: Results) -> list[str]:
    lines = results.rechecks
    if not lines:
        return []
    count, differ = sum(len(line["rows"]) for line in lines), sum(line["differ"] for line in lines)
    return [f"{count} unproved rows that the aggregator says it computed itself in float ({differ} differed): that is no proof"]
