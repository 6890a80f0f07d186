"""The end of a run on rank 0: combine what is verified, write the file, say how it went.

What writes and reads results files is imported at the end, where it is needed: with h5py it takes a tenth of a
second, for which all ranks would wait before their first row.
"""

from __future__ import annotations

import json
import logging
import operator
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from enclaveml import signature
from enclaveml.aggregator import Aggregator
from enclaveml.ledger import final_status
from enclaveml.combined import Accuracy, Combining
from enclaveml.datasets import Dataset
from enclaveml.exchange import STATS
from enclaveml.job import JobSpec, journal_path
from enclaveml.journal import Journal
from enclaveml.progress import table
from enclaveml.provenance import utc_now
from enclaveml.results_schema import FileStatus, RowStatus
from enclaveml.roster import Fate, Member
from enclaveml.together import describe, exit_code_of

log = logging.getLogger(__name__)

# Exit status of a job that was stopped early and can go on.
RESUMABLE = 75


def finished_before(job: JobSpec) -> int | None:
    """The exit status of a job that is to go on and has ended. None if there is something to do."""
    if not job.output.path.exists() or journal_path(job.output.path).exists():
        return None
    from enclaveml.results import read_results

    with read_results(job.output.path) as results:
        code = int(results.attribute("exit_code"))
        log.info("%s is finished already: %s, exit status %d", job.output.path, results.status.value, code)
    return code


def combine_job(job: JobSpec, aggregator: Aggregator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What goes under /combined, and each row's one output (N, D or 1) float64, NaN where nothing is verified.

    Only proved outputs of verified rows and replicas take part, so that nothing within
    the tolerance can be steered by a worker.
    """
    valid = aggregator.status == RowStatus.VERIFIED
    weight_of = {m.rank: m.capacity for m in aggregator.members.values()}
    weights = np.vectorize(lambda rank: weight_of.get(int(rank), 0.0), otypes=[float])(aggregator.rank_of)
    redundant = aggregator.replicas > 1
    combining = Combining(job.combine.strategy, job.combine.input, aggregator.outputs, redundant)
    each, votes = combining.add(aggregator.proved, weights, valid)
    out = combining.result()
    if redundant:
        out["outputs"] = each
        if votes is not None:
            out["votes_by_row"] = votes
    return out, each


def accuracy(job: JobSpec, each: np.ndarray, labels: np.ndarray | None, replicas: int) -> tuple[float, int] | None:
    """Share of rows whose verified class is the label, over how many rows; None without class labels."""
    if labels is None or not np.issubdtype(labels.dtype, np.integer):
        return None
    found = Accuracy(job.combine.strategy, job.combine.input, replicas > 1)
    found.add(each, labels)
    return found.result(labels)


class Finish:
    """Everything that is said and written once the ticks are over."""

    def __init__(self, job: JobSpec, json_path: Path | None, dataset: Dataset, aggregator: Aggregator,
                 journal: Journal, stats: dict[int, np.ndarray]) -> None:
        self._job, self._json_path, self._dataset = job, json_path, dataset
        self._aggregator, self._journal, self._stats = aggregator, journal, stats

    def outcome(self) -> tuple[FileStatus, int, str]:
        """The file's status, the exit status and the last line, from the rows' statuses and the job's policy."""
        status = final_status(self._aggregator.status)
        n, verified = len(status), int((status == RowStatus.VERIFIED).sum())
        not_drawn = int((status == RowStatus.UNPROVED).sum())
        said = f"{verified} of {n} rows verified" + (f", {not_drawn} not drawn" if not_drawn else "")
        circuit = self._aggregator.bundles.circuits.primary
        if circuit is not None and circuit.caution:
            said += f" ({circuit.caution})"
        if self._aggregator.draining:
            return FileStatus.RESUMABLE, RESUMABLE, f"{said}; stopped early, go on with --resume"
        if verified + not_drawn == n:
            return FileStatus.COMPLETE, 0, said
        counts = ", ".join(f"{int((status == s).sum())} {s.name.lower()}" for s in RowStatus
                           if s not in (RowStatus.VERIFIED, RowStatus.UNPROVED) and (status == s).any())
        code = 3 if self._job.proof.strict else 0
        return FileStatus.COMPLETE_UNVERIFIED, code, f"{said}; {counts}"

    def fail(self, error: Exception) -> None:
        """Keep everything known of a job that an error ended; --resume goes on with it once that is mended."""
        self.write(FileStatus.FAILED, exit_code_of(error) or 1, describe(error).strip().splitlines()[-1])

    def write(self, status: FileStatus, code: int, message: str) -> None:
        """End the journal, make the results file from it, and the short answer if asked for."""
        from enclaveml.results import build_results

        aggregator, job = self._aggregator, self._job
        combined, each = combine_job(job, aggregator)
        labels = self._dataset.labels()
        scored = accuracy(job, each, labels, aggregator.replicas)
        for member in aggregator.members.values():
            self._journal.append("rank", self._rank_record(member))
        self._journal.append("end", {"status": status.value, "exit_code": code, "message": message,
                                     "finished": utc_now()})
        self._journal.flush()
        if scored:
            combined["accuracy"] = np.float64(scored[0])
        build_results(self._journal.path, job.output.path, combined=combined, labels=labels, inputs=self._dataset,
                      sign=self._signer())
        if self._json_path is not None:
            self._write_json()
        if status in (FileStatus.COMPLETE, FileStatus.COMPLETE_UNVERIFIED):
            # Everything in the journal is in the file now; what can go on keeps it.
            self._journal.close()
            os.unlink(self._journal.path)
        self._say(status, code, message, scored)

    def _signer(self) -> Callable[[bytes], tuple[bytes, bytes]] | None:
        """What signs the seal's root with the job's key; None where the job names none."""
        path = self._job.output.signing_key
        if path is None:
            return None
        key = signature.load_signing_key(path)
        return lambda root: signature.sign(key, root)

    def _rank_record(self, member: Member) -> dict[str, object]:
        stats = dict(zip(STATS, self._stats[member.rank].tolist(), strict=True))
        computing = [m for m in self._aggregator.members.values() if m.computes]
        # By throughput the plan was made round by round: its share is what it was sent.
        weigh = operator.attrgetter("rows" if self._job.split.capacity == "throughput" else "capacity")
        rate = self._aggregator.pace.rows_per_second(member.rank)
        share = weigh(member) / (sum(map(weigh, computing)) or 1.0) if member.computes else 0.0
        return {
            "rank": member.rank, "node_id": member.node_id, "host": member.host, "device": member.device,
            "memory_gb": member.memory_gb, "capacity": member.capacity, "share": share,
            "rows_per_second": rate if np.isfinite(rate) else None,
            "rows": int(stats["rows_inferred"]), "rows_verified": member.rows_verified, "proofs": member.proofs,
            "rejections": member.rejections, "rows_moved_in": member.rows_moved_in,
            "rows_moved_out": member.rows_moved_out, "copies": member.copies, "discarded": member.discarded, "seconds_inferring": stats["infer_s"],
            "seconds_proving": stats["witness_s"] + stats["prove_s"], "seconds_waiting": stats["wait_s"],
            "fate": member.fate.value, "fate_reason": member.fate_reason, "fate_time": member.fate_time,
            "evidence": member.evidence[:20],
        }

    def _write_json(self) -> None:
        from enclaveml.results import read_results, short_answer

        with read_results(self._job.output.path) as results:
            answer = short_answer(results)
        part = self._json_path.with_name(self._json_path.name + ".tmp")
        part.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
        os.replace(part, self._json_path)

    def _say(self, status: FileStatus, code: int, message: str, scored: tuple[float, int] | None) -> None:
        rows = []
        for member in self._aggregator.members.values():
            r = self._rank_record(member)
            rows.append([
                str(member.rank), member.node_id, member.device, str(r["rows"]), f"{100 * r['share']:.1f}",
                _seconds(r["seconds_inferring"]), _seconds(r["seconds_proving"]), _seconds(r["seconds_waiting"]),
                str(member.proofs), str(member.rejections), member.fate.value,
            ])
        heads = ["rank", "node", "device", "rows", "share %", "infer s", "prove s", "wait s", "proofs", "rejected", "fate"]
        log.info("%s", "\n" + table(heads, rows))
        a = self._aggregator
        if a.proofs_verified:
            rows = sum(member.rows_verified for member in a.members.values())
            log.info("rank 0 verified %d proofs in %s s, %s ms a row; %d rows whose argmax differs between float and "
                     "proof", a.proofs_verified, _seconds(a.verify_seconds),
                     _seconds(1000 * a.verify_seconds / max(1, rows)), a.argmax_flips)
        moved, copies = (sum(getattr(m, name) for m in a.members.values()) for name in ("rows_moved_in", "copies"))
        if moved or copies:
            log.info("%d rows went to ranks that were out of work, which proved %d bundles as well as the ranks that "
                     "were at them; %d bundles discarded", moved, copies, sum(m.discarded for m in a.members.values()))
        if a.fallback_rows:
            log.info("%d rows were proved at the fallback circuit", a.fallback_rows)
        for member in a.members.values():
            if member.fate is not Fate.OK:
                log.error("%s: %s: %s", member, member.fate.value, member.fate_reason.splitlines()[0])
        self._say_samples()
        if scored:
            log.info("accuracy of the proved outputs: %.4f over %d rows", *scored)
        log.info("results: %s", os.path.relpath(self._job.output.path))
        log.log(logging.INFO if code == 0 else logging.ERROR, "%s (exit status %d): %s", status.value, code, message)

    def _say_samples(self) -> None:
        """What the draws say of each rank's rows, as the file has it, and what rank 0 recomputed."""
        from enclaveml.results import read_results

        asked = self._job.proof.audit
        with read_results(self._job.output.path) as results:
            for line in results.ranks:
                if line["claim"]:
                    log.info("rows not drawn: %s", line["claim"])
                if asked is not None and line["wrong_at_most"] > asked.undetected_bad_rows:
                    log.warning("that is more than the %d asked for: see the rows that it did not prove above",
                                asked.undetected_bad_rows)
            lines = results.rechecks
        if lines:
            log.info("rank 0 recomputed %d of %d unproved rows in float, %d differ (a spot check, no proof)",
                     sum(len(line["rows"]) for line in lines), sum(line["of"] for line in lines),
                     sum(line["differ"] for line in lines))


def _seconds(value: float) -> str:
    """Seconds with three significant digits, never 0.000."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
