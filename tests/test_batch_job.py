"""A whole job by batch proofs under mpirun: verified, audited without ezkl and JAX, and a rank that answers another order.

And what a job file may not ask of batch proofs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from batch_case import BUNDLE, PROOF, ROWS, cache_of, prepared, write_batch_job
from launch import ROOT, launcher, run
from small_job import SmallJob, floats, write_small_job
from small_runs import LIMIT_S, log_of, read

from enclaveml.audit import AuditOptions, audit
from enclaveml.cli import main
from enclaveml.errors import JobError
from enclaveml.job import load_job
from enclaveml.zk.ezkl.budget import DISCLOSED, Budget

LIAR = Path(__file__).parent / "attacks" / "liar.py"
CAUTION = "integrity only, not zero-knowledge"


@dataclass(frozen=True)
class Played:
    """A run of three ranks: rank 1 proves for other orders than its own, rank 2 is honest."""

    job: SmallJob
    code: int
    log: str
    circuit_id: str
    cache: str


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    cache = cache_of(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", cache)
        job = write_batch_job(tmp_path_factory.mktemp("batch-job") / "job")
        circuit = prepared(job)[0]
        honest = [sys.executable, "-m", "enclaveml", "run", str(job.path)]
        liar = [sys.executable, str(LIAR), "for_another_order", "run", str(job.path)]
        root = [sys.executable, str(LIAR), "leaves_rows_where_they_are", "run", str(job.path)]
        done = run([*launcher(), "-np", "1", *root, ":", "-np", "1", *liar, ":", "-np", "1", *honest], LIMIT_S, {"ENCLAVEML_CACHE": cache})
        yield Played(job, done.returncode, log_of(done), circuit.circuit_id, cache)


@pytest.mark.mpi
def test_every_row_ends_verified_and_the_log_says_of_what_kind(played: Played) -> None:
    assert played.code == 0, played.log
    assert f"complete (exit status 0): {ROWS} of {ROWS} rows verified ({CAUTION})" in played.log
    assert f"WARNING: proof.system batch: {CAUTION}; inputs are in the file, and whoever has the proofs can work out the weights" in played.log
    found = read(played.job.results)
    assert (found.status, set(found.rows.tolist())) == ("complete", {1})
    assert np.abs(found.proved - floats(played.job.rows)).max() < 0.1
    with h5py.File(played.job.results) as file:
        (circuit_id,) = file["keys"]
        assert circuit_id == played.circuit_id and CAUTION in file.attrs["message"]
        assert set(file["keys"][circuit_id]) == {"vk", "settings", "weights_proof", "manifest"}
        manifest = json.loads(file["keys"][circuit_id]["manifest"][:].tobytes())
    assert (manifest["system"], manifest["rows"], manifest["settings"]["mask_rows"]) == ("batch", BUNDLE, 0)
    assert Budget(Path(played.cache) / "proofs" / manifest["model_hash"], None).spent > DISCLOSED  # no job keeps these weights private now


@pytest.mark.mpi
def test_a_proof_for_another_order_is_rejected_and_its_rank_named(played: Played) -> None:
    """Its proofs are true of these rows: bound to an earlier attempt's, another bundle's or another job's nonce, they are no answer."""
    liar, honest = (next(r for r in read(played.job.results).ranks if r["rank"] == rank) for rank in (1, 2))
    assert (liar["fate"], liar["rows_verified"]) == ("expelled", 0), played.log
    assert liar["fate_reason"].startswith("1 rejected; last: verification: Rejected: ")
    assert (honest["fate"], honest["rejections"], honest["rows_verified"]) == ("ok", 0, ROWS)


@pytest.mark.mpi
def test_the_file_is_audited_without_ezkl_and_jax(played: Played, tmp_path: Path) -> None:
    for name in ("ezkl", "jax", "flax", "mpi4py", "onnx"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    done = run([sys.executable, "-m", "enclaveml", "audit", str(played.job.results), "--circuit-id", played.circuit_id, "--inputs",
                str(played.job.folder / "rows.npy"), "--json"], 120, {"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert done.returncode == 0, log_of(done)
    told = json.loads(done.stdout)
    assert told["verdict"] == f"{ROWS} of {ROWS} rows proved, {told['proofs']} of {told['proofs']} proofs checked: of the circuit given ({CAUTION})"
    assert told["kind_of_proof"] == CAUTION and told["circuits"][0]["system"] == "batch enclaveml-batch-1"
    limits = "\n".join(told["not_established"])
    assert f"that anything is hidden: these proofs are {CAUTION} (whoever has them can work out the weights)" in limits
    assert "they are new, and nobody but their authors has audited them" in limits and "SRS" not in limits and "which model" not in limits


def changed(played: Played, folder: Path, change) -> list[str]:
    """What the audit says is not so of a copy of the file that ``change`` has changed; of its seal apart."""
    path = folder / "changed.h5"
    path.write_bytes(played.job.results.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
        del file["seal"]
    return [f.text for f in audit(AuditOptions(path, processes=1)).failures]


@pytest.mark.mpi
def test_an_audit_holds_proofs_to_the_order_that_the_file_says(played: Played, tmp_path: Path) -> None:
    def another_rank(file: h5py.File) -> None:
        for name in ("proofs/rank", "row/rank", "ranks/rank"):
            file[name][...] = np.where(file[name][:] == 2, 7, file[name][:])

    def another_job(file: h5py.File) -> None:
        data = file["proofs/bytes"][:].tobytes()
        at = data.index(b"small-2")
        file["proofs/bytes"][...] = np.frombuffer(data.replace(data[at : at + 12], data[at : at + 11] + b"x"), np.uint8)

    def another_input(file: h5py.File) -> None:
        file["inputs"][3, 0] += 0.5

    assert changed(played, tmp_path, lambda file: None) == []
    for change in (another_rank, another_job):
        found = changed(played, tmp_path, change)
        assert found and all(text.startswith("its proof: verification: Rejected: ") for text in found)
    assert any("input_hash" in text for text in changed(played, tmp_path, another_input))


@pytest.mark.mpi
def test_the_other_verbs_serve_a_batch_job(played: Played, tmp_path_factory, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ENCLAVEML_CACHE", cache_of(tmp_path_factory))
    # Another test file may have brought up JAX in this process: it is on the CPU all the same.
    monkeypatch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
    job, results = str(played.job.path), str(played.job.results)
    told = {}
    for verb, *more in (("report", "--markdown", results), ("status", results), ("run", "--dry-run", job), ("check", job), ("hash", "--circuit", job),
                        ("hash", "--circuit", "--like", results, job), ("prepare", "--ranks", "3", job),
                        ("forecast", job, "--ranks", "3", "--cores-per-rank", "1", "--device", "cpu", "--memory-gb", "2")):
        assert main([verb, *more]) == 0, verb
        told[" ".join([verb, *more[:2]][: 3 if "--like" in more else 2])] = capsys.readouterr().out
    assert f"asked for a proof ({CAUTION}) of each" in told["report --markdown"]
    assert f"| {played.circuit_id[:16]} | batch enclaveml-batch-1 |" in told["report --markdown"]
    assert played.circuit_id[:16] in told[f"status {results}"]
    assert f"proof    system batch ({CAUTION}), coverage 1, inputs public" in told["run --dry-run"]
    assert told[f"check {job}"].startswith(f"the model can be proved in batches: {CAUTION}\n\nlayers: dense, 6 to 4 to 3; weights int8")
    assert told["hash --circuit --like"] == f"{played.circuit_id} primary\n"
    assert told["prepare --ranks"].startswith(f"batch circuit ({CAUTION}): layers 6-4-3, 4 rows and ")
    assert f"primary circuit {played.circuit_id}" in told["prepare --ranks"]
    assert re.search("circuit [0-9a-f]{16}, proved on this machine: 4 rows in", told[f"forecast {job}"])


# -- the job file --------------------------------------------------------------------

NOT = "with proof.system batch"
HASHED = "its proofs commit to what they do not show; allowed: public, committed, or proof.system: ezkl"
MASKED = "a power of two less 256 rows that mask the others: 256, 768, 1792, 3840 .. 65280"


@pytest.mark.parametrize(("keys", "text"), [
    ({"inputs": "hashed"}, f"proof.inputs: found 'hashed' {NOT}: {HASHED}"),
    ({"bounded_inputs": True}, f"proof.bounded_inputs: found true {NOT}: its inputs are bounded by whoever has them; allowed: "
                               "false, or proof.system: ezkl"),
    ({"private_weights": True}, f"proof.private_weights: found true {NOT} and proof.inputs public: who knows the inputs could work out weights "
                                "of what is shown of activations; allowed: proof.inputs: committed with it, or false"),
    ({"scale": 12}, f"proof.scale: found 12 {NOT}: its scales are calibrated on sample rows; allowed: leave it out, or proof.system: ezkl"),
    ({"slices": 2}, f"proof.slices: found '2' {NOT}: its proofs are not cut; allowed: 1, or proof.system: ezkl"),
    ({"rows_per_proof": 100}, f"proof.rows_per_proof: found 100 {NOT}; allowed: a power of two from 4 to 65536"),
    ({"rows_per_proof": 512, "inputs": "committed"},
     f"proof.rows_per_proof: found 512 {NOT} and proof.inputs committed; allowed: {MASKED}"),
    ({"rows_per_proof": 4, "inputs": "committed"}, f"proof.rows_per_proof: found 4 {NOT} and proof.inputs committed; allowed: {MASKED}"),
    ({"system": "groth16"}, "proof.system: found 'groth16'; allowed: ezkl, batch"),
])
def test_what_batch_proofs_cannot_do_is_refused(tmp_path: Path, keys: dict, text: str) -> None:
    job = write_small_job(tmp_path, sections={"proof": {**PROOF, **keys}})
    with pytest.raises(JobError) as caught:
        load_job(job.path)
    assert [str(fault).partition(": ")[2] for fault in caught.value.faults] == [text]


def test_a_ceremonys_srs_is_refused(tmp_path: Path) -> None:
    job = write_small_job(tmp_path, sections={"proof": {**PROOF, "srs": "rows.npy", "srs_sha256": "0" * 64}})
    with pytest.raises(JobError, match="proof.srs: found 'rows.npy' with proof.system batch: it needs no SRS; allowed: leave it out"):
        load_job(job.path)
    for rows in (256, 768, 65280):
        hidden = write_small_job(tmp_path / f"{rows}", sections={"proof": {**PROOF, "inputs": "committed", "rows_per_proof": rows}})
        assert load_job(hidden.path).proof.inputs == "committed"
    own = write_small_job(tmp_path / "own", sections={"proof": {**PROOF, "srs": "own"}})
    assert load_job(own.path).proof.system == "batch"
