"""``enclaveml audit``: check a results file, with neither the inputs nor the weights nor the cluster.

Needs numpy and h5py, and ezkl where it made the proofs. Everything is derived anew from the file:

 1. The seal: has anything changed since it was made, and who signed it.
 2. The structure of the file, and each circuit's id from its keys, settings and SRS.
 3. Every bundle: its envelope against all that the file says of it, its proof against its circuit.
 4. The rows: each covered or marked, draws, the combined result.
 5. What all of this does not show.

Nothing in a file can make this raise anything but a FormatError, and that becomes a failure of the file.
AUDIT.md says what is found and what is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml import hdf5, input_key, sampling, signature
from enclaveml.audit_bundle import Bundles, Claim
from enclaveml.audit_combined import check_combined
from enclaveml.audit_draws import check_draws
from enclaveml.audit_limits import limits
from enclaveml.audit_report import Report
from enclaveml.audit_rows import check_job, check_rows, job_of
from enclaveml.datasets import Dataset, open_dataset
from enclaveml.errors import FormatError, JobError
from enclaveml.input_key import order_key
from enclaveml.preprocess_function import digest
from enclaveml.preprocessing import preprocessed
from enclaveml.progress import Progress
from enclaveml.provenance import preprocessing, preprocessing_words
from enclaveml.results_check import check_structure
from enclaveml.results_reader import Results
from enclaveml.results_schema import RowStatus
from enclaveml.seal import SealCheck, check_seal
from enclaveml.srs_file import verifier_srs
from enclaveml.zk.auditing import Auditor, Statement
from enclaveml.zk.systems import audit_system

log = logging.getLogger(__name__)

#: Bundles in hand for each process: one that it verifies and one that waits.
AHEAD = 2


@dataclass(frozen=True)
class AuditOptions:
    """What is to be checked, and against what.

    circuit_ids: hex, of the model's owner; each circuit that proves something must be among them.
    max_tolerance: absolute, in units of the outputs. inputs, key, scale:
    the data, as a job names them. preprocess: the job's preprocessing where it lies outside of the proofs, as
    FILE.py:function in the current folder, or "none" for data that are preprocessed already. srs: the whole SRS file, to commit to committed inputs, and to compare.
    input_key: the file of the job's input key, with which batch proofs are tied to committed inputs (None: that beside the results). sample: check
    only so many proofs, drawn at random. processes: 0 for one a core.
    """

    results: Path
    circuit_ids: tuple[str, ...] = ()
    max_tolerance: float | None = None
    inputs: Path | None = None
    key: str | tuple[str, ...] | None = None
    scale: float | None = None
    preprocess: str | None = None
    srs: Path | None = None
    input_key: Path | None = None
    public_key: Path | None = None
    sample: int | None = None
    processes: int = 0


def audit(options: AuditOptions) -> Report:
    """Check a results file.

    Raises EnvironmentFault (a file that cannot be read, no SRS), FormatError (no HDF5 file at all),
    JobError (the data given with ``inputs``).
    """
    started = time.monotonic()
    report = Report(str(options.results))
    public_key = signature.load_public_key(options.public_key) if options.public_key else None
    file = hdf5.open_read(options.results)
    try:
        seal = check_seal(file)
        _seal(report, seal, public_key)
        results = Results(options.results, file)
        with _damage(report):
            check_structure(results)
            _Audit(options, results, report).run(seal)
    finally:
        file.close()
    report.seconds = time.monotonic() - started
    return report


@contextlib.contextmanager
def _damage(report: Report) -> Iterator[None]:
    """Damage that ends the audit early is a failure of the file; what was found before stays."""
    try:
        yield
    except FormatError as error:
        report.fail("", str(error).removeprefix(f"{report.path}: "))
        report.limits.append("anything further: the file is damaged, and the audit ended there")


def _seal(report: Report, seal: SealCheck, public_key: bytes | None) -> None:
    for change in seal.changes:
        report.fail(change.where, change.text, change.rows)
    report.facts["seal"] = seal.root if seal.sealed else "none"
    if not seal.signature or not seal.public_key:
        if public_key is not None:
            report.fail("/seal", "is not signed, and a public key was given" if seal.sealed else
                        "the file is not sealed, and a public key was given")
        return
    report.facts["signed_by"] = seal.public_key
    if public_key is None:
        return
    try:
        held = signature.holds(public_key, bytes.fromhex(seal.signature), bytes.fromhex(seal.root))
    except ValueError:
        held = False
    if not held or seal.public_key != public_key.hex():
        report.fail("/seal", f"the signature is not that of the public key given, {public_key.hex()}")


class _Audit:
    """The steps after the seal, on a file whose structure holds."""

    def __init__(self, options: AuditOptions, results: Results, report: Report) -> None:
        self._options, self._results, self._report = options, results, report
        self._statements: dict[str, Statement] = {}
        self._auditors: dict[str, Auditor] = {}
        self._seen: dict[bytes, tuple[int, bytes]] = {}
        self._tied = 0
        self._in_hand: dict[int, np.ndarray] = {}
        self._bad: set[int] = set()

    def run(self, seal: SealCheck) -> None:
        results, report, options = self._results, self._report, self._options
        job = job_of(results)
        report.facts["status"] = results.status.value
        report.facts["model_hash"] = results.attribute("model_hash")
        self._preprocessing(job.get("model") or {})
        check_rows(results, report)
        check_job(results, report, job)
        self._circuits()
        with self._data() as data:
            self._proofs(data)
        draws = check_draws(results, report, job)
        check_combined(results, report, job)
        status = results.row("status")
        failed = np.zeros(len(status), bool)
        failed[list(report.failed_rows)] = True
        covered = np.isin(results.row("bundle"), np.array(sorted(self._good), np.int64))
        report.rows_checked = int(((status == RowStatus.VERIFIED) & covered & ~failed).sum())
        if options.inputs is not None:
            report.facts["inputs"] = f"{self._tied} of {report.proofs_checked} proofs checked are about the data given"
        used = [(s.circuit, audit_system(s.circuit.system).input_limit(s)) for s in self._statements.values()]
        installed = {s.circuit.system: audit_system(s.circuit.system).version() for s in self._statements.values()}
        report.limits += limits(
            results, report, used, seal, draws, circuit_given=bool(options.circuit_ids), srs_given=options.srs is not None,
            inputs_given=options.inputs is not None, key_given=options.public_key is not None, installed=installed,
            preprocess_given=options.preprocess not in (None, "none"),
        )

    def _preprocessing(self, model: Mapping[str, Any]) -> None:
        """Tell of the job's preprocessing, and refuse data that are to be compared with rows that they are not.

        Raises JobError for ``--preprocess`` where it is missing, or where the file has no such thing.
        """
        named, given, inputs = preprocessing(model), self._options.preprocess, self._options.inputs
        outside = named[0] if named and not named[1] else ""
        if named:
            self._report.facts["preprocessing"] = preprocessing_words(named)
        if outside:
            self._report.facts["preprocess_outside"] = outside
        if outside and inputs is not None and given is None:
            raise JobError(f"--inputs {inputs}: the rows that the proofs speak of are what {outside} made of the data, outside of the "
                           f"proofs; give --preprocess {outside} to have it done to these data too, or --preprocess none where "
                           "they are preprocessed already")
        if given is not None and (inputs is None or not outside):
            raise JobError(f"--preprocess {given}: " + ("is for --inputs; give the data" if outside else
                                                        "the file's job has no preprocessing outside of its proofs"))

    # -- circuits ----------------------------------------------------------------

    def _circuits(self) -> None:
        results, report, options = self._results, self._report, self._options
        wanted = [circuit_id.lower() for circuit_id in options.circuit_ids]
        report.facts["circuit_given"] = bool(wanted)
        used = results.proofs("circuit_id")
        proved = self._proved_rows(used)
        for circuit_id in results.circuit_ids:
            where = f"/keys/{circuit_id[:16]}"
            try:
                keys = results.circuit(circuit_id)
                found = audit_system(keys.manifest.get("system")).statement(circuit_id, keys)
            except FormatError as error:
                report.fail(where, str(error).removeprefix(f"{results.path}: "))
                continue
            circuit = found.circuit
            self._statements[circuit_id] = found
            report.circuits.append({
                "circuit": circuit_id, "role": circuit.role, "rows": len(proved.get(circuit_id, ())),
                "proofs": used.count(circuit_id), "rows_a_proof": circuit.rows,
                "inputs": circuit.inputs + (", bounded" if circuit.inputs_bounded else ""), "scale": circuit.input_scale, "output_scale": circuit.output_scale,
                "tolerance": circuit.tolerance, "srs": circuit.srs_origin, "system": f"{circuit.system} {circuit.version}" + (f", {circuit.slices} linked slices" if circuit.slices > 1 else "") + ", weights hidden" * circuit.hides_weights,
            })
            if circuit.hides_weights:
                report.facts |= {"kind_of_proof": "inputs and weights hidden", "weights_hidden": True, "circuit_id": circuit_id}
            elif circuit.caution:
                report.facts["kind_of_proof"] = circuit.caution
            if options.srs is not None and keys.srs and verifier_srs(options.srs) != keys.srs:
                report.fail(where, f"its SRS is not that of {options.srs}")
            if circuit.outputs != results.n_outputs:
                report.fail(where, f"has {circuit.outputs} outputs a row, the file has {results.n_outputs}")
                del self._statements[circuit_id]
            if circuit.model_hash != results.attribute("model_hash"):
                report.fail(where, f"is of model {circuit.model_hash[:16]}, the file says {results.attribute('model_hash')[:16]}")
            if circuit.inputs != results.attribute("inputs"):
                report.fail(where, f"has {circuit.inputs} inputs, the file says {results.attribute('inputs')}")
            if wanted and circuit_id not in wanted and circuit_id in proved:
                given = f"the one given is {wanted[0]}" if len(wanted) == 1 else f"and none of the {len(wanted)} given"
                report.fail(where, f"is circuit {circuit_id}, {given}: its proofs bind these rows to no model",
                            proved[circuit_id])
            if options.max_tolerance is not None and not circuit.tolerance <= options.max_tolerance:
                report.fail(where, f"accepts a tolerance of {circuit.tolerance:g}, more than {options.max_tolerance:g}")

    def _proved_rows(self, used: list[str]) -> dict[str, np.ndarray]:
        """The rows whose state rests on a proof of each circuit, by its id; nothing for one that proves none."""
        starts, rows = self._results.offsets[1], self._results.proof_rows("rows")
        made = self._results.proof_rows("row_status")
        names, of = np.unique(np.array(used, dtype=str), return_inverse=True)
        number = np.repeat(np.arange(len(used)), np.diff(starts))
        circuit = of[number] if len(used) else number
        # A row that one circuit was too coarse for is, in the end, the other one's.
        counts = self._results.row("bundle")[rows] == number
        proving = (made == RowStatus.VERIFIED) | ((made == RowStatus.INCONSISTENT) & counts)
        return {str(name): found for i, name in enumerate(names)
                if len(found := np.unique(rows[proving & (circuit == i)]))}

    # -- proofs ------------------------------------------------------------------

    @contextlib.contextmanager
    def _data(self) -> Iterator[Dataset | None]:
        """The data given, if any. Raises JobError where their rows are not as many as the file's."""
        options = self._options
        if options.inputs is None:
            yield None
            return
        with self._given() as data:
            if data.rows != self._results.n_rows:
                raise JobError(f"{options.inputs}: has {data.rows} rows, {options.results} has {self._results.n_rows}")
            yield data

    @cached_property
    def _key(self) -> bytes:
        """The job's input key. Raises EnvironmentFault where there is none, or another's."""
        wanted = str(self._results.versions.get(input_key.DIGEST, ""))
        return input_key.load(self._options.input_key or input_key.key_path(self._options.results), wanted)

    def _given(self) -> Dataset:
        """The data given, preprocessed as asked for. A function other than the one that the file names is told of."""
        options = self._options
        data = open_dataset(options.inputs, options.key, scale=options.scale)
        if options.preprocess in (None, "none"):
            return data
        there, here = self._results.versions.get("preprocess_sha256", ""), digest(options.preprocess, Path())
        if there and there != here:
            self._report.notes.append(f"--preprocess {options.preprocess}: its file has the SHA-256 {here[:16]}, the job's had {there[:16]}")
        return preprocessed(data, options.preprocess, Path())

    def _chosen(self, numbers: np.ndarray) -> set[int]:
        """Of the bundles that prove something, those whose proofs are to be verified."""
        sample = self._options.sample
        if sample is None or sample >= len(numbers):
            return set(numbers.tolist())
        chosen = secrets.SystemRandom().sample(numbers.tolist(), sample)
        self._report.limits.append(
            f"the {len(numbers) - sample} proofs that were not drawn: "
            + sampling.words(len(numbers), sampling.bad_at_most(len(numbers), sample), "the file's", "proofs")
        )
        return set(chosen)

    def _proofs(self, data: Dataset | None) -> None:
        results, report = self._results, self._report
        bundles = Bundles(results, report)
        starts = results.offsets[1]
        proving = np.isin(results.proof_rows("row_status"), (RowStatus.VERIFIED, RowStatus.INCONSISTENT))
        sums = np.append(0, np.cumsum(proving))
        numbers = np.flatnonzero(np.diff(sums[starts]) > 0)
        report.proofs = len(numbers)
        chosen = self._chosen(numbers)
        processes = self._options.processes or _cores()
        self._good: set[int] = set()
        rows = int(np.diff(starts)[sorted(chosen)].sum()) if chosen else 0
        self._progress, self._rows_done = Progress(rows, logger=log), 0
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            stack.callback(self._progress.close)
            for number in numbers.tolist():
                stored = results.proof(number)
                found = self._statements.get(stored.circuit_id)
                if found is None:
                    report.fail(f"bundle {number}", "has no circuit to be verified against", stored.rows)
                    continue
                claim = bundles.check(stored, found.circuit)
                if claim is None:
                    continue
                self._repeats(claim, found.circuit.inputs)
                if number in chosen:
                    self._submit(claim, found, data, processes)
                    while len(self._in_hand) >= AHEAD * processes:
                        self._collect()
            while self._in_hand:
                self._collect()

    def _submit(self, claim: Claim, found: Statement, data: Dataset | None, processes: int) -> None:
        circuit_id, rows = claim.circuit_id, claim.rows
        auditor = self._auditors.get(circuit_id)
        if auditor is None:
            auditor = audit_system(found.circuit.system).auditor(found, processes, data is not None, self._options.srs, log.info)
            self._auditors[circuit_id] = auditor
        owned = None if data is None else data.read_rows(rows)
        self._in_hand[claim.number] = rows
        key = order_key(self._key, claim.nonce) if owned is not None and found.circuit.masked else b""
        auditor.submit(claim.number, claim.proof, owned if claim.inputs is None else claim.inputs, owned, claim.nonce, key)

    def _collect(self) -> None:
        """Take what is ready; waits a little where nothing is."""
        ready = [checked for auditor in self._auditors.values() for checked in auditor.poll()]
        for checked in ready:
            rows = self._in_hand.pop(checked.task)
            self._report.proofs_checked += 1
            self._rows_done += len(rows)
            if checked.error:
                self._report.fail(f"bundle {checked.task}", f"its proof: {checked.error}", rows)
                self._bad.add(checked.task)
            else:
                self._good.add(checked.task)
            self._tied += checked.owned
            self._progress.update(self._rows_done, self._report.proofs_checked, len(self._bad))
        if not ready:
            busy = [auditor for auditor in self._auditors.values() if auditor.outstanding]
            for auditor in busy:
                auditor.wait(0.1 / len(busy) ** 2)

    def _repeats(self, claim: Claim, inputs: str) -> None:
        """Note proofs, commitments and hashes that are there more than once; digests of them are kept."""
        for what, content in (("proof", claim.proof.computation), (
                {"committed": "commitment", "hashed": "hash"}.get(inputs, ""), claim.proof.commitment)):
            if not what or not content:  # batch proofs have their commitments in them
                continue
            digest = hashlib.sha256(what.encode() + content).digest()[:16]
            rows = hashlib.sha256(claim.rows.tobytes()).digest()[:16]
            first = self._seen.setdefault(digest, (claim.number, rows))
            # Replicas of the same rows have the same commitment; a proof is never made twice alike.
            if first[0] != claim.number and (what == "proof" or first[1] != rows):
                which = "the same rows" if first[1] == rows else "other rows"
                self._report.notes.append(f"bundle {claim.number} has the {what} of bundle {first[0]}, which is of {which}")

    def _close(self) -> None:
        for auditor in self._auditors.values():
            auditor.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_audit(options: AuditOptions, as_json: bool) -> int:
    """Audit and print the report. Returns the exit status, 0 or 3."""
    report = audit(options)
    print(json.dumps(report.document(), indent=2) if as_json else report.text())
    return report.exit_code
