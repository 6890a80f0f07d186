"""A ceremony's SRS: the file, the part of it that a circuit needs, and what a job and an audit say of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import audit_case
import pytest
import zk_case
from small_job import write_small_job
from zk_case import ROWS, outputs, prove, verdict

from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.job import load_job
from enclaveml.srs_file import SrsFile, file_bytes, logrows_of, verifier_srs
from enclaveml.zk import keys, process
from enclaveml.zk.ezkl import field, srs, srs_reduce
from enclaveml.zk.ezkl.files import SRS, VERIFIER_SRS
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.rebuild import choice_of, counted_as, rebuilt_id
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import VERIFIED

pytestmark = pytest.mark.ezkl


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.mktemp("srs") / "cache"))
        yield


@pytest.fixture(scope="module")
def child():
    with contextlib.closing(process.Child(EZKL, 1)) as made:
        yield made


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory, child) -> SrsFile:
    """What a ceremony would publish, of 2^9 rows."""
    path = tmp_path_factory.mktemp("ceremony") / "kzg9.srs"
    process.wait(child, "srs", 120, path=str(path), logrows=9)
    return SrsFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_points_are_added_and_multiplied() -> None:
    one = (1, 2, 1)
    scalars = [1, 2, 15, 16, 2**200 + 12345, field.MODULUS - 1]
    random.Random(1).shuffle(scalars)
    for scalar in scalars:
        slowly = srs_reduce._INFINITY
        for bit in bin(scalar)[2:]:
            slowly = srs_reduce.double(slowly)
            slowly = srs_reduce.add(slowly, one) if bit == "1" else slowly
        assert srs_reduce.written([srs_reduce.times(one, srs_reduce.digits(scalar))]) == srs_reduce.written([slowly])
        assert sum(d << i for i, d in enumerate(srs_reduce.digits(scalar))) == scalar
    last = srs_reduce.times(one, srs_reduce.digits(field.MODULUS - 1))
    assert srs_reduce.add(last, one)[2] == 0 and srs_reduce.written([srs_reduce.add(last, one)]) == bytes(64)
    assert srs_reduce.written(srs_reduce.parse(srs_reduce.written([last]))) == srs_reduce.written([last])
    with pytest.raises(ValueError, match="^point 0 is not on the curve$"):
        srs_reduce.parse(b"\1" * 64)


def test_the_lagrange_form_is_that_of_ezkls_own_files(ceremony) -> None:
    data, n = ceremony.path.read_bytes(), 512
    points = data[4 : 4 + 64 * n]
    assert srs_reduce.written(srs_reduce.lagrange(srs_reduce.parse(points))) == data[4 + 64 * n : 4 + 128 * n]


@pytest.fixture(scope="module")
def circuit(ceremony):
    made = zk_case.prepare("committed", srs=ceremony)
    assert (made.logrows, made.srs_origin) == (8, f"the file with SHA-256 {ceremony.sha256}")
    return made


def test_keys_and_proofs_made_with_a_part_of_the_file(circuit, ceremony, child) -> None:
    assert logrows_of(circuit.folder / SRS) == 8
    assert (circuit.folder / VERIFIER_SRS).read_bytes() == verifier_srs(ceremony.path)
    verifier = EzklSystem().verifier(circuit)
    try:
        found = verdict(verifier, ROWS[:3], prove(circuit, ROWS[:3]), outputs(ROWS[:3]))
    finally:
        verifier.close()
    assert (found.text, found.status.tolist()) == ("", [VERIFIED] * 3)
    # ezkl's set-up reduces the whole file itself in every call: the same keys
    found, part = rebuilt_id(zk_case.function(), choice_of(circuit.manifest()), "committed", ceremony.path, lambda line: None)
    assert (found, part) == (circuit.circuit_id, verifier_srs(ceremony.path))


def test_the_circuits_id_covers_the_srs(circuit) -> None:
    assert zk_case.prepare("committed").circuit_id != circuit.circuit_id


def test_a_file_that_is_too_small_is_refused_before_anything_starts(tmp_path, child) -> None:
    path = tmp_path / "kzg6.srs"
    process.wait(child, "srs", 60, path=str(path), logrows=6)
    small = SrsFile(path, keys.sha256_file(path))
    with pytest.raises(JobError) as caught:
        zk_case.prepare(srs=small)
    assert str(caught.value) == (f"proof.srs: {path} has 2^6 rows; a circuit for this model needs 2^8 at least: give a larger "
                                 "file of the same ceremony")
    with pytest.raises(EnvironmentFault) as caught:
        srs.whole_srs(keys.Cache(), child, 8, small, 10)
    assert str(caught.value) == f"{path}: has 2^6 rows, the circuit needs 2^8"


def test_a_file_with_another_hash(ceremony, child) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        srs.whole_srs(keys.Cache(), child, 8, SrsFile(ceremony.path, "0" * 64), 10)
    assert str(caught.value) == f"{ceremony.path}: SHA-256 is {ceremony.sha256}, expected {'0' * 64}"


def test_points_that_are_none_make_no_srs(tmp_path, child) -> None:
    path = tmp_path / "bad.srs"
    path.write_bytes((9).to_bytes(4, "little") + b"\1" * (file_bytes(9) - 4))
    with pytest.raises(EnvironmentFault) as caught:
        srs.whole_srs(keys.Cache(), child, 8, SrsFile(path, keys.sha256_file(path)), 10)
    assert str(caught.value) == f"{path}: not an SRS file: point 0 is not on the curve"


def fault(folder: Path, proof: dict) -> str:
    with pytest.raises(JobError) as caught:
        load_job(write_small_job(folder, 4, {"proof": proof}).path)
    return str(caught.value).partition(": ")[2]


def test_what_a_job_may_say(tmp_path, ceremony) -> None:
    file = str(ceremony.path)
    good = {"srs": file, "srs_sha256": ceremony.sha256.upper()}
    assert load_job(write_small_job(tmp_path / "a", 4, {"proof": good}).path).proof.srs_file == ceremony
    assert load_job(write_small_job(tmp_path / "b", 4, {"proof": {"srs": "own"}}).path).proof.srs_file is None
    assert fault(tmp_path / "c", {"srs": file}) == (
        f"proof.srs: found {file!r}; its SHA-256 is {ceremony.sha256}: give the one that the ceremony publishes as "
        "proof.srs_sha256")
    assert fault(tmp_path / "d", {"srs": file, "srs_sha256": "0" * 64}) == (
        f"proof.srs: found {file!r}; its SHA-256 is {ceremony.sha256}, proof.srs_sha256 says {'0' * 64}")
    assert fault(tmp_path / "e", {"srs_sha256": "0" * 64}) == "proof.srs_sha256: given without the file; give proof.srs too"
    (tmp_path / "short.srs").write_bytes(b"\4\0\0\0")
    assert fault(tmp_path / "f", {"srs": "../short.srs", "srs_sha256": "0" * 64}) == (
        "proof.srs: found '../short.srs'; not an SRS file: logrows 4 and 4 bytes do not agree")


def test_a_job_and_its_audit(tmp_path, ceremony, child) -> None:
    job = write_small_job(tmp_path / "job", 4, {"proof": {
        "srs": str(ceremony.path), "srs_sha256": ceremony.sha256, "inputs": "committed"}})
    root = keys.cache_root()
    done = subprocess.run([sys.executable, "-m", "enclaveml", "run", str(job.path)], env=audit_case.environment(root),
                          capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    report = audit_case.run(job.results)
    line = (f"where the SRS is from: the file says 'the file with SHA-256 {ceremony.sha256}', which nothing here proves "
            "(--srs, with a file of that ceremony of any size, settles it)")
    assert report.failures == [] and line in report.limits
    assert not any("made by the aggregator itself" in text for text in report.limits)
    # commitments need the part of the file that the circuit was made with; a larger one commits to something else
    report = audit_case.run(job.results, srs=ceremony.path, inputs=job.folder / "rows.npy")
    assert report.failures == [] and not any("SRS" in text for text in report.limits)
    assert report.facts["inputs"] == "1 of 1 proofs checked are about the data given"
    own = srs.own_srs(keys.Cache(), child, 6, 60)
    (found,) = audit_case.findings(job.results, srs=own)
    assert found.endswith(f": its SRS is not that of {own}")
    (mine,) = [text["circuit"] for text in report.circuits]
    assert audit_case.rebuilt_id(job, root) == mine
    assert json.loads(json.dumps(report.document()))["circuits"][0]["srs"] == f"the file with SHA-256 {ceremony.sha256}"


def test_an_id_made_again_takes_the_layouts_counts_of_the_other() -> None:
    """ezkl counts 352, 353 or 354 rows of the same circuit, from one call to the next."""
    mine = {"num_rows": 352, "total_assignments": 352, "run_args": {}}
    other = {"num_rows": 353, "total_assignments": 354, "run_args": {"logrows": 9}}
    assert counted_as(mine, other) == {"num_rows": 353, "total_assignments": 354, "run_args": {}}
    for wrong in ({}, {"num_rows": 353}, {**other, "num_rows": 400}, {**other, "total_assignments": "353"}):
        assert counted_as(mine, wrong) is mine
