"""Inputs that the circuit bounds: the same function, and forgeries with field elements that are no numbers fail."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zk_case
from test_audit_forgery import solved
from zk_case import B1, ROWS, W1, drain, outputs, prove, verdict

from enclaveml.errors import ProofError
from enclaveml.zk import process
from enclaveml.zk.ezkl import field, layouts, prover, statement
from enclaveml.zk.ezkl.bench import Bench, input_document
from enclaveml.zk.ezkl.files import COMPILED, PK, SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.onnx_bound import bounded, largest_input
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.rebuild import choice_of
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import REJECTED, VERIFIED, Circuit, CircuitRequest
from enclaveml.zk.scratch import Scratch

KINDS = ("legs", "table")

#: The hidden layer that the forger wants, at twice the input's scale.
WANTED = np.array([3, 1, 2, 1]) << 16

needs_ezkl = pytest.mark.ezkl


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.getbasetemp() / "zk-cache"))
        yield


@pytest.fixture(scope="module", params=KINDS)
def circuit(request, tmp_path_factory):
    """A committed circuit of four rows that bounds its inputs in one way only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.getbasetemp() / f"bound-{request.param}"))
        ways = layouts.Layouts._bounds
        patch.setattr(layouts.Layouts, "_bounds", lambda self, probe: [w for w in ways(self, probe) if w[0] == request.param])
        made = zk_case.prepare("committed", bounded=True)
    assert (made.bound, made.inputs_bounded, made.manifest()["inputs_bounded"]) == (request.param, True, True)
    return made


def forged_felts(circuit: Circuit) -> bytes:
    """Rows that are no numbers and give the hidden layer WANTED, by elimination modulo the field's order."""
    scale = circuit.input_scale
    kernel, bias = field.quantise(W1, scale), field.quantise(B1, 2 * scale)
    x = solved([[int(kernel[i, j]) for i in range(4)] for j in range(4)], [int(v) for v in WANTED - bias])
    felts = b"".join(v.to_bytes(32, "little") for v in [*x, 0, 0]) * circuit.rows
    with pytest.raises(ValueError):
        field.from_felts(felts)
    return felts


@needs_ezkl
def test_an_honest_proof_verifies(circuit) -> None:
    rows = ROWS[:3]
    verifier = EzklSystem().verifier(circuit)
    try:
        found = verdict(verifier, rows, prove(circuit, rows), outputs(rows))
    finally:
        verifier.close()
    assert (found.text, found.status.tolist()) == ("", [VERIFIED] * 3)


@needs_ezkl
def test_the_prover_makes_nothing_of_a_forged_input(circuit, monkeypatch) -> None:
    felts = forged_felts(circuit)
    monkeypatch.setattr(prover.statement, "input_felts", lambda rows, bundle, scale: felts)
    made = EzklSystem().prover(circuit.folder, 1)
    try:
        made.submit(0, ROWS[:4], 60)
        (result,) = drain(made)
    finally:
        made.close()
    assert result.proof is None
    assert ("synthesis error" if circuit.bound == "legs" else "lookups reach") in result.error


def witness_and_forgery(circuit: Circuit, child: process.Child, scratch: Scratch) -> tuple[str, bytes]:
    """An unbounded circuit's witness of the forged input, which exists, with the outputs that it gives."""
    free = zk_case.prepare("committed")
    data = scratch.write("input", input_document(forged_felts(circuit)))
    made = process.wait(child, "witness", 60, data=data, circuit=str(free.folder / COMPILED), output=str(scratch.file("w")))
    assert free.input_scale == circuit.input_scale and free.output_scale == circuit.output_scale
    return scratch.write("forged", Path(scratch.file("w")).read_text(encoding="utf-8")), made.block


def tried(circuit: Circuit, child: process.Child, witness: str, said: bytes, scratch: Scratch) -> str:
    """Prove a witness and verify what comes of it, with the proof's own commitment: "" where that is valid.

    With a value that is in no table ezkl's prover never returns; honest proofs of this size take 0.4 s.
    """
    path = {name: str(circuit.folder / name) for name in circuit.files}
    try:
        made = process.wait(child, "prove", 15, witness=witness, circuit=path[COMPILED], pk=path[PK], srs=path[SRS],
                            proof=str(scratch.file("proof")))
        document = statement.proof_document("committed", made.block, field.from_felts(said), commitment=made.block[:64])
        process.wait(child, "verify", 60, proof=scratch.write("document", document), settings=path[SETTINGS],
                     vk=path[VK], srs=path[VERIFIER_SRS])
    except ProofError as error:
        return str(error)
    return ""


@needs_ezkl
def test_a_witness_made_by_hand_gives_no_valid_proof(circuit) -> None:
    """The witness that ezkl refuses to make, as a forger writes it: inputs and outputs that fit modulo the order."""
    with contextlib.closing(process.Child(EZKL, 1)) as child, contextlib.closing(Scratch()) as scratch:
        witness, said = witness_and_forgery(circuit, child, scratch)
        free = zk_case.prepare("committed")
        assert tried(free, child, witness, said, scratch) == ""  # the same attack where nothing bounds the inputs
        assert tried(circuit, child, witness, said, scratch) != ""


@needs_ezkl
def test_a_proof_of_the_circuit_that_bounds_nothing_is_none_of_this_one(circuit, monkeypatch) -> None:
    free = zk_case.prepare("committed")
    verifier = EzklSystem().verifier(circuit)
    try:
        found = verdict(verifier, ROWS[:4], prove(free, ROWS[:4]), outputs(ROWS[:4]))
    finally:
        verifier.close()
    assert found.status.tolist() == [REJECTED] * 4


@needs_ezkl
def test_a_circuit_that_only_claims_it_is_not_registered(circuit) -> None:
    """As if the graph's optimiser had cancelled x + f(x) - f(x)."""
    settings = json.loads((circuit.folder / SETTINGS).read_text(encoding="utf-8"))
    choice = choice_of(circuit.manifest())
    with contextlib.closing(process.Child(EZKL, 1)) as child, contextlib.closing(Scratch()) as scratch:
        bench = Bench(zk_case.function(), "committed", child, scratch)
        bench.check_bound(choice, str(circuit.folder / COMPILED), settings, ROWS)
        free = bench.settings(replace(choice, bound=""))
        with pytest.raises(ProofError) as caught:
            bench.check_bound(choice, str(circuit.folder / COMPILED), free, ROWS)
    least = 24 * (3 if circuit.bound == "table" else 2 + 3 * choice.legs)
    assert str(caught.value) == f"the circuit has 0 cells more than one that bounds no input, where that takes {least}"


@needs_ezkl
def test_the_bound_is_in_the_circuits_id(circuit) -> None:
    settings = json.loads((circuit.folder / SETTINGS).read_text(encoding="utf-8"))
    ids = {statement.circuit_id(circuit.files, settings, circuit.version, bound) for bound in ("", *KINDS)}
    assert len(ids) == 3 and circuit.circuit_id in ids
    assert circuit.circuit_id == statement.circuit_id(circuit.files, settings, circuit.version, circuit.bound)


def test_public_inputs_are_bounded_by_whoever_looks_at_them() -> None:
    assert not CircuitRequest(inputs="public", bounded=True).bounds_inputs
    assert CircuitRequest(inputs="hashed", bounded=True).bounds_inputs
    assert not CircuitRequest(inputs="committed").bounds_inputs


@pytest.mark.parametrize("bound", KINDS)
def test_the_function_stays_the_same(bound: str) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("x", 1, [12, 6])],
        [onnx.helper.make_tensor_value_info("y", 1, [12, 4])], [onnx.numpy_helper.from_array(W1, "w")],
    )
    document = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString(deterministic=True)
    assert bounded(document, "") == document
    model = onnx.load_from_string(bounded(document, bound))
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node] == [{"table": "Tanh", "legs": "Abs"}[bound], "Add", "Sub", "Gemm"]
    (found,) = ReferenceEvaluator(model).run(None, {"x": ROWS})
    np.testing.assert_allclose(found, ROWS @ W1, atol=1e-5)
    with pytest.raises(ValueError) as caught:
        bounded(document, "bits")
    assert str(caught.value) == "bound is 'bits'; allowed: table, legs"


def test_the_largest_input() -> None:
    args = {"lookup_range": [-40, 32], "decomp_base": 128, "decomp_legs": 3}
    assert [largest_input(kind, args) for kind in KINDS] == [128**3 - 1, 40]
