"""``enclaveml check``: whether a job's model can be proved, before any cluster time is spent.

Exports the model, runs float, ONNX and witness side by side on the sample rows, and plans a circuit; makes
no keys. What it predicts is CPU time of this machine (``zk/ezkl/cost.py``).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.errors import JobError
from enclaveml.job import load_job
from enclaveml.prepare import load_model, request_of
from enclaveml.progress import significant, table
from enclaveml.provenance import preprocessing, preprocessing_words
from enclaveml.zk.interface import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from enclaveml.models import OutputPart
    from enclaveml.zk.ezkl.examine import Examination
    from enclaveml.zk.interface import CircuitRequest

log = logging.getLogger(__name__)

# Layers that the text shows; --json has all.
_SHOWN = 12


def check(job_path: Path, overrides: Sequence[str] = (), ranks: int | None = None, as_json: bool = False) -> int:
    """Examine the job's model for ``ranks`` ranks on this machine, and print what was found.

    Returns 0 where it can be proved, 2 where it cannot. Raises JobError for a job, data or a model file
    that do not serve at all.
    """
    job = load_job(job_path, overrides)
    model, samples, rows = load_model(job)
    request = request_of(job, rows, ranks or max(1, len(job.cluster.ranks)))
    named = preprocessing(vars(job.model))
    preprocess = {"preprocess": named and {"function": named[0], "proved": named[1]}}
    if job.proof.system == "batch":
        from enclaveml.zk.batch import examine as batch

        looked = batch.examine(model.function, samples, request)
        told = batch.document(looked, rows, len(samples)) | preprocess
        print(json.dumps(told, indent=2) if as_json else batch.text(looked, rows, len(samples)), end="\n" if as_json else "")
        return JobError.exit_code if looked.refused else 0
    from enclaveml.zk.ezkl.examine import examine

    found = examine(model.function, samples, request, lambda line: log.info("%s", line), model.state)
    report = document(found, request, model.outputs_layout, rows, len(samples)) | preprocess
    print(json.dumps(report, indent=2) if as_json else text(report), end="\n" if as_json else "")
    return JobError.exit_code if found.refused else 0


def document(found: Examination, request: CircuitRequest, parts: Sequence[OutputPart], rows: int, samples: int) -> dict[str, Any]:
    """Everything that check says, as JSON can hold it; None for what was not reached."""
    from enclaveml.zk.ezkl.examine import job_seconds

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "provable": not found.refused,
        "refused": found.refused or None,
        "advice": [{"what": a.what, "refused": a.refused, "why": a.why, "instead": a.instead} for a in found.advice],
        "model_hash": found.model_hash or None,
        "rows": rows,
        "samples": samples,
        "tolerance": number(found.tolerance),
        "tolerance_given": request.tolerance is not None,
        "outputs": [] if found.truth is None else _outputs(found, parts),
        "plan": str(found.plans[0]) if len(found.plans) == 1 else None,
        "slices": [str(plan) for plan in found.slices],
        "slice_cpu_seconds_a_proof": [plan.prove_seconds for plan in found.slices],
        "slice_key_bytes": [plan.key_bytes for plan in found.slices],
        "layers_at": found.layers_at or None,
        "rows_per_proof": found.plans[0].choice.rows if found.plans else None,
        "cpu_seconds_a_row": number(found.row_seconds),
        "cpu_seconds_a_proof": number(found.proof_seconds),
        "wall_seconds": number(job_seconds(found, request)),
        "processors": request.cores,
        "key_bytes": number(found.key_bytes),
        "memory_bytes": number(found.memory),
        "layers": [{**({"slice": la.slice} if la.slice else {}), "nodes": la.name, "shape": list(la.shape), "weights": la.weights, "rows": la.rows, "lookups": la.lookups,
                    "tables": la.tables, "einsum": la.einsum}
                   for la in sorted(found.layers, key=lambda la: -la.rows)],
    }


def _outputs(found: Examination, parts: Sequence[OutputPart]) -> list[dict[str, Any]]:
    """Of each output, how far ONNX and witness are from the float model, and how often they agree on the class."""
    lines, start = [], 0
    for part in parts:
        mine = slice(start, start + part.size)
        start += part.size
        truth = found.truth[:, mine]
        line: dict[str, Any] = {"output": part.name, "shape": list(part.shape), "largest": _most(truth)}
        for name, other in (("onnx", found.onnx), ("proved", found.proved)):
            there = None if other is None else other[:, mine]
            line[f"{name}_rows"] = 0 if there is None else len(there)
            line[f"{name}_deviation"] = None if there is None else _most(there - truth[: len(there)])
            line[f"{name}_agreement"] = None if there is None or part.size == 1 else float(
                (there.argmax(axis=1) == truth[: len(there)].argmax(axis=1)).mean())
        lines.append(line)
    return lines


def _most(values: np.ndarray) -> float | None:
    """The largest absolute value; None where one is not finite."""
    most = float(np.abs(values).max(initial=0.0))
    return most if math.isfinite(most) else None


def text(report: dict[str, Any]) -> str:
    """What check says, for people."""
    lines = [f"refused: {report['refused']}" if report["refused"] else "the model can be proved"]
    if before := report.get("preprocess"):
        lines.append(f"preprocessing: {preprocessing_words((before['function'], before['proved']))}")
    # What is refused for is said above.
    if advice := [a for a in report["advice"] if not (a["refused"] and report["refused"])]:
        lines += ["", "Advice:"] + [f"  - {a['what']}: {'refused, ' if a['refused'] else ''}{a['why']}; {a['instead']}" for a in advice]
    if report["outputs"]:
        heads = ["output", "shape", "largest", "ONNX off by", "agrees", "proved off by", "agrees"]
        body = [[o["output"], str(tuple(o["shape"])), _told(o["largest"]), _told(o["onnx_deviation"]), _share(o["onnx_agreement"]),
                 _told(o["proved_deviation"]), _share(o["proved_agreement"])] for o in report["outputs"]]
        counts = report["outputs"][0]
        lines += ["", f"Beside the float model on {report['samples']} sample rows (ONNX on {counts['onnx_rows']}; "
                  f"{_tolerance(report)}):", table(heads, body)]
    if report["layers"]:
        total = sum(la["rows"] for la in report["layers"]) or 1
        body = [[*([str(la["slice"])] if report["slices"] else []), la["weights"], la["nodes"], str(tuple(la["shape"])), f"{la['rows']:,}", f"{100 * la['rows'] / total:.1f}", f"{la['lookups']:,}",
                 str(la["tables"]), f"{la['einsum']:,}"] for la in report["layers"][:_SHOWN]]
        lines += ["", f"Where the cost sits, at {report['layers_at']} rows a proof, most expensive first:",
                  table([*(["slice"] if report["slices"] else []), "weights of", "nodes", "value", "circuit rows", "%", "lookups", "new tables", "einsum cells"], body)]
        if len(report["layers"]) > _SHOWN:
            lines.append(f"and {len(report['layers']) - _SHOWN} more (--json has all)")
    if report["plan"] or report["slices"]:
        lines += ["", *([f"plan: {report['plan']}"] if report["plan"] else
                        [f"plan, slice {i + 1} of {len(report['slices'])}: {plan}; {significant(report['slice_cpu_seconds_a_proof'][i])} CPU s a proof, "
                         f"key {report['slice_key_bytes'][i] / 1e6:,.0f} MB" for i, plan in enumerate(report["slices"])]),
                  f"predicted: {significant(report['cpu_seconds_a_row'])} CPU s a row, {significant(report['cpu_seconds_a_proof'])} "
                  f"CPU s a proof; {report['rows']:,} rows in about {significant(report['wall_seconds'])} s on "
                  f"{report['processors']} cores like this machine's",
                  f"predicted: key{'s' if report['slices'] else ''} {report['key_bytes'] / 1e6:,.0f} MB, peak memory of one prover {report['memory_bytes'] / 1e9:.2f} GB"]
    if report["model_hash"]:
        lines.append(f"model hash: {report['model_hash']}")
    return "\n".join(lines) + "\n"


def _tolerance(report: dict[str, Any]) -> str:
    """The tolerance that a run of this job would hold outputs to, and where it comes from."""
    value = report["tolerance"]
    if value is None:
        return "no tolerance: refused"
    if report["tolerance_given"]:
        return f"proof.tolerance {value:.3g}"
    if value > DEFAULT_TOLERANCE:
        return f"tolerance {value:.3g}, twice what these rows need: MORE THAN THE DEFAULT {DEFAULT_TOLERANCE:g}"
    return f"tolerance {value:.3g}, the default"


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
