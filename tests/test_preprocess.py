"""``model.preprocess``: inside of the proof and outside of it, from the job file to the audit's verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from launch import run
from small_job import TOLERANCE, SmallJob, floats, write_small_job
from small_runs import LIMIT_S, enclaveml, log_of, read

from enclaveml.audit import AuditOptions, audit
from enclaveml.errors import JobError
from enclaveml.job import load_job
from enclaveml.model_package import ModelPackage, package_of
from enclaveml.models import build_model, function_fingerprint
from enclaveml.preprocess_function import digest
from enclaveml.preprocessing import open_rows
from enclaveml.report_facts import read_facts
from enclaveml.report_words import summary
from enclaveml.results import read_results

#: Serves both: nothing but operators and methods that numpy's and JAX's arrays share.
SCALE = '''\
"""The rows come as 0.25 + x / 2, in two columns more than the model has."""

CENTRE, WIDTH = 0.25, 0.5


def scale(x):
    return ((x - CENTRE) / WIDTH).reshape(x.shape[0], -1)[:, 1:-1]
'''


def raw(rows: np.ndarray) -> np.ndarray:
    """Rows (N, 6) as ``scale`` takes them: (N, 2, 4), with an unused value at either end."""
    return np.pad(rows * 0.5 + 0.25, ((0, 0), (1, 1))).reshape(-1, 2, 4).astype(np.float32)


def a_job(folder: Path, proved: bool, code: str = SCALE, n_rows: int = 8, **keys: object) -> SmallJob:
    job = write_small_job(folder, n_rows, {"model": {"preprocess": "scale.py:scale", "preprocess_proved": proved, **keys}})
    (folder / "scale.py").write_text(code)
    np.save(folder / "rows.npy", raw(job.rows))
    return job


def refused(call, *arguments) -> str:
    with pytest.raises(JobError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def built(folder: Path, code: str = SCALE):
    """The job's model with the preprocessing inside."""
    job = load_job(a_job(folder, True, code).path)
    with open_rows(job) as data:
        return build_model(package_of(job), data.row_shape, data.dtype, folder)


# -- inside

def test_the_composition_is_the_model(tmp_path):
    model = built(tmp_path)
    rows = write_small_job(tmp_path / "plain", 8).rows
    assert model.row_shape == (2, 4) and model.function.row_shape == (2, 4)
    assert np.allclose(np.asarray(model.apply(raw(rows))), floats(rows), atol=1e-5)


def test_the_source_is_packed_and_part_of_the_fingerprint(tmp_path):
    job = load_job(a_job(tmp_path, True).path)
    package = package_of(job)
    assert (package.preprocess, package.preprocess_source) == ("scale.py:scale", SCALE.encode())
    assert ModelPackage.from_bytes(package.to_bytes()) == package
    one = function_fingerprint(built(tmp_path))
    assert one == function_fingerprint(built(tmp_path))
    others = {function_fingerprint(built(tmp_path, SCALE.replace("0.5", "0.6"))), function_fingerprint(built(tmp_path, SCALE + "# more\n"))}
    assert len(others) == 2 and one not in others


def test_outside_the_package_is_the_models_alone(tmp_path):
    outside = load_job(a_job(tmp_path, False).path)
    plain = load_job(write_small_job(tmp_path / "plain").path)
    assert package_of(outside).to_bytes() == package_of(plain).to_bytes()


@pytest.mark.parametrize(("body", "words"), [
    ("return x.sum(0)", "scale.py: model.preprocess: scale.py:scale makes an array of shape (2, 4) of 3 rows; allowed: arrays whose "
                        "first axis is the rows, one for each input of the model"),
    ("return None", "scale.py: model.preprocess: scale.py:scale makes a NoneType of 3 rows; allowed: "),
    ("return (x - x.mean()).reshape(x.shape[0], -1)[:, 1:-1]",
     "scale.py: model.preprocess: scale.py:scale makes something else of a row alone than among others; it must treat each row by "
     "itself. Statistics of the data are constants of the file"),
    ("return x / y", "scale.py:2: model.preprocess: running scale.py:scale on (3, 2, 4) float32: NameError: name 'y' is not defined"),
])
def test_functions_that_do_not_serve(tmp_path, body, words):
    code = f"def scale(x):\n    {body}\n"
    assert refused(built, tmp_path / "in", code).startswith(words)
    outside = load_job(a_job(tmp_path / "out", False, code).path)
    assert refused(open_rows, outside).startswith(words)


def test_a_shape_that_the_model_does_not_take_is_the_models_fault(tmp_path):
    assert refused(built, tmp_path, "def scale(x):\n    return x\n").startswith(
        "small_model.py:12: model.flax: running it on rows of shape (2, 4) float32: ")


# -- the job file

@pytest.mark.parametrize(("keys", "code", "words"), [
    ({"preprocess": "scale.py:scall"}, SCALE, "found 'scale.py:scall'; scale.py defines no 'scall'; functions there: scale; did you "
                                              "mean 'scale'?"),
    ({"preprocess": "scal.py:scale"}, SCALE, "found 'scal.py:scale'; no such file in "),
    ({"preprocess": "scale"}, SCALE, "found 'scale'; allowed: package.module:function or file.py:function"),
    ({"preprocess": "scale.py:scale"}, "def scale(x:\n", "found 'scale.py:scale'; scale.py, line 1: '(' was never closed"),
    ({"preprocess": "scale.py:scale", "preprocess_proved": False}, "import numpy\n\ndef scale(x):\n    from jax import numpy\n",
     "found 'scale.py:scale', whose file imports jax (line 4), and model.preprocess_proved is false; allowed: a file of its own"),
])
def test_faults_of_the_job_file(tmp_path, keys, code, words):
    job = a_job(tmp_path, True, code, **keys)
    line = next(i for i, text in enumerate(job.path.read_text().splitlines(), 1) if '"preprocess"' in text)
    assert refused(load_job, job.path).startswith(f"{job.path}:{line}: model.preprocess: {words}")


def test_outside_needs_a_function(tmp_path):
    job = write_small_job(tmp_path, sections={"model": {"preprocess_proved": False}})
    assert refused(load_job, job.path).endswith(
        "model.preprocess_proved: found false, and model.preprocess names no function; allowed: both, or neither")


def test_on_the_command_line_the_file_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    path = a_job(tmp_path / "there", True).path
    monkeypatch.chdir(tmp_path)
    assert load_job(path, ["model.preprocess=there/scale.py:scale"]).model.preprocess == "scale.py:scale"


# -- outside

def test_rows_outside_are_what_the_function_makes(tmp_path):
    job = a_job(tmp_path, False)
    rows = np.random.default_rng(0).uniform(-1, 1, (3000, 6)).astype(np.float32)
    np.save(tmp_path / "rows.npy", raw(rows))
    with open_rows(load_job(job.path)) as data:
        assert (data.rows, data.row_shape, data.dtype) == (3000, (6,), np.float32)
        everything = data.read(0, 3000)
        assert np.allclose(everything, rows, atol=1e-6)
        some = np.array([2999, 0, 1023, 1024, 1024, 7])
        assert np.array_equal(data.read_rows(some), everything[some])
        assert np.array_equal(np.concatenate([rows for _, rows in data.tiles(700)]), everything)
        fingerprint = data.fingerprint()
    (tmp_path / "scale.py").write_text(SCALE.replace("0.5", "0.6"))
    with open_rows(load_job(job.path)) as data:
        assert data.fingerprint() != fingerprint, "a resumed job would be refused"


def test_a_value_that_no_model_should_see_is_named(tmp_path):
    job = a_job(tmp_path, False, "def scale(x):\n    x[x == 7] = float('nan')\n    return x.reshape(len(x), -1)[:, 1:-1]\n")
    rows = np.zeros((2000, 2, 4), np.float32)
    rows[1500, 1, 1] = 7
    np.save(tmp_path / "rows.npy", rows)
    with open_rows(load_job(job.path)) as data:
        assert refused(data.read, 0, 2000) == (
            f"{tmp_path / 'rows.npy'}: model.preprocess: 'scale.py:scale': row 1500, column 4 is nan; an input must be a finite number "
            "smaller than 1e+38 (1 such values in the 2000 rows read)")


def test_several_inputs_in_and_out(tmp_path):
    job = a_job(tmp_path, False, "def scale(a, b):\n    return b * 2, (a + 1)[:, None]\n")
    np.savez(tmp_path / "two.npz", a=np.arange(8, dtype=np.float32), b=np.ones((8, 3, 2), np.float32))
    with open_rows(load_job(job.path, ["input={path: %s, key: [a, b]}" % (tmp_path / "two.npz")])) as data:
        assert [part.row_shape for part in data.parts] == [(3, 2), (1,)] and data.row_shape == (7,)
        assert data.read(5, 6).tolist() == [[2.0] * 6 + [6.0]]


def test_a_sample_is_preprocessed_too(tmp_path):
    job = a_job(tmp_path, False)
    (tmp_path / "sample.json").write_text(json.dumps({"data": raw(job.rows[:2]).ravel().tolist(), "sample_size": 8}))
    with open_rows(load_job(job.path, input=tmp_path / "sample.json")) as data:
        assert data.rows == 2 and np.allclose(data.read(0, 2), job.rows[:2], atol=1e-6)


def test_the_dry_run_says_which(tmp_path):
    for proved, words in ((True, "8 rows of 2x4 float32\nbefore   scale.py:scale, part of the proved model\n"),
                          (False, "8 rows of 6 float32\nbefore   scale.py:scale, outside of the proof: what is verified speaks of "
                                  "preprocessed rows\n")):
        job = a_job(tmp_path / str(proved), proved)
        done = run([sys.executable, "-m", "enclaveml", "run", str(job.path), "--dry-run"], LIMIT_S)
        assert done.returncode == 0 and words in done.stdout, log_of(done)


# -- from the job to the audit

@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[bool, SmallJob]:
    """The two jobs, run on two ranks; by whether the preprocessing is proved."""
    jobs = {proved: a_job(tmp_path_factory.mktemp("jobs") / "job", proved) for proved in (True, False)}
    for proved, job in jobs.items():
        done = enclaveml(job, ranks=2)
        assert done.returncode == 0, log_of(done)
        assert f"preprocessing: scale.py:scale, {'part of the proved model' if proved else 'outside of the proof'}" in done.stderr
    return jobs


@pytest.mark.mpi
@pytest.mark.ezkl
@pytest.mark.parametrize("proved", [True, False])
def test_a_run_and_what_its_file_says(finished, proved):
    job = finished[proved]
    found = read(job.results)
    assert (found.rows == found.rows[0]).all() and found.status == "complete"
    assert np.allclose(found.outputs, floats(job.rows), atol=1e-5)
    assert np.abs(found.proved - floats(job.rows)).max() <= TOLERANCE
    with read_results(job.results) as results:
        rows = results.input_rows(np.arange(8))
        assert rows.shape == ((8, 2, 4) if proved else (8, 6)), "public inputs are what the proofs speak of"
        assert np.allclose(rows, raw(job.rows) if proved else job.rows, atol=1e-6)
        sha256 = digest("scale.py:scale", job.folder)
        assert len(sha256) == 64 and results.versions["preprocess_sha256"] == sha256
    document = read_facts(job.results).document
    assert document["preprocess"] == {"function": "scale.py:scale", "proved": proved, "sha256": sha256}
    assert ("The model includes the preprocessing scale.py:scale." in summary(document)) == proved
    assert ("Outside of the proof the aggregator preprocessed the rows with scale.py:scale" in summary(document)) != proved


@pytest.mark.mpi
@pytest.mark.ezkl
def test_the_model_hash_is_of_the_composition(finished):
    hashes = {}
    for proved, job in finished.items():
        with read_results(job.results) as results:
            hashes[proved] = results.attribute("model_hash")
    assert hashes[True] != hashes[False]
    done = run([sys.executable, "-m", "enclaveml", "hash", str(finished[True].path)], LIMIT_S)
    assert done.stdout.strip() == hashes[True], log_of(done)


@pytest.mark.mpi
@pytest.mark.ezkl
def test_the_audit_says_which_and_what_it_needs(finished, monkeypatch):
    inside, outside = finished[True], finished[False]
    data = {proved: job.folder / "rows.npy" for proved, job in finished.items()}
    report = audit(AuditOptions(inside.results, inputs=data[True]))
    assert report.exit_code == 0 and report.facts["preprocessing"] == "scale.py:scale, part of the proved model"
    assert report.facts["inputs"] == "2 of 2 proofs checked are about the data given"
    assert refused(audit, AuditOptions(inside.results, inputs=data[True], preprocess="scale.py:scale")) == (
        "--preprocess scale.py:scale: the file's job has no preprocessing outside of its proofs")

    report = audit(AuditOptions(outside.results))
    assert report.verdict.endswith("; of rows as scale.py:scale made them, outside of the proofs") and report.exit_code == 0
    assert ("that the rows are what scale.py:scale makes of the data: it was applied outside of the proofs (--inputs with --preprocess "
            "compares them)") in report.limits
    assert refused(audit, AuditOptions(outside.results, inputs=data[False])).startswith(
        f"--inputs {data[False]}: the rows that the proofs speak of are what scale.py:scale made of the data, outside of the proofs; give "
        "--preprocess scale.py:scale to have it done to these data too, or --preprocess none where")
    assert refused(audit, AuditOptions(outside.results, preprocess="none")) == "--preprocess none: is for --inputs; give the data"

    monkeypatch.chdir(outside.folder)
    report = audit(AuditOptions(outside.results, inputs=data[False], preprocess="scale.py:scale"))
    assert (report.exit_code, report.facts["inputs"], report.notes) == (0, "2 of 2 proofs checked are about the data given", [])
    np.save(outside.folder / "done.npy", (raw(outside.rows).reshape(8, 8)[:, 1:-1] - 0.25) / 0.5)
    report = audit(AuditOptions(outside.results, inputs=outside.folder / "done.npy", preprocess="none"))
    assert (report.exit_code, report.facts["inputs"]) == (0, "2 of 2 proofs checked are about the data given")
    assert any("and the data were given as preprocessed" in limit for limit in report.limits)
    (outside.folder / "other.py").write_text(SCALE.replace("0.5", "0.6"))
    report = audit(AuditOptions(outside.results, inputs=data[False], preprocess="other.py:scale"))
    assert report.exit_code == 3 and "other.py:scale: its file has the SHA-256" in report.notes[0]


@pytest.mark.mpi
@pytest.mark.ezkl
def test_check_says_which(finished):
    job = finished[True]
    done = run([sys.executable, "-m", "enclaveml", "check", str(job.path)], LIMIT_S)
    assert done.returncode == 0 and "preprocessing: scale.py:scale, part of the proved model\n" in done.stdout, log_of(done)
