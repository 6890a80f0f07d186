"""The committed data, weights and job files of jobs/ are what their READMEs say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

JOBS = Path(__file__).parent.parent / "jobs"

ALL_JOBS = ["digits", "cancer", "digits_cnn", "diabetes", "digits_residual", "digits_transformer", "digits_ensemble", "co2"]


def script(job: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"make_data_{job}", JOBS / job / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mlp(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The MLP of both jobs, by numpy in float64: x (B, F) -> logits (B, D)."""
    w = {name: a.astype(np.float64) for name, a in weights.items()}
    hidden = np.maximum(x @ w["hidden.kernel"] + w["hidden.bias"], 0)
    return hidden @ w["out.kernel"] + w["out.bias"]


@pytest.mark.parametrize("job", ["digits", "cancer", "diabetes", "co2"])
def test_data_is_what_its_source_gives(job):
    if job != "co2":  # whose source, a CSV, lies beside it
        pytest.importorskip("sklearn")
    with np.load(JOBS / job / f"{job}.npz") as stored:
        expected = script(job).arrays()
        assert sorted(stored.files) == sorted(expected)
        for name, array in expected.items():
            assert stored[name].dtype == array.dtype
            if name in ("mean", "std"):  # sums in another order on another machine
                np.testing.assert_allclose(stored[name], array, rtol=1e-12)
            elif job in ("cancer", "diabetes") and array.dtype == np.float32:
                np.testing.assert_allclose(stored[name], array, rtol=1e-6, atol=1e-7)
            else:
                np.testing.assert_array_equal(stored[name], array)


def test_digits_data_against_scikit_learn_directly():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, digits = datasets.load_digits(return_X_y=True)
    with np.load(JOBS / "digits" / "digits.npz") as data:
        np.testing.assert_array_equal(data["x_all"] * 16, pixels)
        np.testing.assert_array_equal(data["y_all"], digits)
        np.testing.assert_array_equal(data["x"], data["x_all"][data["rows"]])
        np.testing.assert_array_equal(data["y"], data["y_all"][data["rows"]])
        assert data["x"].shape == (360, 64) and len(np.unique(data["rows"])) == 360
        assert data["x_all"].min() == 0 and data["x_all"].max() == 1


def test_cancer_data_against_scikit_learn_directly():
    datasets = pytest.importorskip("sklearn.datasets")
    features, classes = datasets.load_breast_cancer(return_X_y=True)
    with np.load(JOBS / "cancer" / "cancer.npz") as data:
        raw = data["x_all"] * data["std"] + data["mean"]
        inside = np.abs(data["x_all"]) < 8
        assert (~inside).sum() == 9
        np.testing.assert_allclose(raw[inside], features[inside], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(data["y_all"], classes)
        train = np.setdiff1d(np.arange(569), data["rows"])
        np.testing.assert_allclose(features[train].mean(axis=0), data["mean"], rtol=1e-12)
        assert data["x"].shape == (114, 30) and np.abs(data["x_all"]).max() == 8


@pytest.mark.parametrize(("job", "right", "total"), [("digits", 354, 360), ("cancer", 113, 114)])
def test_weights_have_the_stated_held_out_accuracy(job, right, total):
    weights = load_file(JOBS / job / f"{job}.safetensors")
    with np.load(JOBS / job / f"{job}.npz") as data:
        assert len(data["y"]) == total
        hits = int((mlp(weights, data["x"]).argmax(axis=1) == data["y"]).sum())
    assert hits == right
    readme = (JOBS / job / "README.md").read_text()
    assert f"held-out accuracy {right / total:.4f} ({right} of {total}) in float" in readme


def test_the_regressions_weights_have_the_stated_held_out_error():
    with np.load(JOBS / "diabetes" / "diabetes.npz") as data:
        said = mlp(load_file(JOBS / "diabetes" / "diabetes.safetensors"), data["x"])[:, 0]
        error, trivial = np.abs(said - data["y"]).mean(), np.abs(data["y"]).mean()
    readme = (JOBS / "diabetes" / "README.md").read_text()
    assert f"held-out mean absolute error {error:.4f} standard deviations in float" in readme
    assert f"has a mean absolute error of {trivial:.4f}." in readme.replace("\n", " ")


@pytest.mark.parametrize("job", ["digits", "cancer"])
def test_weights_file_has_names_shapes_and_modest_values(job):
    weights = load_file(JOBS / job / f"{job}.safetensors")
    shapes = {"digits": (64, 32, 10), "cancer": (30, 16, 2)}[job]
    assert {name: a.shape for name, a in weights.items()} == {
        "hidden.kernel": shapes[:2], "hidden.bias": shapes[1:2],
        "out.kernel": shapes[1:], "out.bias": shapes[2:]}
    assert all(a.dtype == np.float32 and np.abs(a).max() < 8 for a in weights.values())


def job_model(job: str):
    """The job's model as its job file names it, with the committed weights, every one of them used."""
    nnx = pytest.importorskip("flax.nnx")
    spec = yaml.safe_load((JOBS / job / "job.yaml").read_text())
    file, name = spec["model"]["flax"].split(":")
    found = importlib.util.spec_from_file_location(f"{job}_model", JOBS / job / file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    model = getattr(module, name)(rngs=nnx.Rngs(0))
    weights = load_file(JOBS / job / spec["model"]["weights"])
    state = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))}
    assert {n: tuple(leaf.get_value().shape) for n, leaf in state.items()} == {n: a.shape for n, a in weights.items()}
    for variable, leaf in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        leaf.set_value(weights[".".join(map(str, variable))])
        nnx.update(model, nnx.from_flat_state([(variable, leaf)]))
    model.eval()
    return model


@pytest.mark.parametrize("job", ["digits_cnn", "digits_residual", "digits_transformer", "digits_ensemble"])
def test_the_networks_weights_have_the_stated_held_out_accuracy(job):
    with np.load(JOBS / "digits" / "digits.npz") as data:
        hits = int((np.asarray(job_model(job)(data["x"])).argmax(axis=1) == data["y"]).sum())
    readme = (JOBS / job / "README.md").read_text()
    assert f"held-out accuracy {hits / 360:.4f} ({hits} of 360) in float" in readme


def test_the_ensembles_members_are_those_that_its_readme_says():
    model = job_model("digits_ensemble")
    with np.load(JOBS / "digits" / "digits.npz") as data:
        alone = [float((np.asarray(logits).argmax(axis=1) == data["y"]).mean()) for logits in model.logits(data["x"])]
        votes = np.asarray(model(data["x"]))
    readme = (JOBS / "digits_ensemble" / "README.md").read_text()
    assert f"alone they have {alone[0]:.4f}, {alone[1]:.4f} and {alone[2]:.4f}" in readme
    np.testing.assert_allclose(votes.sum(axis=1), 1, atol=1e-5)
    assert len({a.tobytes() for a in (np.asarray(one.kernel.get_value()) for one in model.hidden)}) == 3


def test_the_forecasts_weights_have_the_stated_held_out_error():
    with np.load(JOBS / "co2" / "co2.npz") as data:
        said = np.asarray(job_model("co2")(data["x"]))[:, 0]
        error, year_before = np.abs(said - data["y"]).mean(), np.abs(data["x"][:, 0] - data["y"]).mean()
    readme = (JOBS / "co2" / "README.md").read_text()
    assert f"held-out mean absolute error {error:.4f} ppm in float" in readme
    assert f"has a mean absolute error of {year_before:.4f} ppm" in readme.replace("\n", " ")


@pytest.mark.parametrize("job", ALL_JOBS)
def test_job_file_names_files_that_exist(job):
    text = (JOBS / job / "job.yaml").read_text()
    spec = yaml.safe_load(text)
    assert spec["job"]["name"] == job
    for path in (spec["model"]["weights"], spec["input"]["path"], spec["model"]["flax"].split(":")[0]):
        assert (JOBS / job / path).is_file()
    with np.load(JOBS / job / spec["input"]["path"]) as data:
        assert {spec["input"]["key"], spec["input"]["labels"]} <= set(data.files)
        rows, width = data[spec["input"]["key"]].shape
    assert re.search(rf"# \({rows}, {width}\) float32", text)


def test_job_settings_are_those_of_the_issue():
    digits = yaml.safe_load((JOBS / "digits" / "job.yaml").read_text())
    cancer = yaml.safe_load((JOBS / "cancer" / "job.yaml").read_text())
    assert digits["split"] == {"strategy": "by_capacity"}
    assert digits["proof"] == {"coverage": 1, "inputs": "public"}
    assert cancer["split"] == {"strategy": "redundant", "replicas": 3}
    assert cancer["proof"]["inputs"] == "committed" and cancer["combine"]["strategy"] == "median"


@pytest.mark.parametrize("job", ALL_JOBS)
def test_committed_files_are_small(job):
    files = [f for f in (JOBS / job).iterdir() if f.suffix in (".csv", ".npz", ".safetensors", ".py", ".yaml", ".md")]
    assert sum(f.stat().st_size for f in files) < 500_000
