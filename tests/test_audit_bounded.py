"""The audit of a file whose circuit bounds its committed inputs: what the verdict says, and what ties that to the id."""

from __future__ import annotations

import json
from pathlib import Path

import audit_case
import h5py
import pytest
from audit_case import changed, findings, run
from small_job import SCALE, SmallJob
from test_audit import store

pytestmark = pytest.mark.ezkl


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bounded")


@pytest.fixture
def job(base, monkeypatch) -> SmallJob:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    return audit_case.small_results(base, "bounded")


def manifest_of(file: h5py.File) -> tuple[str, dict]:
    (circuit,) = file["keys"]
    return circuit, json.loads(bytes(file[f"keys/{circuit}/manifest"][()]))


def test_the_verdict_names_the_bound_and_the_owner_can_rebuild_the_id(job, base) -> None:
    with h5py.File(job.results) as file:
        circuit, manifest = manifest_of(file)
    settings = manifest["settings"]
    assert manifest["inputs_bounded"] is True and settings["bound"] == "legs"
    most = (settings["decomp_base"] ** settings["decomp_legs"] - 1) / 2**SCALE
    said = (f"what the inputs are: the proofs hold for commitments to numbers of {most:g} at most, not necessarily the data "
            "meant (--inputs, of the data's owner, settles it)")
    word = "that the inputs are such numbers: that a circuit bounds them is in its id, and no --circuit-id was given"
    report = run(job.results)
    assert report.failures == [] and said in report.limits and word in report.limits
    assert not any("field elements" in line for line in report.limits)
    assert report.circuits[0]["inputs"] == "committed, bounded"
    rebuilt = audit_case.rebuilt_id(job, base / "cache")
    assert rebuilt == circuit
    report = run(job.results, circuit_ids=(rebuilt,))
    assert report.failures == [] and said in report.limits and word not in report.limits


@pytest.mark.parametrize("claim", [{"bound": "table"}, {"bound": ""}])
def test_another_bound_is_another_circuit(job, tmp_path, claim) -> None:
    def change(file: h5py.File) -> None:
        circuit, manifest = manifest_of(file)
        manifest["settings"].update(claim)
        store(file, f"keys/{circuit}/manifest", json.dumps(manifest).encode())

    found = findings(changed(job, tmp_path, change))
    assert any("its keys and settings have the id" in line for line in found)


def test_a_flag_that_says_something_else_than_the_id(job, tmp_path) -> None:
    def change(file: h5py.File) -> None:
        circuit, manifest = manifest_of(file)
        manifest["inputs_bounded"] = False
        store(file, f"keys/{circuit}/manifest", json.dumps(manifest).encode())

    found = findings(changed(job, tmp_path, change))
    assert any("its manifest says inputs_bounded False, its settings True" in line for line in found)
