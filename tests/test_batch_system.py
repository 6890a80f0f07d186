"""The batch system with its real prover and verifier: registration, proofs bound to orders, rows out of range, audit of its keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batch_case import BUNDLE, cache_of, prepared, write_batch_job
from small_job import SmallJob, floats
from test_batch_quantiser import small
from zk_case import drain

from enclaveml.errors import FormatError, JobError
from enclaveml.results_reader import CircuitKeys
from enclaveml.zk.batch import statement
from enclaveml.zk.batch.files import KEY, WEIGHTS, read_weights, shapes_of
from enclaveml.zk.batch.format import Layer, VerificationKey
from enclaveml.zk.batch.rebuild import rebuilt_id
from enclaveml.zk.batch.rows_of_a_proof import choose
from enclaveml.zk.batch.system import BatchSystem
from enclaveml.zk.interface import INCONSISTENT, REJECTED, VERIFIED, Circuit, CircuitRequest, ModelFunction, Proof, load_circuit
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.systems import audit_system, system_of

NONCE = bytes(range(32))


@dataclasses.dataclass
class Case:
    """A circuit, rows, what the model says of them, and an honest proof of them for NONCE."""

    job: SmallJob
    circuit: Circuit
    function: ModelFunction
    samples: np.ndarray
    request: CircuitRequest
    rows: np.ndarray
    floats: np.ndarray
    proof: Proof


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVEML_CACHE", cache_of(tmp_path_factory))
        job = write_batch_job(tmp_path_factory.mktemp("batch") / "job")
        circuit, function, samples, request = prepared(job)
        rows = job.rows[: BUNDLE - 1]  # one fewer than N: the last row is repeated
        prover = BatchSystem().prover(circuit.folder, 1)
        try:
            prover.submit(5, rows, 300, NONCE)
            (result,) = drain(prover)
        finally:
            prover.close()
        assert (result.task, result.error, result.overflow) == (5, "", ())
        yield Case(job, circuit, function, samples, request, rows, float_outputs(function, rows, 4).astype(np.float32), result.proof)


def test_what_is_registered(case: Case) -> None:
    circuit = case.circuit
    assert (circuit.system, circuit.version, circuit.inputs, circuit.srs_origin, circuit.rows) == (
        "batch", "enclaveml-batch-1", "public", "none", BUNDLE)
    assert circuit.caution == "integrity only, not zero-knowledge"
    assert 0 < circuit.deviation <= circuit.tolerance / 3 and circuit.samples == len(case.samples)
    assert load_circuit(circuit.folder) == circuit and BatchSystem().prepare(case.function, case.samples, case.request) == circuit
    key = VerificationKey.from_bytes((circuit.folder / KEY).read_bytes())
    assert [m.dtype for m in read_weights(circuit.folder / WEIGHTS, shapes_of(key))] == [np.int8, np.int8]
    assert circuit.proof_bytes == len(case.proof.computation) and set(BatchSystem().auditor_files(circuit)) == {
        "vk", "settings", "weights_proof"}
    assert BatchSystem().prepare_fallback(case.function, case.samples, case.request, circuit) is None
    assert rebuilt_id(case.function, case.samples, case.request, BUNDLE) == circuit.circuit_id
    assert type(system_of("ezkl")).__name__ == "EzklSystem" and type(system_of("batch")) is BatchSystem
    with pytest.raises(FormatError, match="proof system 'groth16'; allowed: ezkl, batch"):
        system_of("groth16")


def verdicts(case: Case, *given: tuple[np.ndarray, Proof, np.ndarray, bytes]) -> list:
    """What rank 0's verifier says of each (rows, proof, float outputs, nonce), in order."""
    verifier = BatchSystem().verifier(case.circuit, 1)
    try:
        for task, one in enumerate(given):
            verifier.submit(task, *one)
        return sorted(drain(verifier), key=lambda found: found.task)
    finally:
        verifier.close()


def test_a_proof_is_of_its_rows_its_outputs_and_its_order(case: Case) -> None:
    rows, proof, said = case.rows, case.proof, case.floats
    moved = dataclasses.replace(proof, outputs=proof.outputs + (np.arange(BUNDLE)[:, None] == 1))
    flipped = bytearray(proof.computation)
    flipped[len(flipped) // 2] ^= 1
    good, coarse, *bad = verdicts(
        case, (rows, proof, said, NONCE), (rows, proof, said + 2 * np.float32(case.circuit.tolerance), NONCE),
        (rows, proof, said, NONCE[::-1]), (rows[::-1], proof, said[::-1], NONCE), (rows, moved, said, NONCE),
        (rows, dataclasses.replace(proof, computation=bytes(flipped)), said, NONCE),
        (rows, dataclasses.replace(proof, computation=proof.computation[:-1]), said, NONCE),
        (rows, dataclasses.replace(proof, computation=proof.computation + b"\0"), said, NONCE),
        (rows, dataclasses.replace(proof, commitment=b"x"), said, NONCE),
        (rows, dataclasses.replace(proof, outputs=proof.outputs[:-1]), said, NONCE),
        (rows, dataclasses.replace(proof, outputs=proof.outputs + (1 << 32)), said, NONCE),
        (rows, dataclasses.replace(proof, outputs=np.full_like(proof.outputs, np.iinfo(np.int64).min)), said, NONCE),
        (rows + np.float32(1e6), proof, said, NONCE),
    )
    assert good.status.tolist() == [VERIFIED] * 3 and good.text == ""
    assert np.abs(good.proved - floats(rows)).max() <= case.circuit.tolerance
    assert coarse.status.tolist() == [INCONSISTENT] * 3
    assert all(found.status.tolist() == [REJECTED] * 3 for found in bad)
    texts = [found.text for found in bad]
    assert all(text.startswith("verification: Rejected: ") for text in texts[:4])
    length = case.circuit.proof_bytes
    assert texts[4:] == [
        f"computation proof is {length - 1} bytes, a proof of this circuit is {length}",
        f"computation proof is {length + 1} bytes, a proof of this circuit is {length}",
        "commitment proof is 1 bytes, expected none", "proved outputs are (3, 3), expected (4, 3)", "a proved output is no int32",
        "a proved output is no int32", "row 0 of the bundle has an input out of the range that the circuit takes",
    ]


def test_a_proof_must_be_bound_to_an_order(case: Case) -> None:
    for worker in (BatchSystem().verifier(case.circuit, 1), BatchSystem().prover(case.circuit.folder, 1)):
        given = (case.rows, case.proof, case.floats) if hasattr(worker, "_key") and "Verifier" in type(worker).__name__ else (case.rows, 60.0)
        try:
            with pytest.raises(ValueError, match="a nonce of 0 bytes; a batch proof is bound to one of 32"):
                worker.submit(0, *given, b"")
        finally:
            worker.close()


def test_rows_without_a_witness_are_named_and_the_prover_goes_on(case: Case) -> None:
    most = case.circuit.settings["input_range"][1] * 2.0**-case.circuit.input_scale
    rows = np.array([case.rows[0], [2 * most] * 6, case.rows[1], [np.nan] * 6], np.float32)
    prover = BatchSystem().prover(case.circuit.folder, 1)
    try:
        prover.submit(1, rows, 60, NONCE)
        prover.submit(2, case.rows[:, :5], 60, NONCE)
        prover.submit(3, case.rows, 1e-3, NONCE)
        prover.submit(4, case.rows, 300, NONCE[::-1])
        prover.submit(5, case.rows, 300, NONCE)
        time.sleep(0.05)
        assert prover.cancel(5)
        found = {result.task: result for result in drain(prover)}
    finally:
        prover.close()
    assert found[1].overflow == (1, 3)
    assert found[1].error == f"input: 2 of 4 rows are out of the circuit's range ({-most:g} to {most:g})"
    assert found[2].error == "rows of float32(5,), the circuit takes float32(6,)" and found[2].overflow == ()
    assert found[3].error == "prove: prove took longer than 0.001 s and was killed"
    assert found[4].error == "" and 5 not in found
    (again,) = verdicts(case, (case.rows, found[4].proof, case.floats, NONCE[::-1]))
    assert again.status.tolist() == [VERIFIED] * 3


# -- for an auditor ------------------------------------------------------------------


def keys_of(case: Case, **other: bytes) -> CircuitKeys:
    parts = {**BatchSystem().auditor_files(case.circuit), **{k: v for k, v in other.items() if k != "manifest"}}
    manifest = {**case.circuit.manifest(), **json.loads(other.get("manifest", b"{}"))}
    return CircuitKeys(case.circuit.circuit_id, parts["vk"], parts["settings"], b"", manifest, parts["weights_proof"])


def test_the_keys_of_a_file_are_held_against_the_id(case: Case) -> None:
    audit, name = audit_system("batch"), case.circuit.circuit_id
    found = audit.statement(name, keys_of(case))
    assert found.circuit.circuit_id == name and audit.input_limit(found) is None and audit.version() == "enclaveml-batch-1"
    files = BatchSystem().auditor_files(case.circuit)
    spoilt = bytearray(files["weights_proof"])
    spoilt[len(spoilt) // 2] ^= 1
    told = json.loads(files["settings"])
    for other, text in (
        ({"vk": files["vk"].replace(b'"rows":4', b'"rows":8')}, "its key and settings have the id "),
        ({"settings": json.dumps(told).encode()}, "settings are not in their one encoding"),
        ({"settings": statement.canonical({**told, "output_scale": told["output_scale"] + 1})}, "its key and settings have the id "),
        ({"weights_proof": files["weights_proof"][:-1]}, "weights_proof is "),
        ({"manifest": b'{"output_scale": 3}'}, "output_scale is 3, where its key and settings give "),
        ({"manifest": b'{"inputs": "committed"}'}, "inputs is 'committed', where"),
        ({"vk": b"{}"}, "not a batch verification key"),
    ):
        with pytest.raises(FormatError, match=text):
            audit.statement(name, keys_of(case, **other))
    digest = json.dumps({"files": {**case.circuit.files, "weights.proof": hashlib.sha256(spoilt).hexdigest()}}).encode()
    with pytest.raises(FormatError, match="that its weights are int8 is not proved: the batch verifier verify_weights: Rejected: "):
        audit.statement(name, keys_of(case, weights_proof=bytes(spoilt), manifest=digest))


# -- sizes ---------------------------------------------------------------------------


def test_the_rows_of_a_proof() -> None:
    key = small().key(4, (bytes(32),) * 3)

    def rows(expected: int, cores: int = 1, **more) -> int:
        return choose(CircuitRequest(expected_rows=expected, cores=cores, **more), key)

    assert [rows(n) for n in (1, 5, 100, 1000, 16_384, 10**6)] == [4, 8, 128, 1024, 16_384, 16_384]
    assert rows(10**6, cores=3) == 8192  # 21,845 rows of a round: three proofs of 8,192 are less than two of 16,384
    wide = VerificationKey(4, -1, 1, tuple(type(key.layers[0])(a, b, s) for a, b, s in ((1000, 1000, 9), (1000, 1000, 9), (1000, 3, 0))), 10,
                           (bytes(32),) * 3)
    assert choose(CircuitRequest(expected_rows=10**6, memory_gb=2.0), wide) == 1024
    assert rows(10**6, rows_per_proof=64) == 64
    each = type(key.layers[0])
    broad = VerificationKey(4, -1, 1, (each(4, 30_000, 9), each(30_000, 30_000, 9), each(30_000, 30_000, 9), each(30_000, 3, 0)), 10,
                            (bytes(32),) * 4)
    assert choose(CircuitRequest(expected_rows=10**6, memory_gb=1e6), broad) == 8192  # lookups in more rows could wrap modulo p
    with pytest.raises(JobError, match="proof.rows_per_proof: found 100; a batch proof has a power of two of rows, 4 or more: 128, say"):
        rows(1000, rows_per_proof=100)
    with pytest.raises(JobError, match="65536 rows a proof take about .* GB, and a rank has 2.0 GB for 1; give fewer rows or more memory"):
        choose(CircuitRequest(rows_per_proof=65_536, memory_gb=2.0), wide)
    with pytest.raises(JobError, match="^proof.rows_per_proof: found 65536; a proof of this model cannot have so many rows: too many lookups: fewer rows a proof$"):
        choose(CircuitRequest(rows_per_proof=65_536, memory_gb=1e6), broad)


def test_lookup_tables_that_memory_does_not_allow_are_refused_with_their_size() -> None:
    layers = (Layer(4, 4, 8, table=1), Layer(4, 2, 0))
    key = VerificationKey(512, -1, 1, layers, 19, (bytes(32),) * 2, 256, ((0, 1, 2, 3),))
    said = re.escape("2.8 GB (2.1 GB of it for 2,097,408 entries of lookup tables)")
    hidden = CircuitRequest(inputs="committed", memory_gb=2.0, expected_rows=1000)
    with pytest.raises(JobError, match=f"^a batch proof of this model takes about {said} however few its rows are, and a rank has 2.0 GB for 1; give it more"):
        choose(hidden, key)
    with pytest.raises(JobError, match=f"^proof.rows_per_proof: 768 rows a proof take about {said}, and a rank has 2.0 GB for 1; give fewer rows"):
        choose(dataclasses.replace(hidden, rows_per_proof=768), key)
    assert choose(dataclasses.replace(hidden, memory_gb=4.0), key) == 2048


def test_a_wrong_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(11))
    with pytest.raises(ValueError, match="w: 11 weights, the key has 12"):
        read_weights(tmp_path / "w", [(4, 3)])


def test_the_environment_of_the_proving_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enclaveml.zk.batch.child import prepare_environment

    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"):
        monkeypatch.setenv(name, "")  # put back at the end, whatever the child would set
        monkeypatch.delenv(name)
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    (tmp_path / "old").write_text("processor : 0\nflags : fpu sse2 avx2\n\nprocessor : 1\nflags : fpu sse2 avx2\n")
    (tmp_path / "new").write_text("flags : fpu sse2 avx2 avx512f\n")
    places = []
    for name in ("missing", "old", "new", "new"):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/d")
        prepare_environment(str(tmp_path / name))
        wide = " --xla_cpu_prefer_vector_width=512" if name == "new" else ""
        assert (os.environ["JAX_PLATFORMS"], os.environ["XLA_FLAGS"]) == ("cpu", f"--xla_dump_to=/d{wide}")
        places.append(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert len(set(places)) == 3 and places[2] == places[3] and all(place.startswith(str(tmp_path / "jax")) for place in places)
    prepare_environment(str(tmp_path / "new"))  # twice is once
    assert os.environ["XLA_FLAGS"].count("prefer_vector_width") == 1
