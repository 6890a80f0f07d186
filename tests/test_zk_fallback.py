"""The fallback circuit, for real: what it is made like, what it holds, and which rows a prover says it cannot prove."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zk_case
from zk_case import drain

from enclaveml.zk.ezkl import fallback, prover as prover_module
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import FALLBACK, PRIMARY, VERIFIED, Circuit, CircuitRequest, ProofResult, load_circuit

pytestmark = pytest.mark.ezkl

TOLERANCE = 0.2
REQUEST = CircuitRequest(scale=8, tolerance=TOLERANCE, expected_rows=4, rows_per_proof=4)
#: Sixty times as large as the sample rows are; and beyond any circuit.
BIG, HUGE = 60.0, 1e9


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.getbasetemp() / "zk-cache"  # shared with the tests of proofs
        patch.setenv("ENCLAVEML_CACHE", str(root))
        yield root


@pytest.fixture(scope="module")
def circuits(cache: Path) -> tuple[Circuit, Circuit]:
    system = EzklSystem()
    primary = system.prepare(zk_case.function(), zk_case.ROWS, REQUEST)
    made = system.prepare_fallback(zk_case.function(), zk_case.ROWS, REQUEST, primary)
    assert made is not None
    return primary, made


def attempt(circuit: Circuit, rows: np.ndarray) -> ProofResult:
    prover = EzklSystem().prover(circuit.folder, 1)
    try:
        prover.submit(0, rows, 120)
        (result,) = drain(prover)
    finally:
        prover.close()
    return result


def with_sizes(*sizes: float) -> np.ndarray:
    rows = zk_case.ROWS[: len(sizes)].copy()
    for row, size in zip(rows, sizes):
        row *= np.float32(size) / max(1.0, np.abs(row).max()) if size != 1 else 1
    return rows


def test_it_is_finer_wider_small_and_held_against_the_same_samples(circuits) -> None:
    primary, wide = circuits
    assert (primary.role, wide.role) == (PRIMARY, FALLBACK) == (load_circuit(primary.folder).role, load_circuit(wide.folder).role)
    assert wide.model_hash == primary.model_hash and wide.circuit_id != primary.circuit_id
    assert (wide.tolerance, wide.inputs, wide.samples) == (primary.tolerance, primary.inputs, primary.samples)
    assert wide.settings["param_scale"] == wide.settings["input_scale"] == primary.settings["param_scale"] + 4
    assert wide.rows <= fallback.ROWS and wide.deviation < primary.deviation / 4
    assert wide.settings["decomp_base"] ** wide.settings["decomp_legs"] >= 2**12 * primary.settings["decomp_base"] ** 2
    assert wide.measured["key_bytes"] < 32e6


def test_rows_out_of_the_primarys_range_are_named_and_verified_at_the_fallback(circuits) -> None:
    primary, wide = circuits
    rows = with_sizes(1, BIG, 1, BIG)
    failed = attempt(primary, rows)
    assert failed.proof is None and failed.overflow == (1, 3) and failed.error.startswith("witness: ")
    proved = attempt(wide, rows[[1, 3]])
    assert proved.error == "" and proved.overflow == ()
    verifier = EzklSystem().verifier(wide)
    try:
        found = zk_case.verdict(verifier, rows[[1, 3]], proved.proof, zk_case.outputs(rows[[1, 3]]))
    finally:
        verifier.close()
    assert (found.text, found.status.tolist()) == ("", [VERIFIED] * 2)
    assert np.nanmax(found.deviation) < TOLERANCE


def test_a_row_that_no_circuit_holds_is_named_at_the_fallback_too(circuits) -> None:
    _, wide = circuits
    assert attempt(wide, with_sizes(1, 1, HUGE, BIG)).overflow == (2,)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_row_without_a_fixed_point_value_is_named(circuits, value) -> None:
    rows = with_sizes(1, 1, 1)
    rows[2, 3] = value
    failed = attempt(circuits[0], rows)
    assert failed.overflow == (2,) and failed.error.startswith("input: a value is not finite or exceeds 2**")


def test_the_search_for_such_rows_has_a_bound(circuits, monkeypatch) -> None:
    monkeypatch.setattr(prover_module, "TRIALS", 1)
    assert attempt(circuits[0], with_sizes(1, BIG, 1, 1)).overflow in ((0, 1), (0, 1, 2, 3))


def test_time_memory_and_crashes_name_no_row(circuits) -> None:
    prover = EzklSystem().prover(circuits[0].folder, 1)
    try:
        prover.submit(0, with_sizes(1, 1), 1e-4)
        (late,) = drain(prover)
    finally:
        prover.close()
    assert late.proof is None and late.overflow == () and "took longer than 0.0001 s and was killed" in late.error


def test_it_is_found_in_the_cache_and_compared_with_other_samples(circuits) -> None:
    primary, wide = circuits
    told: list[str] = []
    again = EzklSystem().prepare_fallback(zk_case.function(), zk_case.ROWS, REQUEST, primary, told.append)
    assert again == wide and told == []
    other = EzklSystem().prepare_fallback(zk_case.function(), zk_case.ROWS[:5] / 2, REQUEST, primary, told.append)
    assert (other.circuit_id, other.samples, other.role) == (wide.circuit_id, 5, FALLBACK) and told == []


def test_where_memory_forbids_it_a_line_says_so(circuits) -> None:
    primary, _ = circuits
    tight = CircuitRequest(scale=8, tolerance=TOLERANCE, expected_rows=4, rows_per_proof=4,
                           memory_gb=primary.measured["prove_peak_bytes"] / 1e9)
    for _ in range(2):  # made, and from the cache
        told: list[str] = []
        assert EzklSystem().prepare_fallback(zk_case.function(), zk_case.ROWS, tight, primary, told.append) is None
        (line,) = told
        assert line.startswith("no fallback circuit: of ")
        assert line.endswith("GB of memory are taken by the primary circuit's provers")
