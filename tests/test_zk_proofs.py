"""Real proofs: the honest ones verify, every other one is rejected with its reason."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import zk_case
from zk_case import drain, outputs, prepare, prove, verdict

from enclaveml.errors import EnvironmentFault
from enclaveml.zk import process
from enclaveml.zk.ezkl import field, statement
from enclaveml.zk.ezkl.files import SETTINGS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import INCONSISTENT, REJECTED, VERIFIED, Proof, load_circuit

pytestmark = pytest.mark.ezkl


@pytest.fixture(scope="module", params=["public", "committed", "hashed"])
def case(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.getbasetemp() / "zk-cache"))
        yield zk_case.honest(request.param)


@pytest.fixture(scope="module")
def verifier(case):
    made = EzklSystem().verifier(case.circuit)
    yield made
    made.close()


def rejected(found, n: int = 3) -> str:
    assert found.status.tolist() == [REJECTED] * n
    assert np.isnan(found.proved).all() and np.isnan(found.deviation).all()
    return found.text


def test_an_honest_proof_verifies(case, verifier) -> None:
    found = verdict(verifier, case.rows, case.proof, case.floats)
    assert (found.text, found.status.tolist()) == ("", [VERIFIED] * 3)
    assert found.proved.shape == (3, 3)
    assert np.abs(found.proved - case.floats).max() == found.deviation.max() <= case.circuit.tolerance
    assert not found.argmax_differs.any()
    assert (case.proof.outputs[3] == case.proof.outputs[2]).all()  # the padding row is the last one's copy


def test_sections_have_their_lengths(case) -> None:
    assert len(case.proof.commitment) == {"public": 0, "committed": 64, "hashed": 32}[case.circuit.inputs]
    assert len(case.proof.computation) == case.circuit.proof_bytes
    if case.circuit.inputs == "committed":
        assert case.proof.computation[:64] == case.proof.commitment


@pytest.mark.parametrize("position", [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
def test_a_flipped_proof_byte(case, verifier, position: float) -> None:
    data = bytearray(case.proof.computation)
    data[int(position * len(data))] ^= 1
    found = verdict(verifier, case.rows, replace(case.proof, computation=bytes(data)), case.floats)
    text = rejected(found)
    in_commitment = case.circuit.inputs == "committed" and int(position * len(data)) < 64
    assert text.startswith("the proof's own commitment" if in_commitment else "verification: ")


def test_appended_truncated_and_empty_proofs(case, verifier) -> None:
    n = case.circuit.proof_bytes
    for data in (case.proof.computation + b"\0", case.proof.computation + bytes(64),
                 case.proof.computation[:-1], case.proof.computation[:-32], b"", bytes(1 << 20)):
        text = rejected(verdict(verifier, case.rows, replace(case.proof, computation=data), case.floats))
        assert text == f"computation proof is {len(data)} bytes, a proof of this circuit is {n}"


def test_wrong_commitment_sections(case, verifier) -> None:
    want = len(case.proof.commitment)
    for data in (case.proof.commitment + b"\0", b"x" * (want + 32)):
        text = rejected(verdict(verifier, case.rows, replace(case.proof, commitment=data), case.floats))
        assert text == f"commitment section is {len(data)} bytes, {want} for {case.circuit.inputs} inputs"
    if want:
        flipped = bytearray(case.proof.commitment)
        flipped[5] ^= 4
        text = rejected(verdict(verifier, case.rows, replace(case.proof, commitment=bytes(flipped)), case.floats))
        name = {"committed": "commit", "hashed": "poseidon"}[case.circuit.inputs]
        assert text == f"the input's {name} is not that of these rows"


@pytest.mark.parametrize("where", [(0, 0), (2, 2), (3, 1)])
@pytest.mark.parametrize("by", [1, -1, 1 << 20])
def test_altered_outputs_even_in_the_padding(case, verifier, where, by: int) -> None:
    changed = case.proof.outputs.copy()
    changed[where] += by
    found = verdict(verifier, case.rows, replace(case.proof, outputs=changed), case.floats)
    assert rejected(found).startswith("verification: ")


def test_outputs_of_another_form(case, verifier) -> None:
    out = case.proof.outputs
    for bad, shape in ((out[:3], "int64(3, 3)"), (np.vstack([out, out[:1]]), "int64(5, 3)"),
                       (out.astype(np.float64), "float64(4, 3)"), (np.append(out, [0]), "int64(13,)")):
        text = rejected(verdict(verifier, case.rows, replace(case.proof, outputs=bad), case.floats))
        assert text == f"proved outputs are {shape}, expected int64(4, 3)"
    huge = out.copy()
    huge[0, 0] = -(2**63)
    text = rejected(verdict(verifier, case.rows, replace(case.proof, outputs=huge), case.floats))
    assert text == "a proved output is out of the signed range"


def test_the_proof_of_other_rows(case, verifier) -> None:
    for rows in (zk_case.ROWS[4:7], case.rows[::-1], case.rows[[0, 1, 1]], case.rows[:2]):
        found = verdict(verifier, rows, case.proof, outputs(rows))
        text = rejected(found, len(rows))
        assert text.startswith("verification: " if case.circuit.inputs == "public" else "the input's ")


def test_one_changed_input_value(case, verifier) -> None:
    rows = case.rows.copy()
    rows[1, 3] += np.float32(2.0**-case.circuit.input_scale)
    rejected(verdict(verifier, rows, case.proof, case.floats))


def test_rows_without_fixed_point(case, verifier) -> None:
    rows = case.rows.copy()
    rows[0, 0] = np.nan
    text = rejected(verdict(verifier, rows, case.proof, case.floats))
    assert text == "a value is not finite or exceeds 2**44, the most at scale 8"


def test_too_many_rows(case, verifier) -> None:
    rows = zk_case.ROWS[:5]
    text = rejected(verdict(verifier, rows, case.proof, outputs(rows)), 5)
    assert text == "5 rows for a bundle of 4"


def test_float_outputs_beyond_the_tolerance(case, verifier) -> None:
    floats = case.floats.copy()
    floats[1, 0] += 2 * case.circuit.tolerance
    found = verdict(verifier, case.rows, case.proof, floats)
    assert found.status.tolist() == [VERIFIED, INCONSISTENT, VERIFIED]
    assert found.text.startswith("1 of 3 rows out of tolerance 0.0")
    assert np.isfinite(found.proved).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_floats_that_are_no_numbers_never_verify(case, verifier, bad: float) -> None:
    floats = case.floats.copy()
    floats[2, 1] = bad
    found = verdict(verifier, case.rows, case.proof, floats)
    assert found.status.tolist() == [VERIFIED, VERIFIED, INCONSISTENT]


def test_float_outputs_of_another_shape(case, verifier) -> None:
    text = rejected(verdict(verifier, case.rows, case.proof, case.floats[:2]))
    assert text == "float outputs are (2, 3), expected (3, 3)"


def test_a_flipped_argmax_within_the_tolerance_is_flagged(case, verifier) -> None:
    wide = EzklSystem().verifier(replace(case.circuit, tolerance=100.0))
    try:
        floats = case.floats.copy()
        floats[0, (np.argmax(floats[0]) + 1) % 3] += 50
        found = verdict(wide, case.rows, case.proof, floats)
    finally:
        wide.close()
    assert found.status.tolist() == [VERIFIED] * 3
    assert found.argmax_differs.tolist() == [True, False, False]


def test_another_models_proof(case, verifier) -> None:
    if case.circuit.inputs != "public":
        pytest.skip("one mode shows it")
    other = prepare("public", shift=0.25)
    assert other.circuit_id != case.circuit.circuit_id and other.model_hash != case.circuit.model_hash
    proof = prove(other, case.rows)
    floats = outputs(case.rows, 0.25)
    assert rejected(verdict(verifier, case.rows, proof, floats)).startswith(("verification: ", "computation proof"))


def test_an_extra_instance_would_pass_ezkl_and_cannot_be_said_here(case) -> None:
    """The document holds exactly B * D outputs, whatever the prover's held."""
    felts = statement.input_felts(case.rows, 4, case.circuit.input_scale)
    digest = case.proof.commitment if case.circuit.inputs == "hashed" else b""
    document = json.loads(statement.proof_document(
        case.circuit.inputs, case.proof.computation, case.proof.outputs, felts=felts, digest=digest,
        commitment=case.proof.commitment,
    ))
    count = {"public": 4 * 6, "hashed": 1, "committed": 0}[case.circuit.inputs] + 4 * 3
    assert [len(column) for column in document["instances"]] == [count]
    assert document["proof"] == list(case.proof.computation)


def test_388_bytes_of_srs_verify(case, tmp_path) -> None:
    assert (case.circuit.folder / VERIFIER_SRS).stat().st_size == 388
    felts = statement.input_felts(case.rows, 4, case.circuit.input_scale)
    document = statement.proof_document(
        case.circuit.inputs, case.proof.computation, case.proof.outputs, felts=felts,
        digest=case.proof.commitment, commitment=case.proof.commitment,
    )
    (tmp_path / "document").write_text(document)
    child = process.Child(EZKL)
    try:  # what an auditor does: key, settings, 388 bytes, instances or commitment, no rows
        reply = process.wait(
            child, "verify", 60, proof=str(tmp_path / "document"), settings=str(case.circuit.folder / SETTINGS),
            vk=str(case.circuit.folder / VK), srs=str(case.circuit.folder / VERIFIER_SRS),
        )
    finally:
        child.close()
    assert reply.value["valid"] is True


def test_several_at_once_and_out_of_order(case) -> None:
    verifier = EzklSystem().verifier(case.circuit, 2)
    bad = replace(case.proof, computation=case.proof.computation[:-1])
    try:
        for task in range(6):
            verifier.submit(task, case.rows, bad if task % 2 else case.proof, case.floats)
        found = {v.task: v.status[0] for v in drain(verifier)}
    finally:
        verifier.close()
    assert found == {0: VERIFIED, 1: REJECTED, 2: VERIFIED, 3: REJECTED, 4: VERIFIED, 5: REJECTED}


def test_a_damaged_key_is_found_before_it_is_used(case, tmp_path) -> None:
    import shutil

    copy = tmp_path / "circuit"
    shutil.copytree(case.circuit.folder, copy)
    key = copy / VK
    data = bytearray(key.read_bytes())
    data[len(data) // 2] ^= 1
    key.write_bytes(data)
    for make in (lambda: EzklSystem().prover(copy, 1), lambda: EzklSystem().verifier(load_circuit(copy))):
        with pytest.raises(EnvironmentFault) as caught:
            make()
        assert str(caught.value).startswith(f"{key}: SHA-256 is ")


def test_a_prover_goes_on_after_bad_rows_timeouts_and_a_killed_child(case, tmp_path) -> None:
    prover = EzklSystem().prover(case.circuit.folder, 1, scratch=tmp_path)
    nan = case.rows.copy()
    nan[0, 0] = np.nan
    far = np.full_like(case.rows, 1e6)
    try:
        prover.submit(1, nan, 60)
        prover.submit(2, case.rows[:, :5], 60)
        prover.submit(3, far, 60)
        prover.submit(4, case.rows, 0.05)
        prover.submit(5, case.rows, 60)
        found = {r.task: r for r in drain(prover)}
        prover.submit(6, case.rows, 60)
        deadline = time.monotonic() + 60
        while not prover.pids and time.monotonic() < deadline:
            prover.poll()
        os.kill(prover.pids[0], signal.SIGKILL)
        (killed,) = drain(prover)
        assert list(tmp_path.glob("*/[0-9]*")) == []  # no witness or proof is left behind
    finally:
        prover.close()
    assert found[1].error == "input: a value is not finite or exceeds 2**44, the most at scale 8"
    assert found[2].error == "rows of shape (5,), the circuit takes (6,)"
    assert found[3].error == (
        "witness: RuntimeError: Failed to generate witness: [graph] [halo2] General synthesis error"
    )
    assert re.fullmatch(r"(witness|prove): \1 took longer than [0-9.]+ s and was killed", found[4].error)
    assert found[5].error == "" and found[5].proof.outputs.dtype == np.int64
    assert killed.error.startswith("witness: ezkl's process ended with signal SIGKILL in witness")
    assert list(tmp_path.iterdir()) == []


def test_proved_outputs_are_the_model_in_fixed_point_to_the_last_bit(case) -> None:
    s = case.circuit.input_scale
    assert case.circuit.output_scale == 3 * s  # input, hidden weights, output weights: no division
    # a ReLU is proved as x + |x|, so the weights after it are halved (onnx_lean.py)
    x, w1, w2 = (field.quantise(a, s) for a in (case.rows, zk_case.W1, zk_case.W2 / 2))
    b1 = field.quantise(zk_case.B1, 2 * s)  # ezkl quantises a bias at the scale of what it is added to
    h = x @ w1 + b1
    by_hand = (h + np.abs(h)) @ w2
    assert (case.proof.outputs[:3] == by_hand).all()


def test_a_proof_of_the_right_length_of_noise(case, verifier) -> None:
    noise = np.random.default_rng(0).bytes(case.circuit.proof_bytes)
    proof = Proof(noise, case.proof.commitment, case.proof.outputs)
    assert rejected(verdict(verifier, case.rows, proof, case.floats))
