"""Chains of slices: three of them, bounded and hashed inputs, and how many there are where memory decides."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from zk_case import drain, verdict

from enclaveml.errors import FormatError
from enclaveml.results_reader import CircuitKeys
from enclaveml.slice_report import pack, unpack
from enclaveml.zk.ezkl.examine import examine
from enclaveml.zk.ezkl.slices.format import parts_of, slices_of
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import REJECTED, SLICED, VERIFIED, CircuitRequest, ModelFunction, Proof
from enclaveml.zk.process import Reply
from enclaveml.zk.systems import audit_system, system_of

pytestmark = pytest.mark.ezkl

RNG = np.random.default_rng(5)
SHAPES = ((2, 3), (3, 4), (4, 2))
WEIGHTS = [RNG.normal(size=shape).astype(np.float32) for shape in SHAPES]
ROWS = (RNG.integers(-8, 9, size=(8, 2)) / 8).astype(np.float32)


def floats(rows: np.ndarray) -> np.ndarray:
    one, two, three = WEIGHTS
    return np.maximum(np.maximum(rows @ one, 0) @ two, 0) @ three


def function() -> ModelFunction:
    import jax

    return ModelFunction(lambda x: jax.nn.relu(jax.nn.relu(x @ WEIGHTS[0]) @ WEIGHTS[1]) @ WEIGHTS[2], (2,), np.dtype(np.float32), "chain")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", str(tmp_path_factory.getbasetemp() / "zk-cache"))
        yield


@pytest.fixture(scope="module", params=[("committed", True, 3), ("hashed", False, 2)], ids=lambda p: p[0])
def case(request):
    """A circuit, its verifier and auditor, and proofs of two bundles."""
    inputs, bounded, slices = request.param
    wanted = CircuitRequest(inputs=inputs, bounded=bounded, slices=slices, scale=9, agreement=0.0, rows_per_proof=2, expected_rows=2)
    circuit = EzklSystem().prepare(function(), ROWS, wanted)
    system = system_of(circuit.system)
    assert (circuit.system, circuit.slices, circuit.inputs, circuit.inputs_bounded) == (SLICED, slices, inputs, bounded)
    assert circuit.logrows <= 11
    prover, verifier = system.prover(circuit.folder, 1), system.verifier(circuit)
    files = system.auditor_files(circuit)
    statement = audit_system(SLICED).statement(
        circuit.circuit_id, CircuitKeys(circuit.circuit_id, files["vk"], files["settings"], files["srs"], circuit.manifest()))
    auditor = audit_system(SLICED).auditor(statement, 1, True, None, print)
    try:
        bundles = ROWS[:2], ROWS[2:4]
        for task, rows in enumerate(bundles):
            prover.submit(task, rows, 120)
        results = sorted(drain(prover), key=lambda result: result.task)
        assert [result.error for result in results] == ["", ""]
        yield circuit, verifier, auditor, bundles, [result.proof for result in results]
    finally:
        for each in (prover, verifier, auditor):
            each.close()


def both(case, proof: Proof, rows: np.ndarray) -> tuple[str, str]:
    """What rank 0 and an auditor who has the rows say against a proof; "" where they take it."""
    _, verifier, auditor, _, _ = case
    found = verdict(verifier, rows, proof, floats(rows).astype(np.float32))
    assert set(found.status.tolist()) == ({REJECTED} if found.text else {VERIFIED})
    auditor.submit(0, proof, rows, rows, b"")
    (checked,) = drain(auditor)
    return found.text, checked.error


def test_a_chain_is_proved_verified_and_audited(case) -> None:
    circuit, _, _, bundles, proofs = case
    for rows, proof in zip(bundles, proofs, strict=True):
        assert both(case, proof, rows) == ("", "")
    slices = slices_of(circuit)
    assert [each.inputs for each in slices] == [circuit.inputs] + ["committed"] * (len(slices) - 1)
    links = [each.output_commitment(part) for each, part in zip(slices, parts_of(proofs[0].computation, slices), strict=True)]
    assert len(set(links)) == len(links)


def test_every_link_of_a_chain_is_held(case) -> None:
    """Whichever slices come from another bundle, some link breaks; and so in any other order."""
    circuit, _, _, (rows, _), proofs = case
    slices = slices_of(circuit)
    mine, theirs = (parts_of(proof.computation, slices) for proof in proofs)
    n = len(slices)
    for chosen in range(1, 2**n):  # the bits: which slices are the other bundle's
        parts = [theirs[i] if chosen >> i & 1 else mine[i] for i in range(n)]
        rank0, audit = both(case, replace(proofs[0], computation=b"".join(parts)), rows)
        breaks = [i for i in range(n - 1) if (chosen >> i & 1) != (chosen >> (i + 1) & 1)]
        if breaks and not (circuit.inputs == "committed" and chosen & 1):  # else the first says so already
            assert rank0 == audit == f"slice {breaks[0] + 1}'s commitment to its outputs is not slice {breaks[0] + 2}'s to its inputs"
        assert rank0 and audit
    for order in permutations(range(n)):
        data = b"".join(mine[i] for i in order)
        assert (both(case, replace(proofs[0], computation=data), rows) == ("", "")) == (order == tuple(range(n)))


def test_the_inputs_section_is_held(case) -> None:
    """Of other rows, whose proofs are valid: by rank 0's own commitment or hash, and the auditor's."""
    circuit, _, _, (rows, _), (proof, other) = case
    what = {"committed": ("commit", "commitment"), "hashed": ("poseidon", "hash")}[circuit.inputs]
    assert both(case, other, rows) == (f"the input's {what[0]} is not that of these rows", f"its {what[1]} is not that of the inputs given")
    rank0, audit = both(case, replace(other, commitment=proof.commitment), rows)
    assert rank0 and audit


def joined(case, proof: Proof, rows: np.ndarray) -> tuple[int, ...]:
    """The slices that rank 0 finds wrong in a proof whose slices are from several ranks."""
    _, verifier, _, _, _ = case
    verifier.submit_joined(7, rows, proof, floats(rows).astype(np.float32))
    (found,) = drain(verifier)
    assert set(found.status.tolist()) == {REJECTED if found.text else VERIFIED}
    return found.faults


def test_nobody_is_blamed_where_rank_0_makes_no_tie_of_its_own_rows(case, monkeypatch) -> None:
    """Its children for that die, twice each: an honest proof is not taken, and no slice of it is wrong."""
    asked: list[str] = []

    def dying(call):
        if call.name not in ("commit", "poseidon"):
            return (yield call)
        asked.append(call.name)
        return Reply("the child died", ended=True)

    monkeypatch.setattr("enclaveml.zk.ezkl.verifier.twice", dying)
    _, _, _, (rows, _), (proof, _) = case
    assert joined(case, proof, rows) == ()
    assert len(asked) == 2, "to verify, and to find whose fault it is"
    _, verifier, _, _, _ = case
    verifier.submit(8, rows, proof, floats(rows).astype(np.float32))
    (found,) = drain(verifier)
    assert found.undecided and (found.status == REJECTED).all() and found.text.endswith("the child died")
    monkeypatch.undo()
    verifier.submit(9, rows + 1, proof, floats(rows).astype(np.float32))
    (found,) = drain(verifier)
    assert not found.undecided and (found.status == REJECTED).all(), "about other rows: that is the proof's fault"


def test_two_provers_commit_alike_and_whose_slice_is_wrong_is_found(case, tmp_path) -> None:
    """From processes of their own, one from the first slice on and one from the last: equal bytes at every link, so the parts join."""
    circuit, _, _, (rows, _), (proof, other) = case
    slices = slices_of(circuit)
    prover = system_of(SLICED).prover(circuit.folder, 1, scratch=tmp_path)
    try:
        prover.submit_backward(0, rows, 120)
        parts: list = []
        while not parts or parts[-1].slice != 1:
            assert prover.outstanding, "the bundle came before its slices"
            assert prover.poll() == []
            parts += prover.poll_slices()
            time.sleep(0.01)
        (whole,) = drain(prover)
        assert prover.poll_slices() == []
    finally:
        prover.close()
    n = len(slices)
    assert [part.slice for part in parts] == list(range(n - 1, 0, -1)) and whole.slice is None
    mine, theirs, wrong = (parts_of(each.computation, slices) for each in (proof, whole.proof, other))
    assert [each.output_commitment(a) for each, a in zip(slices[:-1], mine, strict=False)] == [
        each.input_commitment(b) for each, b in zip(slices[1:], theirs[1:], strict=True)]
    for at in range(1, n):
        assert joined(case, replace(proof, computation=b"".join(mine[:at] + theirs[at:])), rows) == ()
        assert joined(case, replace(proof, computation=b"".join(mine[:at] + wrong[at:]), outputs=other.outputs), rows) == (at,)
        if at + 1 < n:  # a wrong one in the middle: both its ends are wrong, and those beside it are not
            assert joined(case, replace(proof, computation=b"".join([*mine[:at], wrong[at], *mine[at + 1:]])), rows) == (at,)
        assert joined(case, replace(proof, computation=b"".join([*mine[:at], wrong[at], *wrong[at + 1:]]), commitment=other.commitment,
                                    outputs=other.outputs), rows) == (0, at)
    assert joined(case, replace(proof, computation=b"".join([wrong[0], *mine[1:]]), commitment=other.commitment), rows) == (0,)
    changed = proof.outputs.copy()
    changed[0, 0] += 1
    assert joined(case, replace(proof, outputs=changed), rows) == (n - 1,)
    flipped = bytearray(mine[0])
    flipped[-40] ^= 1
    assert joined(case, replace(proof, computation=b"".join([bytes(flipped), *mine[1:]])), rows) == (0,)
    # A link that both ends agree on and that is no commitment to these values: neither proof holds.
    first, second = slices[:2]
    at = 64 if first.inputs == "committed" else 0
    link = first.output_commitment(wrong[0])
    both_ends = [mine[0][:at] + link + mine[0][at + 64:], link + mine[1][64:], *mine[2:]]
    assert joined(case, replace(proof, computation=b"".join(both_ends)), rows) == (0, 1)


def test_a_slice_in_bytes(case) -> None:
    circuit, _, _, _, (proof, _) = case
    part = replace(proof, computation=parts_of(proof.computation, slices_of(circuit))[0])
    data = pack(part)
    again = unpack(data, circuit, 0)
    assert (again.computation, again.commitment, again.outputs.tolist()) == (part.computation, part.commitment, part.outputs.tolist())
    lengths = data[:16]
    for wrong in (b"", data[:-1], data + b"\0", data[:16], b"\xff" * 16 + data[16:], lengths[8:] + lengths[:8] + data[16:]):
        with pytest.raises(FormatError, match="^(the proof of slice 1 is |a slice's proof of )"):
            unpack(wrong, circuit, 0)


def test_rows_that_leave_the_bound_have_no_witness(case) -> None:
    circuit, _, _, _, _ = case
    rows = ROWS[:2].copy()
    rows[1] = 1e6
    prover = system_of(SLICED).prover(circuit.folder, 1)
    try:
        prover.submit(0, rows, 120)
        (result,) = drain(prover)
    finally:
        prover.close()
    assert result.proof is None and result.overflow == (1,) and "slice 1 of" in result.error


# -- how many slices, where memory decides ----------------------------------------

WIDE = [RNG.normal(size=(40, 40)).astype(np.float32) / 8 for _ in range(3)]
WIDE_ROWS = RNG.random((4, 40)).astype(np.float32)
REQUEST = CircuitRequest(slices=None, rows_per_proof=2, scale=8, agreement=0.0, tolerance=1.0)


def wide() -> ModelFunction:
    import jax

    def apply(x):
        for number, each in enumerate(WIDE):
            x = x @ each
            x = jax.nn.relu(x) if number < 2 else x
        return x

    return ModelFunction(apply, (40,), np.dtype(np.float32), "wide-chain")


def least_gb(slices: int) -> float:
    """GB that the smallest layout of the model in so many slices takes, by the bound that is looked at before any search."""
    found = examine(wide(), WIDE_ROWS, replace(REQUEST, slices=slices, memory_gb=1e-3), lambda line: None)
    return float(found.refused.partition("takes at least ")[2].split()[0])


def test_check_goes_on_to_more_slices_where_a_plan_is_too_large() -> None:
    """The bound lets two slices pass, what the search of them needs does not."""
    said: list[str] = []
    found = examine(wide(), WIDE_ROWS, replace(REQUEST, memory_gb=least_gb(2) * 1.005), said.append)
    assert (found.refused, len(found.slices)) == ("", 3)
    assert [line.partition(":")[0] for line in said if "too large" in line] == ["2 slices are too large"]


def test_a_model_too_large_by_its_search_is_cut_and_not_searched_again(monkeypatch) -> None:
    """The bound lets the whole pass, what its search needs does not; the second run has that from the cache."""
    from enclaveml.zk.ezkl import prepare as prepare_module
    from enclaveml.zk.ezkl.slices import prepare as slices_module

    monkeypatch.setattr(slices_module, "prepare_slices", lambda *_: "in slices")  # its keys are no matter of this test
    request = replace(REQUEST, memory_gb=least_gb(1) * 1.005)
    told: list[str] = []
    assert EzklSystem().prepare(wide(), WIDE_ROWS, request, told.append) == "in slices"
    assert any(line.startswith("multiplier") for line in told)

    def never(*_: object) -> None:
        raise AssertionError("a whole circuit is planned again")

    monkeypatch.setattr(prepare_module, "build_circuit", never)
    again: list[str] = []
    assert EzklSystem().prepare(wide(), WIDE_ROWS, request, again.append) == "in slices"
    assert again == told[-1:] and again[0].endswith("; it is cut into slices (proof.slices: auto)")
    with pytest.raises(AssertionError, match="planned again"):  # memory decides: with more of it the answer is another one
        EzklSystem().prepare(wide(), WIDE_ROWS, replace(request, memory_gb=request.memory_gb * 1.01), again.append)
