"""One bundle of a results file: its envelope, parsed strictly, against every other place that speaks of it.

What is compared here needs no proof; ``audit.py`` has the proof verified. Together: each row's output
is the one in its envelope, and the envelope's is the one that its proof is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from enclaveml.audit_report import Report
from enclaveml.envelope import Envelope, Limits, decode, input_hash, output_hash
from enclaveml.errors import FormatError
from enclaveml.nonce import nonce_of
from enclaveml.results_reader import Results, StoredProof
from enclaveml.results_schema import RowStatus
from enclaveml.zk.interface import Circuit, Proof

_PROVED = (RowStatus.VERIFIED, RowStatus.INCONSISTENT)


@dataclass(frozen=True)
class Claim:
    """A bundle whose envelope says what the file says; its proof is still to be verified.

    rows (n,) int64; inputs (n, *row_shape) are these rows where the file shows them. nonce: of the order that the
    file says it was, with the envelope's job_id, which nothing else in the file says.
    """

    number: int
    circuit_id: str
    rows: np.ndarray
    proof: Proof
    inputs: np.ndarray | None
    nonce: bytes


def limits_of(circuit: Circuit) -> Limits:
    """What an envelope of this circuit may be at most."""
    most = 2 * circuit.proof_bytes + 16 * circuit.rows * circuit.outputs + 8 * circuit.rows + (1 << 16)
    return Limits(max_bytes=most, max_rows=circuit.rows, max_outputs=circuit.outputs, max_proof=2 * circuit.proof_bytes)


class Bundles:
    """Checks bundles of one file; what all of them are compared with is read once, O(N) small numbers."""

    def __init__(self, results: Results, report: Report) -> None:
        self._results, self._report = results, report
        self._row = {name: results.row(name) for name in ("status", "rank", "session", "bundle", "deviation", "argmax_differs")}
        self._nodes = {(line["session"], line["rank"]): line["node_id"] for line in results.ranks}
        self._jobs: dict[int, str] = {}  # job_id by session: each has one, which the file says nowhere else

    @cached_property
    def _answers(self) -> dict[str, np.ndarray]:
        return {name: self._results.replicas(name) for name in ("row", "rank", "session", "status", "bundle")}

    @cached_property
    def _answers_by_bundle(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._answers["bundle"], kind="stable")
        return order, self._answers["bundle"][order]

    def check(self, stored: StoredProof, circuit: Circuit) -> Claim | None:
        """Compare bundle ``stored`` with the file; None where it claims nothing, or nothing that can be checked."""
        if not np.isin(stored.status, _PROVED).any():
            return None
        where = f"bundle {stored.number}"
        shown = None
        if circuit.inputs == "public" and self._results.inputs is not None:
            shown = self._results.input_rows(stored.rows)
        try:
            if not np.isin(stored.status, _PROVED).all():
                raise FormatError("some of its rows are called proved and others rejected, by one proof")
            envelope = decode(stored.envelope, limits_of(circuit))
            self._labels(stored, envelope, circuit, shown)
            if (job := self._jobs.setdefault(stored.session, envelope.job_id)) != envelope.job_id:
                raise FormatError(f"job_id is {envelope.job_id[:80]!r} in the envelope, {job[:80]!r} in an earlier one of its session")
        except FormatError as error:
            self._report.fail(where, str(error), stored.rows)
            return None
        self._values(where, stored, envelope, circuit)
        proof = Proof(envelope.computation, envelope.commitment, envelope.consistency.proved)
        nonce = nonce_of(envelope.job_id, envelope.node_id, stored.rank, stored.circuit_id, stored.round, stored.id, stored.attempt, stored.rows)
        return Claim(stored.number, stored.circuit_id, stored.rows, proof, shown, nonce)

    def _labels(self, stored: StoredProof, envelope: Envelope, circuit: Circuit, shown: np.ndarray | None) -> None:
        """What the aggregator must have seen in an envelope that it accepts. Raises FormatError."""
        hashed = input_hash(circuit.inputs, shown) if shown is not None else bytes(32)
        if circuit.inputs == "public" and shown is None:
            hashed = envelope.input_hash  # nothing to compare with; the proof fails for want of its inputs
        for name, found, expected in (
            ("model_hash", envelope.model_hash.hex(), circuit.model_hash),
            ("circuit_id", envelope.circuit_id.hex(), circuit.circuit_id),
            ("round", envelope.round, stored.round),
            ("bundle", envelope.bundle, stored.id),
            ("attempt", envelope.attempt, stored.attempt),
            ("node_id", envelope.node_id, self._nodes.get((stored.session, stored.rank))),
            ("rows", envelope.rows.tolist(), stored.rows.tolist()),
            ("outputs", envelope.outputs.shape[1], circuit.outputs),
            ("bundle's rows", envelope.consistency.proved.shape[0], circuit.rows),
            ("output scale", envelope.consistency.scale, circuit.output_scale),
            ("tolerance", envelope.consistency.tolerance, circuit.tolerance),
            ("input_hash", envelope.input_hash.hex(), hashed.hex()),
            ("output_hash", envelope.output_hash.hex(), output_hash(envelope.outputs).hex()),
        ):
            if found != expected:
                raise FormatError(f"{name} is {str(found)[:80]} in the envelope, {str(expected)[:80]} in the file")

    def _values(self, where: str, stored: StoredProof, envelope: Envelope, circuit: Circuit) -> None:
        """Outputs, deviations and statuses of the file against those that follow from the envelope."""
        n, report, rows = len(stored.rows), self._report, stored.rows
        fixed = envelope.consistency.proved
        if (fixed[n:] != fixed[n - 1]).any():
            report.fail(where, "its padding is not the last row repeated: the outputs differ", rows[-1:])
        proved = fixed[:n].astype(np.float64) * 2.0**-circuit.output_scale
        floats = envelope.outputs.astype(np.float64)
        with np.errstate(invalid="ignore"):
            deviation = np.abs(proved - floats).max(axis=1)
            within = deviation <= circuit.tolerance  # NaN compares false
        status = np.where(within, np.uint8(RowStatus.VERIFIED), np.uint8(RowStatus.INCONSISTENT))
        self._say(where, "the float output is beyond the tolerance, and the row is called verified", rows,
                  (stored.status == RowStatus.VERIFIED) & ~within)
        self._say(where, "is called inconsistent, and its float output is within the tolerance", rows,
                  (stored.status == RowStatus.INCONSISTENT) & within)
        differs = np.argmax(proved, axis=1) != np.argmax(floats, axis=1)
        mine = np.flatnonzero(self._row["bundle"][rows] == stored.number)
        if len(mine):
            at, row = rows[mine], self._row
            where_row = f"{where}, /row"
            self._same(where_row, "rank", at, row["rank"][at], np.full(len(at), stored.rank))
            self._same(where_row, "session", at, row["session"][at], np.full(len(at), stored.session))
            self._same(where_row, "deviation", at, row["deviation"][at], deviation[mine])
            self._same(where_row, "argmax_differs", at, row["argmax_differs"][at], differs[mine])
            self._same(where, "/proved_outputs", at, self._results.take("proved_outputs", at), proved[mine])
            good = status[mine] == RowStatus.VERIFIED  # others may have been said again later
            if good.any():
                self._same(where, "/outputs", at[good], self._results.take("outputs", at[good]), envelope.outputs[mine][good])
        if self._results.has_replicas:
            self._replicas(where, stored, proved, envelope.outputs, status)

    def _replicas(self, where: str, stored: StoredProof, proved: np.ndarray, floats: np.ndarray, status: np.ndarray) -> None:
        order, bundles = self._answers_by_bundle
        mine = np.sort(order[slice(*np.searchsorted(bundles, [stored.number, stored.number + 1]))])
        if not len(mine):
            return
        place = {row: i for i, row in enumerate(stored.rows.tolist())}
        answers, rows = self._answers, self._answers["row"][mine]
        known = np.array([row in place for row in rows.tolist()])
        self._say(where, "an answer names this bundle, which has not its row", rows, ~known)
        mine, rows = mine[known], rows[known]
        at = np.array([place[row] for row in rows.tolist()], np.int64)
        self._same(f"{where}, /replicas", "rank", rows, answers["rank"][mine], np.full(len(mine), stored.rank))
        self._same(f"{where}, /replicas", "session", rows, answers["session"][mine], np.full(len(mine), stored.session))
        self._say(f"{where}, /replicas", "an answer is called verified, and its proof does not say so", rows,
                  (answers["status"][mine] == RowStatus.VERIFIED) & (status[at] != RowStatus.VERIFIED))
        self._same(where, "/replicas/proved_output", rows, self._results.take("replicas/proved_output", mine), proved[at])
        good = (status[at] == RowStatus.VERIFIED) & (answers["status"][mine] == RowStatus.VERIFIED)
        if good.any():
            self._same(where, "/replicas/output", rows[good],
                       self._results.take("replicas/output", mine[good]), floats[at][good])

    def _same(self, where: str, what: str, rows: np.ndarray, found: np.ndarray, expected: np.ndarray) -> None:
        """Fail the rows in which values of the file are not, bit for bit, those that follow from the envelope."""
        found, expected = np.asarray(found), np.asarray(expected)
        expected = expected.astype(found.dtype)
        if found.dtype.kind == "f":  # NaN is NaN, and -0.0 is not 0.0
            kind = f"u{found.dtype.itemsize}"
            equal = (found.view(kind) == np.ascontiguousarray(expected).view(kind)) | (np.isnan(found) & np.isnan(expected))
        else:
            equal = found == expected
        bad = ~equal.reshape(len(rows), -1).all(axis=1)
        self._say(where, f"{what} is not what the envelope says" if what.startswith("/")
                  else f"{what} does not follow from the envelope", rows, bad)

    def _say(self, where: str, text: str, rows: np.ndarray, bad: np.ndarray) -> None:
        if bad.any():
            self._report.fail(where, text, rows[bad])
