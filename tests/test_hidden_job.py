"""A job by batch proofs that hide its weights, stopped and resumed: registered once, audited, and the weights in no file that leaves rank 0."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from batch_case import PROOF, cache_of
from launch import mpirun
from leaks import found as stands
from safetensors.numpy import save_file
from small_job import SmallJob, weights, write_small_job
from small_runs import LIMIT_S, log_of, read

from enclaveml.audit import AuditOptions, audit
from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.hash import print_hash
from enclaveml.job import load_job
from enclaveml.prepare import load_model, prepare, request_of
from enclaveml.results import read_results
from enclaveml.results_schema import RowStatus
from enclaveml.zk.batch.files import MODEL_HASH, SEED, WEIGHTS
from enclaveml.zk.batch.openings import Openings, begin_count
from enclaveml.zk.batch.system import BatchSystem
from enclaveml.zk.interface import Circuit, load_circuit

CAUTION = "inputs and weights hidden: some network of these shapes, unless its circuit's id is tied to a model"
ROWS, DRAWN = 300, 270


def others(factor: float) -> dict[str, np.ndarray]:
    """Weights of which no other test makes proofs that show them."""
    return {name: (array * factor).astype(np.float32) for name, array in weights().items()}


@dataclasses.dataclass(frozen=True)
class Played:
    """The job, what its two parts said, its journal between them, and its registration."""

    job: SmallJob
    logs: tuple[str, str]
    journal: bytes
    circuit: Circuit
    cache: Path


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Under mpirun, two ranks of which one proves. Its rows are drawn by a beacon, whose value comes when the job has stopped."""
    cache = Path(cache_of(tmp_path_factory))
    ranks = [{"node_id": f"node-{i}", "memory_gb": 2} for i in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(cache))
        job = write_small_job(tmp_path_factory.mktemp("hidden") / "job", ROWS, {
            "proof": {**PROOF, "inputs": "committed", "private_weights": True, "rows_per_proof": 256, "coverage": DRAWN / ROWS,
                      "beacon": "beacon.txt", "beacon_wait_s": 1}, "cluster": {"ranks": ranks}})
        save_file(others(0.875), job.folder / "small.safetensors")
        stopped = mpirun(2, ["-m", "enclaveml", "run", str(job.path)], LIMIT_S)
        assert stopped.returncode == 75, log_of(stopped)
        (job.folder / "beacon.txt").write_text("a value of later\n")
        journal = job.journal.read_bytes()
        done = mpirun(2, ["-m", "enclaveml", "run", str(job.path), "--resume"], LIMIT_S)
        assert done.returncode == 0, log_of(done)
        with read_results(job.results) as results:
            (circuit_id,) = results.circuit_ids
        yield Played(job, (log_of(stopped), log_of(done)), journal, load_circuit(cache / "registrations" / circuit_id), cache)


@pytest.mark.mpi
def test_a_job_registers_once_and_every_drawn_row_is_verified(played: Played) -> None:
    circuit, (first, second) = played.circuit, played.logs
    assert f"{DRAWN} of {ROWS} rows verified, {ROWS - DRAWN} not drawn ({CAUTION})" in second
    assert "weights hidden for 104 proofs" in first and "plan batch" not in second
    told = (f"WARNING: proof.system batch: {CAUTION}; who is to check the results has to be told by somebody he believes that it is circuit "
            f"{circuit.circuit_id}; keep {circuit.folder}, which has the weights and their seed, and show it to nobody")
    assert told in first and told in second and circuit.circuit_id == circuit.folder.name
    assert Openings(circuit).spent == 2 and Openings(circuit).most == 104
    said = read(played.job.results)
    assert (said.rows == RowStatus.VERIFIED).sum() == DRAWN and {rank["rejections"] for rank in said.ranks} == {0}
    assert (circuit.folder / SEED).stat().st_mode & 0o777 == 0o600 and circuit.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.mpi
def test_no_weight_and_no_digest_of_weights_leaves_rank_0(played: Played) -> None:
    folder = played.circuit.folder
    plain, secret = (folder / MODEL_HASH).read_text(), [(folder / name).read_bytes() for name in (WEIGHTS, SEED)]
    digests = [bytes.fromhex(plain), *(hashlib.sha256(data).digest() for data in secret)]
    wanted = [*secret, *digests, *(data.hex().encode() for data in (*secret, *digests))]
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    assert [form in kept for form in wanted] == [True, True, *[False] * 5, True, True, True]  # in the folder, as files and digests of them
    arrays = [array for name, array in others(0.875).items() if name != "out.bias"]  # the last bias is an output
    for place in (played.job.results.read_bytes(), played.journal, *(log.encode() for log in played.logs)):
        assert not any(form in place for form in wanted)
        assert {name for array in arrays for rows in (array.reshape(1, -1), array.T.reshape(1, -1)) for name in stands(place, rows, 12, hashed=True)} == set()
    with read_results(played.job.results) as results:
        assert results.attribute("model_hash") == played.circuit.model_hash != plain
        manifest = results.circuit(played.circuit.circuit_id).manifest
    assert manifest["weights"] == "hidden" and set(manifest["files"]) == {"verification.key", "settings.json", "weights.proof"}


@pytest.mark.mpi
def test_an_audit_of_the_job(played: Played) -> None:
    name = played.circuit.circuit_id
    alone = audit(AuditOptions(played.job.results, processes=1))
    assert alone.failures == [] and alone.rows_checked == DRAWN
    assert alone.verdict.endswith(": consistent; some network of these shapes gave these outputs, and there may be one for any (inputs and weights hidden)")
    owner = audit(AuditOptions(played.job.results, (name,), inputs=played.job.folder / "rows.npy", processes=1))
    assert owner.failures == [] and owner.facts["inputs"] == "2 of 2 proofs checked are about the data given"
    assert owner.verdict.endswith(": of the circuit given (inputs and weights hidden)")


def in_this_process(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Another test file may have brought up JAX here: it is on the CPU all the same."""
    patch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
    patch.setenv("ENCLAVEML_CACHE", str(cache))


@pytest.mark.mpi
def test_hash_and_circuit_are_made_again_of_model_data_and_seed(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    in_this_process(monkeypatch, played.cache)
    job, folder = played.job, played.circuit.folder
    assert print_hash(job.path, circuit=True, registration=folder) == print_hash(job.path, registration=folder) == print_hash(job.path) == 0
    plain = (folder / MODEL_HASH).read_text()  # by which a run finds out whether proofs have shown this model's weights
    assert capsys.readouterr().out == f"{played.circuit.circuit_id} primary\n{played.circuit.model_hash}\n{plain}\n"
    for like in (None, job.results):
        with pytest.raises(JobError, match="the circuit of a job that hides its weights follows from the seed of its registration too"):
            print_hash(job.path, circuit=True, like=like)
    with pytest.raises(JobError, match="--registration is for a job with proof.system: batch and proof.private_weights: true"):
        print_hash(job.path, ["proof.private_weights=false"], registration=folder)
    save_file(others(0.75), tmp_path / "other.safetensors")
    with pytest.raises(JobError, match=f"is of circuit {played.circuit.circuit_id[:16]}, and this job's model, data and that seed give"):
        print_hash(job.path, [f"model.weights={tmp_path / 'other.safetensors'}"], registration=folder)


@pytest.mark.mpi
def test_a_job_goes_on_with_its_own_registration_or_not_at_all(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch, played.cache)
    job = load_job(played.job.path)
    model, samples, rows = load_model(job)
    request = dataclasses.replace(request_of(job, rows, 2), registration=played.circuit.circuit_id)
    assert request.hides_weights and BatchSystem().prepare(model.function, samples, request) == played.circuit
    with pytest.raises(JobError, match=f"has a registration of its weights, circuit {'0' * 64}, and its folder is not in this cache"):
        BatchSystem().prepare(model.function, samples, dataclasses.replace(request, registration="0" * 64))
    with pytest.raises(JobError, match="proof.private_weights: is true with proof.system batch: each run registers the weights anew"):
        prepare(played.job.path)


@pytest.mark.mpi
def test_as_many_proofs_as_a_registration_hides_and_no_count_that_is_begun_again(played: Played, tmp_path: Path) -> None:
    folder = tmp_path / "registration"
    folder.mkdir()
    (folder / "verification.key").write_bytes((played.circuit.folder / "verification.key").read_bytes())
    count = Openings(dataclasses.replace(played.circuit, folder=folder))
    with pytest.raises(EnvironmentFault, match=r"registration\.openings: how often hidden weights were opened cannot be read: No such file"):
        count.spend()
    begin_count(folder)
    with pytest.raises(FileExistsError):
        begin_count(folder)
    count.expect(104)
    for _ in range(104):
        count.spend()
    anew = "run the rows that are left as a job of their own, which registers the weights anew"
    with pytest.raises(JobError) as caught:
        count.spend()
    assert str(caught.value) == ("proof.private_weights: 104 proofs were ordered with this job's registration of the weights, and more than 104 give "
                                 f"them away; what is proved is kept in the results file: {anew}")
    with pytest.raises(JobError, match="this job needs about 1 proofs; 104 were ordered with its registration of the weights, and more than 104"):
        count.expect(1)
    count.reach(104)
    with pytest.raises(EnvironmentFault, match="104 proofs were counted that open hidden weights, and the job's journal has 105: the count was put back"):
        count.reach(105)
    (tmp_path / "registration.openings").write_text("7\n")
    with pytest.raises(EnvironmentFault, match="holds no count of how often hidden weights were opened"):
        count.spend()


@pytest.mark.mpi
def test_weights_that_are_shown_after_they_were_hidden(played: Played, tmp_path: Path) -> None:
    """The job that shows them says what it does; from then on no job hides them, and none of its rows is proved."""
    cache = {"ENCLAVEML_CACHE": str(played.cache)}
    proof = {**PROOF, "inputs": "committed", "rows_per_proof": 256}

    def ran(name: str, hides: bool) -> tuple[SmallJob, CompletedProcess[str]]:
        job = write_small_job(tmp_path / name, 8, {"proof": {**proof, "private_weights": hides}})
        save_file(others(0.8125), job.folder / "small.safetensors")
        return job, mpirun(1, ["-m", "enclaveml", "run", str(job.path)], LIMIT_S, cache)

    hidden, first = ran("hidden", True)
    assert first.returncode == 0, log_of(first)
    with read_results(hidden.results) as results:
        (circuit_id,) = results.circuit_ids
    warning = f"these proofs show the weights of this model, which 1 registration of this cache hides ({circuit_id[:16]})"
    assert warning not in log_of(first)
    _, shown = ran("shown", False)
    assert shown.returncode == 0 and warning in log_of(shown), log_of(shown)
    late, refused = ran("late", True)
    assert refused.returncode == 2 and "proof.private_weights" in refused.stderr.splitlines()[-1], log_of(refused)
    assert not late.results.exists() and not late.journal.exists()
