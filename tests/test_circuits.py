"""Which circuits a job has prepared."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from fakes import a_circuit, a_job

from enclaveml.circuits import prepare_circuits
from enclaveml.zk.ezkl import system
from enclaveml.zk.interface import CircuitRequest, ModelFunction


class Prepares:
    """A proof system that has both circuits at hand, or no fallback; ``asked`` notes what it was asked for."""

    def __init__(self, folder: Path, fallback: bool = True) -> None:
        self.primary, self.wide = a_circuit(folder), a_circuit(folder, wide=True) if fallback else None
        self.asked: list[str] = []

    def prepare(self, function, samples, request, progress):
        self.asked.append("primary")
        return self.primary

    def prepare_fallback(self, function, samples, request, primary, progress):
        assert primary is self.primary
        self.asked.append("fallback")
        return self.wide


@pytest.mark.parametrize(
    ("wanted", "there", "rows", "roles", "asked"),
    [
        (True, True, 300, ["primary", "fallback"], ["primary", "fallback"]),
        (False, True, 300, ["primary"], ["primary"]),
        (True, False, 300, ["primary"], ["primary", "fallback"]),
        (True, True, 256, ["primary"], ["primary"]),
    ],
    ids=["both", "not wanted", "none serves", "every row a sample"],
)
def test_the_circuits_of_a_job(tmp_path, monkeypatch, caplog, wanted, there, rows, roles, asked) -> None:
    caplog.set_level(logging.INFO)
    prepares = Prepares(tmp_path, there)
    monkeypatch.setattr(system, "EzklSystem", lambda: prepares)
    job = a_job()
    job = dataclasses.replace(job, proof=dataclasses.replace(job.proof, fallback=wanted))
    function = ModelFunction(lambda x: x, (5,))
    found = prepare_circuits(job, function, np.zeros((256, 5), np.float32), rows, CircuitRequest())
    assert [circuit.role for circuit in found] == roles and prepares.asked == asked
    said = "no fallback circuit: the circuit was held against each of the 256 rows"
    assert (said in caplog.text) == (rows == 256)
