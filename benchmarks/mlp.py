"""A job's rows proved by EnclaveML and by ezkl as its documentation shows, in one run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import Contender, Data, Documented, Planned, report, take_turns
from enclaveml.datasets import open_dataset
from enclaveml.job import load_job
from enclaveml.models import build_model, package_model
from enclaveml.zk.export import HASH_BATCH, export
from enclaveml.zk.rows import float_outputs
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import CircuitRequest, ModelFunction

#: Rows a second, against ezkl with calibrated settings.
GOAL = 60.0

#: The same where the circuit bounds the committed inputs itself, as an audit without them needs.
GOAL_BOUNDED = 40.0

#: Inputs, whether the circuit bounds them, and the name in the report.
CONTENDERS = {
    ("public", False): "EnclaveML, public inputs",
    ("committed", False): "EnclaveML, committed inputs",
    ("committed", True): "EnclaveML, committed inputs bounded in the circuit",
}

#: Rows of the job that the plan is made for: full bundles.
EXPECTED_ROWS = 1797

#: Largest deviation that is allowed where ezkl chooses the scale (without calibration it is 7).
LOOSE = 0.1


def one_row(function: ModelFunction) -> bytes:
    """The ONNX document at batch 1, as the documentation's examples have it."""
    import onnx

    model = onnx.load_from_string(export(function, HASH_BATCH))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for tensor in model.graph.initializer:
        if tensor.name in shapes and onnx.numpy_helper.to_array(tensor)[0] == HASH_BATCH:
            shape = [1, *onnx.numpy_helper.to_array(tensor)[1:].tolist()]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(shape, np.int64), tensor.name))
    return model.SerializeToString()


@dataclass(frozen=True)
class Contest:
    """A job's contenders, ezkl with calibrated settings first; ``limit``: the deviation that all must keep, over ``bar`` rows."""

    job: str
    contenders: list[Contender]
    limit: float
    bar: int


@contextmanager
def contest(job_path: Path, rows_a_turn: int, rounds: int, bar_rows: int | None = None, uncalibrated: int = 0,
            chosen: Collection[str] = tuple(CONTENDERS.values())) -> Iterator[Contest]:
    """Open a job's contenders: ezkl as documented, and the ``chosen`` of EnclaveML's.

    rows_a_turn: of ezkl with calibrated settings, in each of ``rounds``. bar_rows: rows whose witnesses set the accuracy to
    keep; None: all. uncalibrated: rounds of ezkl without calibration.
    """
    job = load_job(job_path)
    dataset = open_dataset(job.input.path, job.input.key, job.input.labels, job.input.scale)
    rows = dataset.read_rows(np.arange(dataset.rows))
    folder = job.path.absolute().parent
    package = package_model(job.model.flax, dict(job.model.args), job.model.weights, folder)
    model = build_model(package, dataset.row_shape, dataset.dtype, folder, ())
    data = Data(rows, float_outputs(model.function, rows, 64))
    document = one_row(model.function)
    contenders: list[Contender] = []
    try:
        calibrated = Documented("ezkl, calibrated", document, data, True, rows_a_turn, rounds, LOOSE)
        contenders.append(calibrated)
        bar = min(len(rows), bar_rows or len(rows))
        limit = calibrated.witnessed_deviation(bar)
        calibrated.limit = limit
        print(f"accuracy to keep: deviation {limit:.3g} over {bar} rows", flush=True)
        for (inputs, bounded), contender in CONTENDERS.items():
            if contender not in chosen:
                continue
            request = CircuitRequest(
                inputs=inputs, bounded=bounded, tolerance=limit, expected_rows=EXPECTED_ROWS, cores=2, children=2, memory_gb=16.0
            )
            circuit = EzklSystem().prepare(model.function, rows[:256], request, print)
            contenders.append(Planned(contender, circuit, data, 2, limit))
        if uncalibrated:
            contenders.append(Documented("ezkl, not calibrated", document, data, False, 1, uncalibrated, LOOSE))
        yield Contest(job.name, contenders, limit, bar)
    finally:
        for contender in contenders:
            contender.close()


def main(name: str, job_path: Path, goal: float = GOAL) -> None:
    """Run the benchmark of a job and write its report; ``goal``: EnclaveML's rows a second in those of ezkl."""
    parser = argparse.ArgumentParser(description=f"{name}: proved rows a second beside ezkl as documented")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3, help="rows a turn of ezkl with calibrated settings")
    parser.add_argument("--uncalibrated", type=int, default=1, help="rounds of ezkl without calibration")
    parser.add_argument("--bar-rows", type=int, help="rows whose witnesses set the accuracy to keep (default: all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="of EnclaveML's contenders those named so")
    options = parser.parse_args()

    chosen = [contender for contender in CONTENDERS.values() if options.only in contender]
    with contest(job_path, options.rows, options.rounds, options.bar_rows, options.uncalibrated, chosen) as held:
        take_turns(held.contenders, options.rounds)
        results = [contender.result for contender in held.contenders]
        what = (
            f"{held.job}: proved rows on two cores. EnclaveML proves full bundles, one on each core, with the "
            f"plan it finds for deviations of at most {held.limit:.2g}, what calibrated ezkl gives over {held.bar} "
            "rows; ezkl as documented proves one row at a time with its threads on both cores."
        )
        goals = {name: min(goal, GOAL_BOUNDED) if bounded else goal for (_, bounded), name in CONTENDERS.items()}
        print(report(name, what, results, results[0], goals))
