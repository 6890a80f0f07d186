"""A circuit of another function than the model's is refused, and rounding is not mistaken for one."""

from __future__ import annotations

import numpy as np
import pytest

from enclaveml.errors import JobError
from enclaveml.zk.ezkl.plan import Numerics
from enclaveml.zk.ezkl.probes import Probe
from enclaveml.zk.ezkl.tolerance import another_function, tolerance_of
from enclaveml.zk.interface import CircuitRequest, ModelFunction
from enclaveml.zk.rows import rounded_up
from tests.small_job import write_small_job

FUNCTION = ModelFunction(lambda x: x, (3,))
TRUTH = np.array([[4.0, 300.0], [-2.0, 100.0]])


def tolerance(gap: list[float], sizes: tuple[int, ...] = (), **more) -> float:
    function = ModelFunction(FUNCTION.apply, (3,), output_sizes=sizes)
    return tolerance_of(CircuitRequest(**more), function, TRUTH + np.array(gap), TRUTH, lambda line: None)


def test_a_tolerance_follows_rounding_and_no_further():
    assert tolerance([0.004, 0.0]) == 0.01
    assert tolerance([0.0, 0.123]) == pytest.approx(0.25) == rounded_up(0.246)
    assert tolerance([0.0, 3.0]) == pytest.approx(6.0), "a hundredth of the largest, 300"
    with pytest.raises(JobError) as caught:
        tolerance([0.0, 3.01])
    assert str(caught.value) == (
        "the model's proved outputs deviate from its float outputs by 3.01 on the sample rows; where a job gives no "
        "proof.tolerance, 0.01 of the largest, 300, or 0.01 is allowed: find out why it is so far off, or give a finer proof.scale, or "
        "proof.tolerance: 6.1 if results that far off serve you")
    assert tolerance([0.0, 3.01], tolerance=6.1) == 6.1
    with pytest.raises(JobError, match="more than proof.tolerance 3$"):
        tolerance([0.0, 3.01], tolerance=3.0)
    with pytest.raises(JobError, match="are not finite"):
        tolerance([0.0, np.nan])


def test_a_small_output_is_not_hidden_by_a_large_one():
    assert tolerance([1.0, 0.0]) == 2.0
    with pytest.raises(JobError, match="^output 1 of 2: .* by 1 on the sample rows; .* of the largest, 4, "):
        tolerance([1.0, 0.0], (1, 1))
    with pytest.raises(JobError) as caught:  # rows are held to one tolerance: this would be half of the first output's size and more
        tolerance([0.0, 2.0], (1, 1))
    assert str(caught.value) == (
        "the model's proved outputs deviate from its float outputs by 2 on the sample rows: a tolerance of 4 for every output, of which "
        "the smallest goes up to 4, would hold that one to nothing; bring the outputs to one size, give a finer proof.scale, or "
        "proof.tolerance: 4 if that serves you")
    assert tolerance([0.0, 2.0], (1, 1), tolerance=4.0) == 4.0
    assert tolerance([0.029, 0.029], (1, 1)) == pytest.approx(0.058)


class Exported:
    """A bench whose ONNX document cannot be run."""

    canonical = b""
    function = FUNCTION


def said(*deviations: tuple[int, float, float], limit: float = 0.01) -> str:
    """Of probes at (scale, deviation of output 0, of output 1)."""
    probes = [Probe(Numerics(scale, 1, scale), max(gaps), 20.0, (0, 0), 0, np.array([gaps, [0.0, 0.0]])) for scale, *gaps in deviations]
    return another_function(Exported(), probes, np.zeros((2, 3)), TRUTH, limit)


def test_what_does_not_shrink_with_the_scale_is_no_rounding():
    assert said((8, 3.0, 0.0)) == "" == said((8, 3.0, 0.0), (10, 3.0, 0.0)), "too few scales to say"
    assert said((8, 3.0, 5.0), (13, 0.1, 0.2), (16, 0.02, 0.03)) == "", "rounding"
    assert said((8, 3.0, 0.0), (13, 2.99, 0.0), (16, 2.99, 0.0)).startswith(
        "output 0 deviates from the float model's by 2.99 at scale 16, no less than at scale 8 (sample row 0): this is no rounding. ")
    assert said((8, 1.0, 500.0), (16, 1.0, 2.0)).startswith("output 0 "), "beside a large output whose rounding shrinks"
    assert said((8, 0.0, 0.02), (16, 0.0, 0.02)) == "", "the float model is in float32 itself: 1e-4 of 300"


REGRESSION = '''
from flax import nnx

class Reg(nnx.Module):
    """A regression with a flag: +3 where a column equals 1."""
    def __init__(self, rngs: nnx.Rngs):
        self.a, self.b = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
    def __call__(self, x):
        return self.b(nnx.relu(self.a(x))) + 3.0 * (x[:, :1] == 1.0)
'''


@pytest.fixture
def regression(tmp_path, monkeypatch):
    """A job with the model of a flag, on rows half of which have it; no tolerance is given."""
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("enclaveml.devices.bind_device", lambda device, local_rank: None)
    job = write_small_job(tmp_path, 8, {"model": {"flax": "reg.py:Reg", "weights": None}, "proof": {"tolerance": None, "scale": None}})
    (tmp_path / "reg.py").write_text(REGRESSION)
    job.rows[::2, 0] = 1.0
    np.save(tmp_path / "rows.npy", job.rows)
    return job.path


def examined(path, *overrides):
    from enclaveml.job import load_job
    from enclaveml.prepare import load_function, request_of
    from enclaveml.zk.ezkl.examine import examine

    job = load_job(path, overrides)
    function, samples, rows = load_function(job)
    return function, samples, request_of(job, rows, 1), examine(function, samples, request_of(job, rows, 1), lambda line: None)


@pytest.mark.ezkl
def test_a_flag_is_proved(regression):
    *_, found = examined(regression, "proof.scale=10")
    assert found.refused == "" and np.abs(found.proved - found.truth).max() < 0.01 and found.tolerance == 0.01


@pytest.mark.ezkl
def test_a_flag_that_ezkl_proves_as_another_function_is_refused(regression, monkeypatch, capsys):
    """What ezkl makes of the model as it was exported: all rows would be verified, off by 3."""
    from enclaveml.check import check
    from enclaveml.zk.ezkl.system import EzklSystem

    monkeypatch.setattr("enclaveml.zk.ezkl.bench.steps", lambda document: document)
    function, samples, request, found = examined(regression)
    assert "by 3 at scale 16, no less than at scale 8" in found.refused and "or ezkl compiles an operator to another function" in found.refused
    with pytest.raises(JobError, match="this is no rounding"):
        EzklSystem().prepare(function, samples, request, lambda line: None)
    # At a scale that is given there is none to compare with: the size of it refuses.
    assert check(regression, ("proof.scale=10",), ranks=1) == 2
    text = capsys.readouterr().out
    assert text.startswith("refused: the model's proved outputs deviate from its float outputs by 3 on the sample rows; where a job gives no")
    assert "(ONNX on 8; no tolerance: refused)" in text and "plan: " in text
