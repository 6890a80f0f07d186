"""A job with hidden weights that goes on where no circuit was noted: as what it was, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import D, a_circuit, a_member
from small_job import write_small_job

from enclaveml.begin import begin, registration_of
from enclaveml.errors import JobError
from enclaveml.job import JobSpec, load_job
from enclaveml.options import RunOptions
from enclaveml.preprocessing import open_rows
from enclaveml.zk.interface import Circuit

MODEL = SimpleNamespace(function=SimpleNamespace(fingerprint="a" * 64), outputs=D)
PROOF = {"system": "batch", "inputs": "committed", "private_weights": True, "rows_per_proof": 256, "scale": None, "tolerance": None}


def hidden(folder: Path) -> Circuit:
    """A circuit that says that it hides its weights; nothing is proved with it here."""
    return dataclasses.replace(a_circuit(folder), system="batch", inputs="committed", hides_weights=True)


def began(job: JobSpec, circuit: Circuit | None, resume: bool) -> bool:
    """Whether a run of the job goes on with an earlier one's journal; the journal is as it leaves it."""
    journal, before, _ = begin(job, RunOptions(job.path, resume=resume), open_rows(job), circuit, MODEL, (a_member(0),), "")
    journal.close()
    return before is not None


def test_a_job_killed_before_its_registration_was_noted_begins_anew(tmp_path: Path) -> None:
    small = write_small_job(tmp_path / "job", 8, {"proof": PROOF})
    job = load_job(small.path)
    assert registration_of(job) == "" and not began(job, hidden(tmp_path), resume=False)
    first = small.journal.read_bytes()
    assert registration_of(job) == "" and not began(job, hidden(tmp_path), resume=True)
    assert small.journal.read_bytes() != first


def test_a_journal_of_another_job_without_circuits_is_not_replaced(tmp_path: Path) -> None:
    small = write_small_job(tmp_path / "job", 8, {"proof": {"coverage": 0}})
    assert not began(load_job(small.path), None, resume=False)
    kept = small.journal.read_bytes()
    now = load_job(write_small_job(tmp_path / "job", 8, {"proof": PROOF}).path)
    with pytest.raises(JobError, match="proof.coverage: found 1.0; the job to go on with has 0.0") as caught:
        began(now, hidden(tmp_path), resume=True)
    assert "proof.private_weights: found True; the job to go on with has False" in str(caught.value)
    assert small.journal.read_bytes() == kept


def test_a_job_whose_weights_were_not_hidden_has_no_registration(tmp_path: Path) -> None:
    """Nor is one looked for: the message is about the key that differs, before anything is made."""
    plain = {**PROOF, "private_weights": False}
    small = write_small_job(tmp_path / "job", 8, {"proof": plain})
    shown = dataclasses.replace(a_circuit(tmp_path), system="batch", inputs="committed")
    journal, *_ = begin(load_job(small.path), RunOptions(small.path), open_rows(load_job(small.path)), shown, MODEL, (a_member(0),), "")
    journal.append("circuit", {"circuit_id": shown.circuit_id, "manifest": shown.manifest()}, vk=b"", settings=b"", weights_proof=b"")
    journal.close()
    kept = small.journal.read_bytes()
    now = load_job(write_small_job(tmp_path / "job", 8, {"proof": PROOF}).path)
    with pytest.raises(JobError) as caught:
        registration_of(now)
    assert str(caught.value).endswith("proof.private_weights: found True; the job to go on with has False. Put it back, or start anew with --force")
    assert "job.yaml:" in str(caught.value) and small.journal.read_bytes() == kept
