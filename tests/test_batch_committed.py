"""The batch system with committed inputs and tanh by table: registration, proofs masked by an order's input key, and audits with it and without."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from batch_case import PROOF, RANKS, cache_of, prepared
from launch import mpirun
from leaks import found as stands
from small_job import SmallJob, weights, write_small_job
from small_runs import LIMIT_S, log_of, read
from zk_case import drain

from enclaveml import input_key
from enclaveml.audit import AuditOptions, audit
from enclaveml.errors import EnvironmentFault, FormatError, JobError
from enclaveml.results_reader import CircuitKeys
from enclaveml.zk.batch.files import KEY
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.rows_of_a_proof import choose
from enclaveml.zk.batch.system import BatchSystem
from enclaveml.zk.interface import INCONSISTENT, REJECTED, VERIFIED, Circuit, CircuitRequest, Proof
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.systems import audit_system

NONCE, INPUT_KEY = bytes(range(32)), bytes(range(1, 33))

OTHERS = "verification: Rejected: inputs: the proof is not of these, or not under this input key"

MODEL = '''\
"""The small model with tanh in the place of ReLU."""

from flax import nnx


class SmallTanh(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(6, 4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))
'''


def floats(rows: np.ndarray) -> np.ndarray:
    """What that model truly says of these rows (n, 6): (n, 3) float64."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    return np.tanh(rows.astype(np.float64) @ w["hidden.kernel"] + w["hidden.bias"]) @ w["out.kernel"] + w["out.bias"]


#: Rows of a bundle: of the 512 of a proof all but 256.
BUNDLE = 256


@dataclasses.dataclass
class Case:
    """A circuit, rows, what the model says of them, and an honest proof of them for NONCE under INPUT_KEY."""

    job: SmallJob
    circuit: Circuit
    rows: np.ndarray
    floats: np.ndarray
    proof: Proof


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", cache_of(tmp_path_factory))
        ranks = [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(RANKS)]
        job = write_small_job(tmp_path_factory.mktemp("committed") / "job", 300, {
            "proof": {**PROOF, "inputs": "committed", "rows_per_proof": BUNDLE}, "cluster": {"ranks": ranks},
            "model": {"flax": "tanh_model.py:SmallTanh"}})
        (job.folder / "tanh_model.py").write_text(MODEL)
        circuit, function, _, _ = prepared(job)
        rows = job.rows[: BUNDLE - 1]  # one fewer than a bundle: the last row is repeated
        prover = BatchSystem().prover(circuit.folder, 1)
        try:
            with pytest.raises(ValueError, match="an input key of 0 bytes; committed inputs have one of 32, public ones none"):
                prover.submit(4, rows, 300, NONCE)
            prover.submit(5, rows, 300, NONCE, INPUT_KEY)
            (result,) = drain(prover)
        finally:
            prover.close()
        assert (result.task, result.error, result.overflow) == (5, "", ())
        yield Case(job, circuit, rows, float_outputs(function, rows, 4).astype(np.float32), result.proof)


def keys_of(case: Case, **manifest: object) -> CircuitKeys:
    """What a results file has of the circuit, its manifest saying other things."""
    parts = BatchSystem().auditor_files(case.circuit)
    said = {**case.circuit.manifest(), **manifest}
    return CircuitKeys(case.circuit.circuit_id, parts["vk"], parts["settings"], b"", said, parts["weights_proof"])


def test_what_is_registered(case: Case) -> None:
    circuit, key = case.circuit, VerificationKey.from_bytes((case.circuit.folder / KEY).read_bytes())
    assert (circuit.inputs, circuit.inputs_bounded, circuit.rows, circuit.masked) == ("committed", False, BUNDLE, True)
    assert (key.rows, key.masks, circuit.logrows) == (512, 256, 9)
    assert -key.input_low == key.input_high == 1 << (key.input_high.bit_length() - 1)  # no sample's value, only its size
    assert np.abs(case.job.rows).max() * 2.0**circuit.input_scale < key.input_high
    assert circuit.caution == "inputs hidden, weights not" and circuit.settings["mask_rows"] == 256
    assert circuit.proof_bytes == len(case.proof.computation) and case.proof.outputs.shape == (BUNDLE, 3)
    plan = BatchSystem().plan_text(circuit)
    assert "(inputs hidden, weights not): layers 6-4-3, 256 rows and " in plan
    assert re.search(r"\nactivation of layer 1: tanh, by a table of 2\^\d+ numbers, which alone sets outputs off by 0\.0*[1-9] at most\ndeviation ", plan), plan


def test_rank_0_holds_a_proof_to_its_rows_and_its_key(case: Case) -> None:
    rows, proof, said = case.rows, case.proof, case.floats
    given = [
        (rows, proof, said, NONCE, INPUT_KEY), (rows, proof, said + 2 * np.float32(case.circuit.tolerance), NONCE, INPUT_KEY),
        (rows, proof, said, NONCE, bytes(32)), (rows[::-1], proof, said[::-1], NONCE, INPUT_KEY), (rows, proof, said, bytes(32), INPUT_KEY),
        (rows, dataclasses.replace(proof, outputs=proof.outputs + (np.arange(BUNDLE)[:, None] == 1)), said, NONCE, INPUT_KEY),
        (rows, dataclasses.replace(proof, computation=proof.computation[:-1]), said, NONCE, INPUT_KEY),
    ]
    verifier = BatchSystem().verifier(case.circuit, 1)
    try:
        with pytest.raises(ValueError, match="an input key of 0 bytes"):
            verifier.submit(99, rows, proof, said, NONCE)
        for task, one in enumerate(given):
            verifier.submit(task, *one)
        good, coarse, *bad = sorted(drain(verifier), key=lambda found: found.task)
    finally:
        verifier.close()
    assert (set(good.status.tolist()), good.text) == ({VERIFIED}, "")
    assert np.abs(good.proved - floats(rows)).max() <= case.circuit.tolerance
    assert set(coarse.status.tolist()) == {INCONSISTENT}
    assert all(set(found.status.tolist()) == {REJECTED} for found in bad)
    assert bad[0].text == bad[1].text == OTHERS


def test_an_auditor_needs_the_owners_key_for_the_inputs(case: Case) -> None:
    system = audit_system("batch")
    found = system.statement(case.circuit.circuit_id, keys_of(case))
    assert found.circuit == dataclasses.replace(case.circuit, folder=Path(case.circuit.circuit_id)) and system.input_limit(found) is None
    flipped = bytearray(case.proof.computation)
    flipped[-1] ^= 1
    auditor = system.auditor(found, 1, True, None, lambda line: None)
    try:
        auditor.submit(0, case.proof, None, None, NONCE)
        auditor.submit(1, case.proof, None, case.rows, NONCE, INPUT_KEY)
        auditor.submit(2, case.proof, None, case.rows, NONCE, bytes(32))
        auditor.submit(3, case.proof, None, case.rows[::-1], NONCE, INPUT_KEY)
        auditor.submit(4, case.proof, None, case.rows, NONCE)
        auditor.submit(5, case.proof, None, None, bytes(32))
        auditor.submit(6, dataclasses.replace(case.proof, computation=bytes(flipped)), None, None, NONCE)
        checked = {}
        while len(checked) < 7:
            auditor.wait(1.0)
            checked |= {one.task: one for one in auditor.poll()}
    finally:
        auditor.close()
    assert [(checked[i].error, checked[i].owned) for i in (0, 1)] == [("", False), ("", True)]
    assert checked[2].error == checked[3].error == OTHERS
    assert checked[4].error == "an input key of 0 bytes; committed inputs have one of 32, public ones none"
    assert checked[5].error and checked[6].error and not any(checked[i].owned for i in range(2, 7))


def test_a_manifest_that_says_another_kind_of_inputs_is_refused(case: Case) -> None:
    with pytest.raises(FormatError, match="inputs is 'public', where its key and settings give 'committed'"):
        audit_system("batch").statement(case.circuit.circuit_id, keys_of(case, inputs="public"))


def test_how_many_rows_a_masked_proof_has(case: Case) -> None:
    key = VerificationKey.from_bytes((case.circuit.folder / KEY).read_bytes())

    def rows(**more: object) -> int:
        return choose(CircuitRequest(inputs="committed", **more), key)

    assert rows(rows_per_proof=256) == rows(expected_rows=1) == 512 and rows(rows_per_proof=768) == 1024
    assert rows(expected_rows=10**6) == 16_384
    for given, near in ((128, 256), (512, 768), (1024, 768), (300, 256)):
        with pytest.raises(JobError, match=f"found {given}; a batch proof has a power of two of rows less 256 that mask them, 256 or more: "
                                           f"{near}, say"):
            rows(rows_per_proof=given)


# -- a whole job ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallJob, str]:
    """The job under mpirun, two ranks of which one proves, and its log."""
    done = mpirun(2, ["-m", "enclaveml", "run", str(case.job.path)], LIMIT_S, {"ENCLAVEML_CACHE": str(cache_of(tmp_path_factory))})
    assert done.returncode == 0, log_of(done)
    return case.job, log_of(done)


@pytest.mark.mpi
def test_every_row_of_a_job_is_verified_and_no_input_is_shown(played: tuple[SmallJob, str], case: Case) -> None:
    job, log = played
    assert "complete (exit status 0): 300 of 300 rows verified (inputs hidden, weights not)" in log
    assert "WARNING: proof.system batch: inputs hidden, weights not; whoever has the proofs can work out the weights" in log
    said = read(job.results)
    assert (said.status, set(said.rows.tolist())) == ("complete", {1})
    assert np.abs(said.proved - floats(job.rows)).max() <= case.circuit.tolerance
    path = input_key.key_path(job.results)
    key, content = bytes.fromhex(path.read_text()), job.results.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for place in (content, log.encode()):
        assert key not in place and key.hex().encode() not in place
        assert stands(place, job.rows[:40], case.circuit.input_scale, hashed=True) == set()
    with h5py.File(job.results) as file:
        assert "inputs" not in file and file.attrs["inputs"] == "committed"


@pytest.mark.mpi
def test_an_audit_of_the_job_with_its_data_and_without(played: tuple[SmallJob, str], case: Case, tmp_path: Path) -> None:
    job, data = played[0], played[0].folder / "rows.npy"
    ids = (case.circuit.circuit_id,)
    alone = audit(AuditOptions(job.results, ids, processes=1))
    assert alone.failures == [] and alone.rows_checked == 300 and alone.notes == []
    limits = "\n".join(alone.limits)
    assert "the proofs hold for commitments to some field elements, not necessarily data" in limits
    assert "that the weights are hidden: whoever has these proofs can work them out" in limits and "that anything is hidden" not in limits
    owner = audit(AuditOptions(job.results, ids, inputs=data, processes=1))
    assert owner.failures == [] and re.fullmatch(r"(\d+) of \1 proofs checked are about the data given", owner.facts["inputs"])

    other, elsewhere = tmp_path / "other.npy", tmp_path / "moved.h5"
    rows = job.rows.copy()
    rows[7] = rows[8]
    np.save(other, rows)
    changed = audit(AuditOptions(job.results, ids, inputs=other, processes=1))
    assert [failure.text for failure in changed.failures] == [
        f"its proof: {OTHERS}"]
    elsewhere.write_bytes(job.results.read_bytes())
    with pytest.raises(EnvironmentFault, match="moved.h5.input-key: the input key cannot be read: No such file"):
        audit(AuditOptions(elsewhere, ids, inputs=data, processes=1))
    assert audit(AuditOptions(elsewhere, ids, inputs=data, input_key=input_key.key_path(job.results), processes=1)).failures == []
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64 + "\n")
    with pytest.raises(EnvironmentFault, match="wrong: is not this job's input key: its digest is "):
        audit(AuditOptions(elsewhere, ids, inputs=data, input_key=wrong, processes=1))


@pytest.mark.mpi
def test_a_resumed_job_that_has_nothing_to_go_on_with_keeps_a_key_that_is_left(
    case: Case, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its results were moved away, and batch scripts always resume: the key may be all that opens them."""
    results = tmp_path / "results.h5"
    key = input_key.create(input_key.key_path(results))
    done = mpirun(2, ["-m", "enclaveml", "run", str(case.job.path), "-o", str(results), "--resume"], LIMIT_S,
                  {"ENCLAVEML_CACHE": str(cache_of(tmp_path_factory))})
    assert done.returncode == 0, log_of(done)
    assert bytes.fromhex(input_key.key_path(results).read_text()) == key
    assert audit(AuditOptions(results, (case.circuit.circuit_id,), inputs=case.job.folder / "rows.npy", processes=1)).failures == []
