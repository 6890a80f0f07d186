"""Preparation: models of several kinds, registration against the float function, the cache."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zk_case
from zk_case import drain

from enclaveml.errors import FormatError, JobError
from enclaveml.zk import process
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import (
    MANIFEST,
    VERIFIED,
    CircuitRequest,
    ModelFunction,
    circuit_from_manifest,
    load_circuit,
)

pytestmark = pytest.mark.ezkl

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.getbasetemp() / "zk-cache"  # shared with the tests of proofs
        patch.setenv("ENCLAVEML_CACHE", str(root))
        yield root


def tanh_model():
    w = RNG.normal(size=(4, 2)).astype(np.float32)

    def apply(x):
        import jax.numpy as jnp

        return jnp.tanh(x @ w)

    return ModelFunction(apply, (4,)), RNG.normal(size=(6, 4)).astype(np.float32), 7


def cnn_model():
    from flax import nnx

    rngs = nnx.Rngs(0)
    conv = nnx.Conv(1, 2, (3, 3), strides=(2, 2), padding="SAME", rngs=rngs)
    head = nnx.Linear(8, 2, rngs=rngs)
    drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def apply(x):
        return head(drop(nnx.relu(conv(x))).reshape(x.shape[0], -1))

    return ModelFunction(apply, (4, 4, 1)), RNG.normal(size=(6, 4, 4, 1)).astype(np.float32), 10


def embedding_model():
    from flax import nnx

    rngs = nnx.Rngs(1)
    embed, head = nnx.Embed(5, 2, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

    def apply(ids):
        return head(embed(ids).reshape(ids.shape[0], -1))

    return ModelFunction(apply, (3,), np.dtype(np.int32)), RNG.integers(0, 5, size=(6, 3)).astype(np.int32), 10


@pytest.mark.parametrize("make", [tanh_model, cnn_model, embedding_model])
def test_other_models_prove_and_verify(make) -> None:
    function, rows, scale = make()
    request = CircuitRequest(scale=scale, tolerance=0.05, expected_rows=2)
    circuit = EzklSystem().prepare(function, rows, request)
    assert circuit.deviation <= 0.05 and circuit.samples == 6 and circuit.folder.name != MANIFEST
    floats = np.asarray(function.apply(rows[:2]), np.float32)
    proof = zk_case.prove(circuit, rows[:2])
    verifier = EzklSystem().verifier(circuit)
    try:
        found = zk_case.verdict(verifier, rows[:2], proof, floats)
    finally:
        verifier.close()
    assert (found.text, found.status.tolist()) == ("", [VERIFIED] * 2)
    if make is embedding_model:  # an index outside the embedding panics in Rust
        prover = EzklSystem().prover(circuit.folder, 1)
        try:
            prover.submit(0, np.full((2, 3), 99, np.int32), 60)
            (result,) = drain(prover)
        finally:
            prover.close()
        assert result.error.startswith("witness: PanicException: ")
    if make is tanh_model:  # prove would never return
        prover = EzklSystem().prover(circuit.folder, 1)
        prover._stages = tuple(replace(stage, lookup=(-3, 3)) for stage in prover._stages)
        try:
            prover.submit(0, rows[:2], 60)
            (result,) = drain(prover)
        finally:
            prover.close()
        assert result.proof is None
        assert re.fullmatch(r"lookups reach -?\d+\.\.-?\d+, the circuit's table is -3\.\.3", result.error)


def test_a_cached_circuit_is_found_without_exporting(cache: Path) -> None:
    made = zk_case.prepare()
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import zk_case\n"
        "c = zk_case.prepare()\n"
        "print(json.dumps([c.circuit_id, c.model_hash, 'jax2onnx' in sys.modules, 'onnx' in sys.modules]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(Path(zk_case.__file__).parent)], capture_output=True, text=True,
        check=True, env={**process.child_environment(1), "ENCLAVEML_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
    )
    assert json.loads(out.stdout) == [made.circuit_id, made.model_hash, False, False]


def test_other_sample_rows_are_compared_again() -> None:
    made = zk_case.prepare()
    request = CircuitRequest(scale=8, expected_rows=4, rows_per_proof=4)
    rows = zk_case.ROWS[:5] / 2
    again = EzklSystem().prepare(zk_case.function(), rows, request)
    assert again.circuit_id == made.circuit_id
    assert (again.samples, made.samples) == (5, 12)
    assert again.deviation != made.deviation


def test_the_circuit_is_the_same_when_made_anew(tmp_path: Path, monkeypatch) -> None:
    """Given the SRS, so that the owner of a model can rebuild its circuit_id."""
    import shutil

    made = zk_case.prepare()
    root = tmp_path / "cache"
    shutil.copytree(made.folder.parent.parent / "srs", root / "srs")
    monkeypatch.setenv("ENCLAVEML_CACHE", str(root))
    again = zk_case.prepare()
    assert again.folder != made.folder
    assert again.circuit_id == made.circuit_id
    differ = {name for name in made.files if again.files[name] != made.files[name]}
    assert differ <= {"model.circuit"}  # ezkl writes its graph in an order that is not fixed


def test_a_tolerance_that_cannot_be_met_is_refused_with_the_numbers() -> None:
    request = CircuitRequest(scale=8, tolerance=1e-7, expected_rows=4)
    with pytest.raises(JobError) as caught:
        EzklSystem().prepare(zk_case.function(), zk_case.ROWS, request)
    text = str(caught.value)
    assert text.startswith("the model's proved outputs deviate from its float outputs by 0.")
    assert text.endswith(
        "on the sample rows (scale 8), more than proof.tolerance 1e-07; raise proof.tolerance or make the model "
        "less sensitive to rounding"
    )


def tied_model():
    """Two outputs that differ by less than rounding does at scale 8, the second one ahead."""
    w = np.full((6, 2), 0.3, np.float32)
    w[:, 1] += 1e-4
    rows = (np.arange(1, 13)[:, None] / 64 * np.ones(6)).astype(np.float32)
    return ModelFunction(lambda x: x @ w, (6,)), rows


def test_an_agreement_that_is_not_reached_is_refused_with_the_figure() -> None:
    function, rows = tied_model()
    with pytest.raises(JobError) as caught:
        EzklSystem().prepare(function, rows, CircuitRequest(scale=8, expected_rows=4))
    assert str(caught.value) == (
        "the model's proved outputs have the argmax of its float outputs on 0.0000 of the sample rows at best, less "
        "than proof.agreement 0.995; lower proof.agreement (0 where outputs are no classes), or give a finer proof.scale"
    )


def test_the_scale_is_chosen_so_that_the_argmax_agrees() -> None:
    """Scale 8 to 12 are within the tolerance by far; none of them tells the two outputs apart."""
    function, rows = tied_model()
    circuit = EzklSystem().prepare(function, rows, CircuitRequest(expected_rows=4))
    assert circuit.agreement == 1.0 and circuit.settings["param_scale"] >= 13
    again = EzklSystem().prepare(function, rows[:5], CircuitRequest(expected_rows=4))
    assert (again.circuit_id, again.agreement, again.samples) == (circuit.circuit_id, 1.0, 5)


def test_too_little_memory_is_refused_before_set_up() -> None:
    request = CircuitRequest(scale=8, expected_rows=4, memory_gb=0.05)
    with pytest.raises(JobError) as caught:
        EzklSystem().prepare(zk_case.function(), zk_case.ROWS, request)
    assert str(caught.value) == (
        "no circuit for this model fits 0.05 GB of memory; the smallest takes at least 0.114 GB, as predicted with a margin"
    )


def test_a_circuit_whose_rows_and_scale_are_given_serves_jobs_of_any_size() -> None:
    made = zk_case.prepare()
    told: list[str] = []
    request = CircuitRequest(
        scale=8, rows_per_proof=4, expected_rows=4000, cores=12, children=3, memory_gb=16.0
    )
    again = EzklSystem().prepare(zk_case.function(), zk_case.ROWS, request, told.append)
    assert again == made and told == []


def test_a_cached_circuit_that_takes_too_much_memory_is_not_used() -> None:
    made = zk_case.prepare()
    children = 1 + int(1e9 / made.measured["prove_peak_bytes"])
    request = CircuitRequest(scale=8, rows_per_proof=4, children=children, memory_gb=1.0)
    told: list[str] = []
    with pytest.raises(JobError) as caught:
        EzklSystem().prepare(zk_case.function(), zk_case.ROWS, request, told.append)
    assert told == [f"cached circuit {made.circuit_id[:16]} takes more memory than this job has"]
    text = str(caught.value)
    assert text.startswith("no circuit for this model fits 1 GB of memory at 4 rows per proof; the smallest takes ")
    assert text.endswith(f" GB for {children} provers at a time, as predicted with a margin")


def test_sample_rows_of_another_shape_are_a_callers_error() -> None:
    with pytest.raises(ValueError) as caught:
        EzklSystem().prepare(zk_case.function(), zk_case.ROWS[:, :5], CircuitRequest())
    assert str(caught.value) == "sample rows are (12, 5), expected (S, 6)"


def test_the_manifest_comes_back() -> None:
    made = zk_case.prepare()
    assert load_circuit(made.folder) == made
    assert made.inputs_bounded is False and made.srs_origin == "own"
    assert json.loads(json.dumps(made.manifest())) == made.manifest()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": "2"}, "format is not enclaveml-circuit-1"), ({"rows": 0}, "rows, outputs or tolerance out of range"),
     ({"tolerance": float("nan")}, "rows, outputs or tolerance out of range"),
     ({"files": {"../x": "00"}}, "a file name with a path in it")],
)
def test_manifests_that_are_none(change: dict, message: str) -> None:
    document = {**zk_case.prepare().manifest(), **change}
    with pytest.raises(FormatError) as caught:
        circuit_from_manifest(document, Path("/f"))
    assert str(caught.value) == f"/f: not a circuit manifest: {message}"
