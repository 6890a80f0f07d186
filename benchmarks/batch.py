"""``python -m benchmarks.batch``: batch proofs, masked, with hidden weights, and integrity only: digits, a dense net of four million weights, a CNN.

Every proof is verified and every output held against the integer network, between the timed turns. Then a million rows of the digits
model, masked, proof after proof, and what bounds each stage (``batch_bound``). Beside it the tuned ezkl path proves
and verifies the digits model in the same run, at the batch model's tolerance, and at calibrated ezkl's as ``reports/digits.json`` has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.batch_bound import rates
from benchmarks.common import Data, Planned, take_turns
from benchmarks.machine import REPORTS, machine, sentence, table, write_report
from enclaveml.datasets import open_dataset
from enclaveml.job import load_job
from enclaveml.models import build_model, package_model
from enclaveml.zk.batch.format import Layer, Wiring
from enclaveml.zk.batch.integer import IntegerLayer, activated, rescale
from enclaveml.zk.batch.quantise import quantise
from enclaveml.zk.ezkl.system import EzklSystem
from enclaveml.zk.interface import CircuitRequest
from enclaveml.zk.process import child_environment
from enclaveml.zk.rows import float_outputs

ROOT = Path(__file__).resolve().parent.parent

#: Model, rows, rounds, and microseconds a row to stay below (issue 8): with zero-knowledge, for which so many of the rows are mask rows.
CASES = (("digits", 1024, 40, 120.0), ("digits", 2048, 30, 120.0), ("digits", 16384, 10, 40.0), ("dense", 1024, 3, 3500.0),
         ("dense", 2048, 3, 3500.0), ("cnn", 1024, 2, 20000.0))
MASKS = 256

#: Where weights are hidden too: no goal is said for it.
HIDDEN = (("digits", 1024), ("digits", 16384), ("dense", 1024))

#: Rows of a proof where many are made one after the other, and after how many of them it is said what they took.
GROWTH_ROWS, GROWTH = 16384, (1, 4, 16, 63)

#: What verifying a row may take (issue 8), in microseconds.
VERIFY_GOAL = 15

#: Widths of the dense net.
DENSE = (4, 1000, 1000, 1000, 1000, 1000, 3)

#: The CNN of 264,031 parameters: 3 x 32 x 32, convolutions 5 x 5 to 12 and to 33 channels without zeros around them, each with ReLU and means
#: of 2 x 2, then 251, 175 and 10. K and M' of each layer, and how it reads the one before.
CNN = ((75, 12, (Wiring(0, (32, 32, 3), (1, 1), (5, 5)),)), (300, 33, (Wiring(1, (28, 28, 12), (2, 2), (5, 5)),)),
       (825, 251, (Wiring(2, (10, 10, 33), (2, 2), (5, 5)),)), (251, 175, ()), (175, 10, ()))

#: Standard deviation of the noise on resampled digits, whose pixels are 0 to 1.
NOISE = 0.02


def digits(folder: Path) -> tuple[Path, str, Any, Data, float]:
    """The digits job's model as integers in a file, with rows resampled with noise; what was measured; the float model and its rows."""
    job = load_job(ROOT / "jobs/digits/job.yaml")
    dataset = open_dataset(job.input.path, job.input.key, job.input.labels, job.input.scale)
    rows = dataset.read_rows(np.arange(dataset.rows))
    home = job.path.absolute().parent
    package = package_model(job.model.flax, dict(job.model.args), job.model.weights, home)
    function = build_model(package, dataset.row_shape, dataset.dtype, home, ()).function
    found = quantise(function, rows, CircuitRequest(agreement=0.9))
    draw = np.random.default_rng(7)
    resampled = rows[draw.integers(0, len(rows), 16384)]
    resampled = np.clip(resampled + draw.normal(0, NOISE, resampled.shape).astype(np.float32), rows.min(), rows.max())
    model = found.model
    x = np.clip(model.quantise(resampled), model.input_low, model.input_high)
    path = folder / "digits.npz"
    np.savez(path, x=x, layers=_layers([layer.shape for layer in model.layers]), low=model.input_low, high=model.input_high,
             range_bits=model.range_bits, **{f"weights_{i}": layer.matrix for i, layer in enumerate(model.layers)})
    words = (f"deviation {found.measured.deviation:.3g} and agreement {found.measured.agreement:.4f} with the float model "
             f"on its {len(rows)} rows")
    return path, words, function, Data(rows, float_outputs(function, rows, 64)), found.tolerance


def _layers(layers: list[Layer]) -> str:
    return json.dumps([layer.to_json() for layer in layers])


def random_model(path: Path, shapes: Sequence[tuple[int, int, tuple[Wiring, ...]]], width: int, rows: int) -> Path:
    """Random int8 weights with shifts by which activations fill their range, and random rows. Shapes: K, M' and wirings of each layer."""
    draw = np.random.default_rng(8)
    x = draw.integers(-128, 128, (rows, width))
    arrays, made, range_bits = [x], [], 0
    for number, (inputs, outputs, wirings) in enumerate(shapes, 1):
        matrix = np.zeros((inputs + 3, outputs), np.int8)
        matrix[:inputs] = np.clip(np.rint(draw.normal(0, 40, (inputs, outputs))), -127, 127)
        z = IntegerLayer(matrix, 0, wirings).sums(number, arrays)
        if number == len(shapes):
            made.append(IntegerLayer(matrix, 0, wirings))
            break
        shift = max(1, int(np.ceil(np.log2(z.std() / 100))))
        range_bits = max(range_bits, int(np.abs(rescale(z, shift)).max()).bit_length())
        made.append(IntegerLayer(matrix, shift, wirings))
        arrays.append(activated(z, shift))
    np.savez(path, x=x, layers=_layers([layer.shape for layer in made]), low=-128, high=127, range_bits=range_bits,
             **{f"weights_{i}": layer.matrix for i, layer in enumerate(made)})
    return path


def run_case(path: Path, rows: int, masks: int, cache: Path, **more: Any) -> dict[str, Any]:
    """One case in a process of its own; ``more``: "rounds" or "growth" (see ``batch_part``)."""
    asked = json.dumps({"model": str(path), "rows": rows, "masks": masks, "cache": str(cache), **more})
    done = subprocess.run([sys.executable, "-m", "benchmarks.batch_part"], input=asked, stdout=subprocess.PIPE, text=True,
                          check=True, timeout=600, cwd=ROOT, env={**child_environment(len(os.sched_getaffinity(0))), "PYTHONPATH": str(ROOT)})
    return json.loads(done.stdout.splitlines()[-1])


def ezkl_row_seconds(function: Any, data: Data, tolerance: float) -> tuple[float, str]:
    """Seconds a row of the tuned ezkl path, verification included, at this tolerance; and its settings."""
    request = CircuitRequest(tolerance=tolerance, expected_rows=1797, cores=2, children=2, memory_gb=12.0)
    contender = Planned("ezkl, tuned", EzklSystem().prepare(function, data.rows[:256], request, print), data, 2, tolerance)
    try:
        take_turns([contender], 2)
        return contender.result.row_seconds, contender.result.detail
    finally:
        contender.close()


@dataclass
class Findings:
    """All that a report says; ``words``: how the digits model was quantised."""

    words: str
    rates: dict[str, float]
    cases: list[dict[str, Any]] = field(default_factory=list)
    growth: dict[str, Any] | None = None
    ezkl: list[tuple[str, float, str]] = field(default_factory=list)


def lines_of(found: Findings, title: str) -> list[str]:
    """The report's Markdown."""
    lines = [f"# {title}", "", "Masked proofs are zero-knowledge for inputs and activations (`PROTOCOL.md`, \"What is hidden\"), their inputs "
             "committed; hidden ones are so for weights too. **Those with public inputs are integrity only.** A registration of hidden weights is good for "
             "so many proofs (`PROTOCOL.md`, \"Hidden weights\").", "",
             sentence(machine(), "batch"), "",
             f"digits: the job's MLP 64-32-10 as integers, {found.words}; rows resampled with noise. dense: "
             f"{'-'.join(map(str, DENSE))}, random weights. cnn: 3x32x32, convolutions 5x5 to 12 and to 33 channels, each with ReLU and "
             "means of 2x2, then 251-175-10 (264,031 parameters), random weights. The best round of each counts; every proof was verified "
             "and its outputs held against the integer network before the next. Rows are those of the statement: a masked proof "
             f"has {MASKS} more, so that a proof of 1,024 rows in all shows 768, and 1,024 rows of a job need one of 2,048. Peak memory is "
             "that of a process that has only proved. The goals are for masked proofs; for verifying a row "
             f"it is {VERIFY_GOAL} us at 16,384.", "", *_figures_table(found.cases), *_small_batch(found.cases), "",
             "## Where the time goes, ms a proof", "", *_stages_table(found.cases), "",
             "`columns` and `helpers` are computing, encoding and hashing them; encoding and hashing overlap. What is alone was "
             "measured apart, on as much data.", "", *_bounds_lines(found.cases, found.rates)]
    if found.growth:
        lines += ["", "## Growth", "", f"digits, masked, {found.growth['real_rows']:,} rows a proof, proof after proof in one process, "
                  "each verified before the next:", "", *table(
                      ["rows", "proofs", "prove, us a row", "verify, us a row", "proofs, MB", "memory held, GB"],
                      [[f"{one['rows']:,}", one["proofs"], f"{1e6 * one['prove_seconds'] / one['rows']:.1f}",
                        f"{1e6 * one['verify_seconds'] / one['rows']:.2f}", f"{one['proof_bytes'] / 1e6:.1f}",
                        f"{one['resident_bytes'] / 1e9:.2f}"] for one in found.growth["growth"]]), "",
                  "Memory held is that of prover and verifier in one process."]
    once = [one for one in found.cases if one["rows"] == 1024 and _kind(one) in ("public", "hidden")]
    if once:
        lines += ["", "## Once a model", "", *table(
            ["model", "weights", "weights proof, s (compiling included)", "MB", "verified in s", "good for proofs", "peak memory, GB"],
            [[one["name"], "hidden" if one["weight_openings"] else "under their root", f"{one['weights_seconds']:.1f}",
              f"{one['weights_proof_bytes'] / 1e6:.2f}", f"{one['weights_verify_seconds']:.2f}", one["weight_openings"] - 1 if one["weight_openings"] else "any",
              f"{one['weights_peak_bytes'] / 1e9:.2f}"] for one in once])]
    return lines + _beside_ezkl(found)


def _figures_table(cases: list[dict[str, Any]]) -> list[str]:
    head = ["model", "kind", "rows a proof", "prove, us a row", "goal", "times public", "CPU us a row", "verify, us a row", "proof, MB",
            "peak memory, GB", "foreseen, GB", "integer inference, us a row", "times inference", "set-up and first proof, s (compiling included)"]
    public = {(one["name"], one["rows"]): one["prove_us"] for one in cases if not one["masks"]}
    return table(head, [[
        one["name"], _kind(one), one["rows"] - one["masks"], f"{one['prove_us']:.1f}", f"{one['goal_us']:g}" if _kind(one) != "hidden" else "",
        f"{one['prove_us'] / beside:.2f}" if (beside := public.get((one["name"], one["rows"]))) else "", f"{one['cpu_us']:.1f}",
        f"{one['verify_us']:.2f}", f"{one['best']['proof_bytes'] / 1e6:.2f}", f"{one['peak_bytes'] / 1e9:.2f}",
        f"{one['memory_bytes'] / 1e9:.2f}", f"{one['infer_us']:.2f}", f"{one['prove_us'] / one['infer_us']:.0f}",
        f"{one['first_seconds']:.1f}"] for one in cases])


def _small_batch(cases: list[dict[str, Any]]) -> list[str]:
    """What a row costs where a job has just 1,024."""
    found = [one for one in cases if _kind(one) == "masked" and one["rows"] == 2048]
    return [line for one in found for line in (
        "", f"A batch of just 1,024 rows of {one['name']}, masked: one proof of 2,048 rows, of which 1,024 count: "
        f"{1e6 * one['best']['prove_seconds'] / 1024:.1f} us each.")]


def _stages_table(cases: list[dict[str, Any]]) -> list[str]:
    stages = list(dict.fromkeys(stage for one in cases for stage in one["best"]["stages"]))
    rows = [[stage, *(f"{1e3 * one['best']['stages'].get(stage, 0.0):.1f}" for one in cases)] for stage in stages]
    alone = [[text, *(f"{1e3 * one[name]:.1f}" for one in cases)] for name, text in (
        ("encode_alone_seconds", "encoding alone, both cores"), ("leaves_alone_seconds", "hashing leaves alone, one core"),
        ("nodes_alone_seconds", "hashing nodes alone, both cores"))]
    return table(["stage", *(f"{one['name']} {one['rows']}, {_kind(one)}" for one in cases)], rows + alone)


def _bounds_lines(cases: list[dict[str, Any]], rates: dict[str, float]) -> list[str]:
    """Each stage beside integer inference, and beside what memory and hashing allow."""
    lines = ["## Distance to the bounds", "",
             f"Of both cores at once: {rates['bytes'] / 1e9:.1f} GB/s through memory (copying, read and written), {rates['blocks'] / 1e6:.1f} million "
             "SHA-256 blocks/s (hashlib, a long message). A stage's bytes are counted as if each array were read or written once, its blocks as the "
             "protocol has them (`benchmarks/batch_bound.py`). Inference is the integer network alone."]
    for one in cases:
        if _kind(one) != "masked":
            continue
        rows = []
        for stage, seconds in one["best"]["stages"].items():
            bound = one["stage_bounds"].get(stage)
            least = (bound["bytes"] / rates["bytes"], bound["blocks"] / rates["blocks"]) if bound else (0.0, 0.0)
            rows.append([stage, f"{1e3 * seconds:.1f}", f"{seconds / one['infer_seconds']:.1f}", f"{bound['bytes'] / 1e6:.0f}" if bound else "",
                         f"{1e3 * least[0]:.1f}" if bound else "", f"{bound['blocks'] / 1e6:.2f}" if bound and bound["blocks"] else "",
                         f"{1e3 * least[1]:.1f}" if bound and bound["blocks"] else "", f"{seconds / max(least):.1f}" if bound else ""])
        lines += ["", f"{one['name']}, masked, {one['rows']} rows with mask rows; integer inference {1e3 * one['infer_seconds']:.1f} ms:", "",
                  *table(["stage", "ms", "times inference", "MB moved", "ms, memory", "million blocks", "ms, hashing", "times the larger"], rows)]
    return lines


def _beside_ezkl(found: Findings) -> list[str]:
    mine = [((one["prove_us"] + one["verify_us"]) / 1e6, one) for one in found.cases if one["name"] == "digits"]
    seconds_of = {kind: min((seconds, one["rows"] - one["masks"]) for seconds, one in mine if _kind(one) == kind)
                  for kind in dict.fromkeys(_kind(one) for _, one in mine)}
    if not seconds_of:
        return []
    batch = seconds_of.get("masked", next(iter(seconds_of.values())))[0]
    return ["", "## Beside ezkl, digits", "", *table(["contender", "s a row, verified", "times", "settings"],
            [*([f"batch, {rows_a_proof} rows a proof", f"{seconds:.3g}", f"{seconds / batch:.3g}", kind]
               for kind, (seconds, rows_a_proof) in seconds_of.items()),
             *([name, f"{seconds:.3g}", f"{seconds / batch:,.0f}", detail] for name, seconds, detail in found.ezkl)])]


def _kind(one: dict[str, Any]) -> str:
    return one["kind"]


def main() -> None:
    """Run all cases and write the report."""
    parser = argparse.ArgumentParser(description="batch proofs, masked and not, beside the tuned ezkl path")
    parser.add_argument("--no-ezkl", action="store_true", help="take ezkl's rate from reports/digits.json alone")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name, rows and kind (masked, public) contain it, "
                        "in a report of their own, batch_TEXT; 'digits growth' is the million rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enclaveml-benchmark-") as name:
        folder = Path(name)
        path, words, function, data, tolerance = digits(folder)
        models = {"digits": path, "dense": random_model(folder / "dense.npz", [(k, m, ()) for k, m in pairwise(DENSE)], DENSE[0], 2048),
                  "cnn": random_model(folder / "cnn.npz", CNN, 32 * 32 * 3, 1024)}
        found = Findings(words, rates(len(os.sched_getaffinity(0))))
        for model, rows, rounds, goal in CASES:
            for kind in ("public", "masked", *(["hidden"] if (model, rows) in HIDDEN else [])):
                if options.only not in f"{model} {rows} {kind}":
                    continue
                masks = 0 if kind == "public" else MASKS
                one = run_case(models[model], rows, masks, folder / "cache", rounds=rounds, hidden=kind == "hidden")
                one |= _figures(one, rows - masks) | {"name": model, "rows": rows, "masks": masks, "kind": kind, "goal_us": goal}
                found.cases.append(one)
                print(f"{model} {rows}, {kind}: {one['prove_us']:.1f} us a row, verified in {one['verify_us']:.2f}, "
                      f"peak {one['peak_bytes'] / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}", flush=True)
        if options.only in "digits growth":
            found.growth = run_case(models["digits"], GROWTH_ROWS, MASKS, folder / "cache", growth=GROWTH) | {"real_rows": GROWTH_ROWS - MASKS}
        known = json.loads((REPORTS / "digits.json").read_text(encoding="utf-8"))["results"]
        found.ezkl = [(f"{one['name']}, tolerance of calibrated ezkl (reports/digits.json, another run)", one["row_seconds"], one["detail"])
                      for one in known if one["name"] in ("EnclaveML, public inputs", "ezkl, calibrated")]
        title = "_".join(["batch", *options.only.split()])
        _write(found, title)
        if not options.no_ezkl:
            seconds, detail = ezkl_row_seconds(function, data, tolerance)
            found.ezkl.append((f"EnclaveML by ezkl, public inputs, tolerance {tolerance:g} (this run)", seconds, detail))
        print(_write(found, title))


def _figures(one: dict[str, Any], rows: int) -> dict[str, Any]:
    """Of a case's rounds: microseconds for each row that the statement is about."""
    best = min(one["rounds"], key=lambda turn: turn["prove_seconds"])
    return {"best": best, "prove_us": 1e6 * best["prove_seconds"] / rows, "infer_us": 1e6 * one["infer_seconds"] / rows,
            "cpu_us": 1e6 * min(turn["prove_cpu_seconds"] for turn in one["rounds"]) / rows,
            "verify_us": 1e6 * min(turn["verify_seconds"] for turn in one["rounds"]) / rows}


def _write(found: Findings, title: str) -> str:
    document = {"benchmark": title, "machine": machine(), "digits": found.words, "rates": found.rates, "cases": found.cases,
                "growth": found.growth, "ezkl": [{"name": name, "row_seconds": seconds, "detail": detail} for name, seconds, detail in found.ezkl]}
    return write_report(title, document, lines_of(found, title))


if __name__ == "__main__":
    main()
