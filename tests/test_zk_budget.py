"""The count of a model's proofs: exact among processes, over jobs, and enforced where weights are private."""

from __future__ import annotations

import json
import multiprocessing
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.zk.ezkl.budget import DISCLOSED, Budget, allowed, budget_of, check_undisclosed


def spend_many(path: str, start, times: int) -> None:
    start.wait()
    budget = Budget(Path(path), None)
    for _ in range(times):
        budget.spend()


def test_several_jobs_count_together(tmp_path: Path) -> None:
    path = tmp_path / "proofs" / "a"
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    jobs = [spawn.Process(target=spend_many, args=(str(path), start, 50)) for _ in range(3)]
    for job in jobs:
        job.start()
    start.set()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert Budget(path, None).spent == 150
    assert path.read_bytes() == b"00000000000000000150\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_budget_ends(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "a", 2)
    budget.expect(2)
    budget.spend()
    with pytest.raises(JobError) as caught:
        budget.expect(2)
    assert str(caught.value) == (
        "proof.private_weights: this job needs about 2 proofs; 1 were made of this model, and more than 2 could give its "
        "weights away. Prove more rows at a time (proof.rows_per_proof) or fewer rows (proof.coverage), or set "
        "proof.private_weights: false if the weights may be known")
    budget.spend()
    with pytest.raises(JobError) as caught:
        budget.spend()
    assert str(caught.value) == ("proof.private_weights: 2 proofs were made of this model, and more than 2 could give its weights "
                                 "away; what is proved is kept in the results file")
    assert budget.spent == 2
    free = Budget(tmp_path / "a", None)  # a job whose weights may be known counts on
    free.expect(10**9)
    free.spend()
    assert budget.spent == 3


def test_after_batch_proofs_nothing_is_private(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "a", 2)
    Budget(tmp_path / "a", None).disclose()
    Budget(tmp_path / "a", None).disclose()  # by every batch job
    Budget(tmp_path / "a", None).spend()
    assert budget.spent == DISCLOSED + 1
    for refused in (lambda: budget.expect(1), budget.spend):
        with pytest.raises(JobError) as caught:
            refused()
        assert str(caught.value) == ("proof.private_weights: proofs of this model were made with proof.system: batch that do not hide its weights, "
                                     "and whoever has them can work these out; set proof.private_weights: false")


def test_weights_that_proofs_have_shown_are_hidden_by_no_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path))
    shown, counted = "ab" * 32, "cd" * 32
    Budget(tmp_path / "proofs" / shown, None).disclose()
    Budget(tmp_path / "proofs" / counted, None).spend()
    with pytest.raises(JobError, match="proof.private_weights: proofs of this model were made with proof.system: batch that do not hide its weights"):
        check_undisclosed(shown)
    check_undisclosed(counted)
    check_undisclosed("ef" * 32)


@pytest.mark.parametrize("text", [b"x", b"12\n", b"00000000000000000150", b"00000000000000000150\n7", b"-0000000000000000150\n"])
def test_a_damaged_count_is_no_count(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(EnvironmentFault) as caught:
        Budget(tmp_path / "a", None).spend()
    assert str(caught.value) == (f"{tmp_path / 'a'}: holds no count of proofs; restore it, or remove it if no proof of this model "
                                 "was ever shown to anybody")
    assert (tmp_path / "a").read_bytes() == text


def test_how_many_proofs_a_model_may_have() -> None:
    assert allowed(2410, 16, 1) == 75  # the digits model: 19,280 of its 38,560 bits, 254 a proof
    assert allowed(2410, 16, 3) == 25
    assert allowed(43, 10, 1) == 0  # one proof shows more than half of what the weights hold


@dataclass(frozen=True)
class OfDigits:
    """What the budget reads of a circuit."""

    folder: Path
    model_hash: str = "ab" * 32
    logrows: int = 13
    system: str = "ezkl"
    settings = {"weights": 2410, "param_scale": 16}


def test_the_budget_is_the_models_whatever_its_circuit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path / "cache"))
    budgets = []
    for name, constants in (("one", 2378), ("two", 9000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(json.dumps({"total_const_size": constants}))
        budgets.append(budget_of([OfDigits(tmp_path / name)], True))
    budgets[0].spend()
    assert [b.most for b in budgets] == [75, 37] and [b.spent for b in budgets] == [1, 1]
    assert budget_of([OfDigits(tmp_path / "one")], False).most is None
