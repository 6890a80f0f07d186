"""Committed inputs that are no data: field elements solved for, so that the model says what the forger wants.

ezkl checks no range of committed inputs. Such a proof verifies; an audit without the inputs must name that
possibility in its verdict, and one with them must refuse the file.
"""

from __future__ import annotations

import json
from dataclasses import replace as with_
from pathlib import Path

import audit_case
import h5py
import numpy as np
import pytest
from audit_case import changed, findings, run
from small_job import HIDDEN, WIDTH, weights
from test_audit import envelopes, reencoded
from zk_case import drain

from enclaveml.envelope import decode
from enclaveml.job_vector import JobVector
from enclaveml.zk.ezkl import field, prover, statement
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import load_circuit

pytestmark = pytest.mark.ezkl

WANTED = np.array([3, 1, 2, 1]) << 20  # the hidden layer's values, at scale 20


def solved(matrix: list[list[int]], right: list[int]) -> list[int]:
    """x with matrix x = right modulo the field's order, by elimination."""
    p, n = field.MODULUS, len(right)
    rows = [[*(v % p for v in line), r % p] for line, r in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = next(j for j in range(i, n) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        inverse = pow(rows[i][i], -1, p)
        rows[i] = [v * inverse % p for v in rows[i]]
        for j in range(n):
            if j != i and rows[j][i]:
                rows[j] = [(a - rows[j][i] * b) % p for a, b in zip(rows[j], rows[i], strict=True)]
    return [line[n] for line in rows]


def forged_felts(bundle: int, scale: int) -> bytes:
    """A bundle of equal rows, as field elements that stand for no numbers."""
    kernel = field.quantise(weights()["hidden.kernel"], scale)
    bias = field.quantise(weights()["hidden.bias"], 2 * scale)
    square = [[int(kernel[i, j]) for i in range(HIDDEN)] for j in range(HIDDEN)]
    x = solved(square, [int(v) for v in WANTED - bias]) + [0] * (WIDTH - HIDDEN)
    return b"".join(v.to_bytes(32, "little") for v in x) * bundle


def test_a_forgery_is_named_and_with_the_inputs_refused(tmp_path_factory, tmp_path, monkeypatch) -> None:
    base = tmp_path_factory.mktemp("forgery")
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    job = audit_case.small_results(base, "committed")
    (folder,) = (path.parent for path in Path(base / "cache").glob("circuits/*/circuit.json"))
    circuit = load_circuit(folder)
    felts = forged_felts(circuit.rows, circuit.input_scale)
    with pytest.raises(ValueError):  # no numbers that anybody could have as data
        field.from_felts(felts)
    monkeypatch.setattr(prover.statement, "input_felts", lambda rows, bundle, scale: felts)
    made = EzklSystem().prover(circuit.folder, 1)
    try:
        made.submit(0, job.rows[:4], 300)
        (result,) = drain(made)
    finally:
        made.close()
    monkeypatch.undo()
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    assert result.error == ""
    proved = field.dequantise(result.proof.outputs, circuit.output_scale)
    w = weights()
    np.testing.assert_allclose(proved[0], WANTED / 2.0**20 @ w["out.kernel"] + w["out.bias"], atol=0.02)

    def change(file: h5py.File) -> None:
        consistency = decode(envelopes(file)[0]).consistency
        floats = proved.astype(np.float32)
        reencoded(file, outputs=floats, computation=result.proof.computation, commitment=result.proof.commitment,
                  consistency=with_(consistency, proved=result.proof.outputs))
        file["outputs"][:4], file["proved_outputs"][:4] = floats, proved
        file["row/deviation"][:4] = np.abs(proved - floats.astype(np.float64)).max(axis=1)
        file["row/argmax_differs"][:4] = 0
        vector = JobVector("average", 3)
        vector.add(file["proved_outputs"][()])
        file["combined/result"][:] = vector.result().value

    path = changed(job, tmp_path, change)
    report = run(path)
    assert report.failures == [] and report.exit_code == 0
    assert ("what the inputs are: the proofs hold for commitments to some field elements, not necessarily data, since the "
            "circuit does not bound its inputs (--inputs, of the data's owner, settles it)") in report.limits
    assert json.dumps(report.document()["not_established"]).count("not necessarily data") == 1
    (found,) = findings(path, inputs=job.folder / "rows.npy")
    assert found == "bundle 0: its proof: its commitment is not that of the inputs given (rows 0-3)"
    assert statement.input_felts(job.rows[:4], 4, circuit.input_scale) != felts
