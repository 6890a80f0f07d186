"""A model in linked slices: proofs that hold, and every way of not linking them rejected by rank 0 and by an auditor."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from zk_case import B1, ROWS, W1, W2, drain, outputs, prepare, verdict

from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.results_reader import CircuitKeys
from enclaveml.zk.ezkl import field
from enclaveml.zk.ezkl.budget import budget_of
from enclaveml.zk.ezkl.slices import format
from enclaveml.zk.ezkl.slices.format import Slice, parts_of, slices_of
from enclaveml.zk.ezkl.slices.packed import pack, unpack
from enclaveml.zk.interface import REJECTED, SLICED, VERIFIED, Circuit, Proof, circuit_from_manifest, load_circuit
from enclaveml.zk.systems import audit_system, system_of

pytestmark = pytest.mark.ezkl

UNLINKED = "slice 1's commitment to its outputs is not slice 2's to its inputs"


@dataclass
class Sliced:
    """A circuit in two slices and honest proofs of two bundles, ``rows`` and ``others``."""

    circuit: Circuit
    slices: tuple[Slice, ...]
    rows: np.ndarray
    proof: Proof
    others: np.ndarray
    other: Proof

    def parts(self, proof: Proof) -> list[bytes]:
        return parts_of(proof.computation, self.slices)

    def mixed(self, *parts: bytes) -> Proof:
        """The proof of ``rows`` with other parts."""
        return replace(self.proof, computation=b"".join(parts))


@pytest.fixture(scope="module", params=["public", "committed"])
def case(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.getbasetemp() / "zk-cache"))
        circuit = prepare(request.param, slices=2)
        prover = system_of(circuit.system).prover(circuit.folder, 1)
        try:
            bundles = ROWS[:3], ROWS[4:7]
            for task, rows in enumerate(bundles):
                prover.submit(task, rows, 120)
            results = sorted(drain(prover), key=lambda result: result.task)
        finally:
            prover.close()
        assert [result.error for result in results] == ["", ""]
        yield Sliced(circuit, slices_of(circuit), bundles[0], results[0].proof, bundles[1], results[1].proof)


@pytest.fixture(scope="module")
def verifier(case):
    made = system_of(case.circuit.system).verifier(case.circuit)
    yield made
    made.close()


def keys_of(circuit: Circuit, manifest: dict | None = None, **files: bytes) -> CircuitKeys:
    """What a results file has of the circuit, with some of it changed."""
    found = system_of(circuit.system).auditor_files(circuit) | files
    return CircuitKeys(circuit.circuit_id, found["vk"], found["settings"], found["srs"],
                       json.loads(json.dumps(manifest or circuit.manifest())))


@pytest.fixture(scope="module")
def auditor(case):
    keys = keys_of(case.circuit)
    made = audit_system(SLICED).auditor(audit_system(SLICED).statement(case.circuit.circuit_id, keys), 1, True, None, print)
    yield made
    made.close()


def both(case, verifier, auditor, proof: Proof, rows: np.ndarray | None = None) -> tuple[str, str]:
    """What rank 0 and an auditor who has the rows say against a proof; "" where they take it."""
    rows = case.rows if rows is None else rows
    found = verdict(verifier, rows, proof, outputs(rows))
    assert set(found.status.tolist()) == ({REJECTED} if found.text else {VERIFIED})
    auditor.submit(0, proof, rows, rows, b"")
    (checked,) = drain(auditor)
    return found.text, checked.error


def test_the_circuit_is_of_slices_that_meet(case) -> None:
    first, second = case.slices
    circuit = case.circuit
    assert (circuit.system, circuit.slices) == ("ezkl-slices", 2)
    assert (first.inputs, first.output_mode, second.inputs, second.output_mode) == (circuit.inputs, "committed", "committed", "public")
    assert (first.width, first.outputs, second.width, second.outputs) == (6, 4, 4, 3)
    assert first.output_scale == second.input_scale and second.output_scale == circuit.output_scale
    assert first.logrows == second.logrows == circuit.logrows
    assert set(circuit.files) == {
        f"slice{n}-{name}" for n in (1, 2) for name in ("model.circuit", "proving.key", "settings.json", "verification.key")
    } | {"srs", "verifier.srs"}
    assert circuit.deviation <= circuit.tolerance and circuit.agreement == 1.0
    assert load_circuit(circuit.folder) == circuit


def test_private_weights_count_what_the_links_open(case) -> None:
    """Beside the columns of weights, four openings of values between slices."""
    slices = tuple(with_weights(each, 10_000) for each in case.slices)
    circuit = replace(case.circuit, settings={**case.circuit.settings, "slices": format.manifest_of(slices)})
    most = []
    for each in slices:
        settings = json.loads((circuit.folder / each.file("settings.json")).read_text())
        columns = -(-settings["total_const_size"] // format.room_for(circuit.logrows))
        most.append(int(0.5 * 10_000 * 8 / (254 * (max(1, columns) + 4))))
    assert budget_of((circuit,), True).most == min(most) > 0


def with_weights(each: Slice, count: int) -> Slice:
    return replace(each, settings={**each.settings, "weights": count})


def test_honest_proofs_hold(case, verifier, auditor) -> None:
    assert both(case, verifier, auditor, case.proof) == ("", "")
    assert both(case, verifier, auditor, case.other, case.others) == ("", "")
    found = verdict(verifier, case.rows, case.proof, outputs(case.rows))
    assert np.abs(found.proved - outputs(case.rows)).max() == found.deviation.max() <= case.circuit.tolerance
    assert len(case.proof.computation) == case.circuit.proof_bytes == sum(each.proof_bytes for each in case.slices)


def test_the_middle_is_not_in_the_proof_in_the_clear(case) -> None:
    (scale,) = {each.settings["param_scale"] for each in case.slices}
    weights, bias = (np.round(values.astype(np.float64) * 2.0**bits) for values, bits in ((W1, scale), (B1, case.slices[0].output_scale)))
    middle = (np.round(case.rows * 2.0 ** case.circuit.input_scale) @ weights + bias).astype(np.int64)
    last = np.round(W2.astype(np.float64) / 2 * 2.0**scale)  # a ReLU is x + |x| here, its half in the weights
    assert np.array_equal((middle + np.abs(middle)) @ last, case.proof.outputs[:3])
    middle = middle[np.abs(middle) > 1]  # 0 and 1 may be in a proof for other reasons
    assert middle.size
    felts = {field.to_felts(value) for value in middle}
    data = case.proof.computation
    assert not any(data[i : i + 32] in felts or data[i : i + 32][::-1] in felts for i in range(len(data) - 31))


def test_a_mismatched_middle(case, verifier, auditor) -> None:
    """Two valid proofs, of one bundle's first slice and of another's second."""
    mine, theirs = case.parts(case.proof), case.parts(case.other)
    assert both(case, verifier, auditor, case.mixed(mine[0], theirs[1])) == (UNLINKED, UNLINKED)
    forged = replace(case.other, computation=mine[0] + theirs[1], commitment=case.proof.commitment)
    assert both(case, verifier, auditor, forged) == (UNLINKED, UNLINKED)


def test_a_commitment_put_in_place(case, verifier, auditor) -> None:
    """The links hold by bytes then, and the proofs they were put into no more."""
    mine, theirs = case.parts(case.proof), case.parts(case.other)
    first, second = case.slices
    link, foreign = first.output_commitment(mine[0]), second.input_commitment(theirs[1])
    at = 64 if first.inputs == "committed" else 0
    later = replace(case.other, computation=mine[0] + link + theirs[1][64:], commitment=case.proof.commitment)
    earlier = replace(case.other, computation=mine[0][:at] + foreign + mine[0][at + 64 :] + theirs[1], commitment=case.proof.commitment)
    for proof, number in ((later, 2), (earlier, 1)):
        rank0, audit = both(case, verifier, auditor, proof)
        assert rank0.startswith(f"verification of slice {number} of 2: ")
        assert audit.startswith(f"slice {number} of 2 does not verify: ")


def test_slices_left_out_swapped_repeated_or_more_of_them(case, verifier, auditor) -> None:
    one, two = case.parts(case.proof)
    whole = case.circuit.proof_bytes
    for parts in ((one,), (two,), (), (one, two, two), (one, two, b"\0")):
        n = sum(map(len, parts))
        said = f"computation proof is {n} bytes, a proof of this circuit is {whole}"
        assert both(case, verifier, auditor, case.mixed(*parts)) == (said, said)
    for parts in ((two, one), (one, one), (two, two)):  # brought to the right length
        data = b"".join(parts)[:whole].ljust(whole, b"\0")
        rank0, audit = both(case, verifier, auditor, case.mixed(data))
        assert rank0 and audit


def test_a_bundle_of_other_rows(case, verifier, auditor) -> None:
    rank0, audit = both(case, verifier, auditor, case.other)
    if case.circuit.inputs == "public":
        assert rank0.startswith("verification of slice 1 of 2: ") and audit.startswith("slice 1 of 2 does not verify: ")
    else:
        assert (rank0, audit) == ("the input's commit is not that of these rows", "its commitment is not that of the inputs given")


@pytest.mark.parametrize("position", [0.05, 0.3, 0.55, 0.8, 0.999])
def test_a_flipped_byte(case, verifier, auditor, position: float) -> None:
    data = bytearray(case.proof.computation)
    data[int(position * len(data))] ^= 1
    rank0, audit = both(case, verifier, auditor, case.mixed(bytes(data)))
    assert rank0.startswith(("verification of slice ", "slice 1's commitment")) and audit


def test_altered_outputs(case, verifier, auditor) -> None:
    changed = case.proof.outputs.copy()
    changed[0, 0] += 1
    rank0, audit = both(case, verifier, auditor, replace(case.proof, outputs=changed))
    assert rank0.startswith("verification of slice 2 of 2: ") and audit.startswith("slice 2 of 2 does not verify: ")


def test_rows_without_a_witness_are_named(case) -> None:
    rows = case.rows.copy()
    rows[1] = 1e9
    prover = system_of(SLICED).prover(case.circuit.folder, 1)
    try:
        prover.submit(0, rows, 120)
        (result,) = drain(prover)
    finally:
        prover.close()
    assert result.proof is None and result.overflow == (1,)


def test_a_damaged_key_is_found_before_a_proof(case, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(case.circuit.folder, tmp_path / "copy")
    with open(folder / "slice2-proving.key", "r+b") as handle:
        handle.write(b"\xff")
    with pytest.raises(EnvironmentFault, match="slice2-proving.key: SHA-256 is"):
        system_of(SLICED).prover(folder, 1)


# -- what an auditor holds against the keys of a results file ---------------------

def refused(circuit: Circuit, keys: CircuitKeys) -> str:
    with pytest.raises(FormatError) as problem:
        audit_system(SLICED).statement(circuit.circuit_id, keys)
    return str(problem.value)


def manifest(circuit: Circuit, change) -> dict:
    document = json.loads(json.dumps(circuit.manifest()))
    change(document, document["settings"]["slices"])
    return document


CHANGES = {
    "left out": (lambda m, s: s.pop(), "1 slices; allowed: 2 to 64"),
    "repeated": (lambda m, s: s.append(s[1]), "numbers of the slices: its slices say"),
    "swapped": (lambda m, s: s.reverse(), "numbers of the slices: its slices say"),
    "other width": (lambda m, s: s[1].update(width=5), "numbers between slices: its slices say"),
    "other scale": (lambda m, s: s[1].update(input_scale=7), "scales between slices: its slices say"),
    "other domain": (lambda m, s: s[1].update(logrows=9), "logrows: its slices say"),
    "a domain that is none": (lambda m, s: m.update(logrows=[8]), "logrows: its slices say"),
    "inputs in the clear": (lambda m, s: s[1].update(inputs="public"), "inputs of the slices: its slices say"),
    "an id of its own": (lambda m, s: s[1].update(circuit_id="0" * 64), "circuit_id: its slices say"),
    "both sides agree on another scale": (lambda m, s: (s[0].update(output_scale=9), s[1].update(input_scale=9)), "slice 1: its manifest says output_scale"),
    "both sides agree on another width": (lambda m, s: (s[0].update(outputs=8), s[1].update(width=8)), "slice 1: its manifest says committed values"),
    "more than a column": (lambda m, s: (s[0].update(outputs=10**6), s[1].update(width=10**6)), "which one commitment at 2^"),
    "inputs of more than a column": (
        lambda m, s: (m.update(inputs="committed", row_shape=[10**5]), s[0].update(inputs="committed", width=10**5)),
        "slice 1 commits to 4 rows of 100000 values, which one commitment at 2^8 does not hold"),
    "a bound that is none": (lambda m, s: (s[0]["settings"].update(bound="legs"), m["settings"].update(bound="legs")), "its manifest says circuit_id"),
    "a flag": (lambda m, s: m.update(inputs_bounded=True), "what its manifest says of how inputs are bounded"),
    "no number": (lambda m, s: s[0].update(rows="4"), "rows of a slice is '4'"),
    "another key of a slice": (lambda m, s: s[0].update(more=1), "its manifest has no slices"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_auditor_refuses_another_manifest(case, name: str) -> None:
    change, said = CHANGES[name]
    assert said in refused(case.circuit, keys_of(case.circuit, manifest(case.circuit, change)))


def test_an_auditor_refuses_other_keys(case) -> None:
    circuit = case.circuit
    files = system_of(SLICED).auditor_files(circuit)
    one, two = unpack(files["vk"], 2)
    flipped = bytearray(two)
    flipped[len(two) // 2] ^= 1
    for vk, said in (
        (pack([two, one]), "slice 1: its manifest says circuit_id"), (pack([one, bytes(flipped)]), "slice 2: its manifest says circuit_id"),
        (pack([one]), "verification keys of 2 slices expected"), (pack([one, two, two]), "verification keys of 2 slices expected"),
        (files["vk"] + b"\0", "1 bytes behind the slices' verification keys"), (files["vk"][:-1], "the verification key of slice 2 ends before"),
        (b"", "verification keys of 2 slices expected"),
    ):
        assert said in refused(circuit, keys_of(circuit, vk=vk))
    settings = json.loads(files["settings"])
    for changed in (settings[::-1], settings[:1], [settings[0], {}], {}, 3):
        text = refused(circuit, keys_of(circuit, settings=json.dumps(changed).encode()))
        assert "settings" in text or "its manifest says" in text
    shown = json.loads(files["settings"])
    shown[0]["run_args"]["output_visibility"] = "Public"
    assert "slice 1: its manifest says" in refused(circuit, keys_of(circuit, settings=json.dumps(shown).encode()))


def test_a_manifest_of_another_system(case) -> None:
    changed = circuit_from_manifest(manifest(case.circuit, lambda m, s: m.update(system="ezkl")), case.circuit.folder)
    with pytest.raises(FormatError):
        audit_system("ezkl").statement(changed.circuit_id, keys_of(case.circuit, changed.manifest()))
