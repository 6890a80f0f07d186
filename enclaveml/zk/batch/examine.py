"""Whether a model can be proved in batches, and how near its integers come: everything of a circuit but its proofs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.batch.activations import lines
from enclaveml.zk.batch.integer import IntegerModel
from enclaveml.zk.batch.quantise import Quantised, quantise
from enclaveml.zk.batch.rows_of_a_proof import key_of, orders_of, peak_bytes
from enclaveml.zk.batch.verify.api import proof_bytes, weights_proof_bytes
from enclaveml.zk.interface import CircuitRequest, ModelFunction, caution_of


@dataclass(frozen=True)
class Hiding:
    """What hidden weights cost. orders: proofs that the job may order, from above; proofs: that a registration is good for;
    more_bytes: of a proof, than with weights that show; once_bytes: the proof that the weights are int8."""

    orders: int
    proofs: int
    more_bytes: int
    once_bytes: int


@dataclass(frozen=True)
class Examination:
    """What was found; ``refused`` says why the model cannot be proved so, and the rest is then of no use. ``hiding``: where
    weights are hidden."""

    refused: str
    quantised: Quantised | None = None
    rows: int = 0
    proof_bytes: int = 0
    peak_bytes: float = 0.0
    caution: str = ""
    hiding: Hiding | None = None


def examine(function: ModelFunction, rows: np.ndarray, request: CircuitRequest) -> Examination:
    """Quantise a model on sample rows (S, *row_shape), and size a proof."""
    try:
        found = quantise(function, rows, request)
        key = key_of(found.model, request)
    except JobError as error:
        return Examination(str(error))
    hiding = None
    if request.hides_weights:
        shown = replace(key, weight_rows=0, roots=(bytes(32),) * len(key.layers))
        hiding = Hiding(orders_of(request, key), key.weight_openings - 1, proof_bytes(key) - proof_bytes(shown), weights_proof_bytes(key))
    return Examination("", found, key.real_rows, proof_bytes(key), peak_bytes(key, key.rows),
                       caution_of("batch", request.inputs, request.hides_weights), hiding)


def document(found: Examination, rows: int, samples: int) -> dict[str, object]:
    """Everything that was found, as JSON can hold it."""
    if found.quantised is None:
        return {"provable": False, "refused": found.refused, "system": "batch", "rows": rows, "samples": samples}
    model, measured = found.quantised.model, found.quantised.measured
    return {
        "provable": True, "refused": None, "system": "batch", "model_hash": found.quantised.model_hash, "rows": rows, "samples": samples,
        "tolerance": found.quantised.tolerance, "deviation": measured.deviation, "agreement": measured.agreement,
        "layers": [[each.weights.shape[0], each.weights.shape[1]] for each in model.layers],
        "positions": [each.shape.positions for each in model.layers], "shifts": [each.shift for each in model.layers[:-1]],
        "activations": [each.name for each in found.quantised.held], "tables": [each.entries for each in found.quantised.held],
        "table_deviations": [each.cost for each in found.quantised.held],
        "input_scale": model.input_scale, "output_scale": model.output_scale,
        "input_range": [v * 2.0**-model.input_scale for v in (model.input_low, model.input_high)], "range_bits": model.range_bits,
        "rows_per_proof": found.rows, "proof_bytes": found.proof_bytes, "memory_bytes": found.peak_bytes,
        "hidden_weights": None if found.hiding is None else asdict(found.hiding),
    }


def text(found: Examination, rows: int, samples: int) -> str:
    """What was found, for people."""
    if found.quantised is None:
        return f"refused: {found.refused}\n"
    told = document(found, rows, samples)
    low, high = told["input_range"]  # type: ignore[misc]
    return "\n".join([
        f"the model can be proved in batches: {found.caution}", "",
        f"layers: {_layers(found.quantised.model)}; weights int8, activations 8 bits; inputs from {low:g} to {high:g} in steps of 2^-{told['input_scale']}",
        *lines(found.quantised.held),
        f"beside the float model on {samples} sample rows: off by {told['deviation']:.3g} at most (tolerance {told['tolerance']:.3g}), argmax "
        f"agreement {told['agreement']:.4f}",
        f"{found.rows:,} rows a proof; a proof of {found.proof_bytes / 1e6:.2f} MB; {rows:,} rows in {-(-rows // found.rows):,} proofs",
        *_hiding(found.hiding),
        f"predicted: peak memory of one prover {found.peak_bytes / 1e9:.2f} GB",
        f"model hash: {told['model_hash']}",
    ]) + "\n"


def _hiding(found: Hiding | None) -> list[str]:
    if found is None:
        return []
    return [f"weights hidden: each run registers them anew, for {found.proofs:,} proofs, of which this job orders {found.orders:,} at most; a proof is "
            f"{found.more_bytes / 1e6:.2f} MB larger for it, and there is one of {found.once_bytes / 1e6:.2f} MB for the weights"]


def _layers(model: IntegerModel) -> str:
    """The layers in words: widths of dense ones, else how often how many inputs become how many outputs."""
    shapes = [each.shape for each in model.layers]
    if not any(shape.wirings or shape.residual for shape in shapes):
        return "dense, " + " to ".join(map(str, [shapes[0].inputs, *(shape.outputs for shape in shapes)]))
    words = []
    for shape in shapes:
        often = f"{shape.positions} times " if shape.positions > 1 else ""
        added = f" and array {shape.residual[0]} added" if shape.residual else ""
        words.append(f"{often}{shape.inputs} to {shape.outputs}{added}")
    return "; ".join(words)
