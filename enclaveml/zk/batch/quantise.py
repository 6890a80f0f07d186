"""A model as exact integers: exported, laid out, calibrated, and held to what the job asks on its sample rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.batch.activations import Held
from enclaveml.zk.batch.calibrate import calibrate
from enclaveml.zk.batch.float_model import FloatLayer, run
from enclaveml.zk.batch.format import Layer, VerificationKey
from enclaveml.zk.batch.graph import float_layers
from enclaveml.zk.batch.integer import IntegerModel
from enclaveml.zk.batch.number_tables import costs
from enclaveml.zk.export import HASH_BATCH, export
from enclaveml.zk.interface import CircuitRequest, ModelFunction
from enclaveml.zk.rows import float_outputs, rounded_up

#: Where the job gives no tolerance it is this many times the largest deviation on the sample rows. Rounding on rows beyond them goes further:
#: 1.1 to 1.9 times as far on 2,000 rows of 24 random networks whose scales were chosen on 200 (normally distributed inputs, whose largest
#: rows are the worst), 1.6 times on 65,536 noisy digits; and a row out of tolerance has no other circuit.
MARGIN = 3.0

#: Where the job gives no tolerance, the largest deviation on the sample rows as a part of their largest output: one that is wider would cover
#: a network that gives next to nothing of the model (the table of a function as steep as exp did).
COARSEST = 0.25

#: How far the layers that were read may be from the model on sample rows, as a part of its largest output; and rows that are tried at a time.
READING, READ_ROWS = 1e-2, 64


@dataclass(frozen=True)
class Measured:
    """How far an integer model is from its float model: ``deviation`` the largest, ``agreement`` the share of equal argmax."""

    deviation: float
    agreement: float


@dataclass(frozen=True)
class Quantised:
    """An integer model that keeps what was asked of it. ``weights``: how many the float model has. ``held``: each hidden layer's activation."""

    model: IntegerModel
    measured: Measured
    tolerance: float
    model_hash: str
    weights: int
    held: tuple[Held, ...]


def quantise(function: ModelFunction, rows: np.ndarray, request: CircuitRequest) -> Quantised:
    """The integer model of ``function`` for rows such as these, (S, *row_shape).

    Raises JobError for a model that no batch proof can hold, or not within the tolerance or the agreement asked for.
    """
    document = export(function, HASH_BATCH)
    layers = float_layers(document)
    check_sizes(layers)
    truth = float_outputs(function, rows, min(64, max(2, len(rows))))
    if not np.isfinite(truth).all():
        raise JobError("the model's outputs on the sample rows are not all finite")
    check_reading(layers, rows, truth)
    hidden = request.inputs != "public"
    model = calibrate(layers, rows, truth, plain=hidden)
    if hidden:
        model = coarse(model)
    found = measure(model, rows, truth)
    if hidden:
        found = rounded(found)
    refuse(found, request, float(np.abs(truth).max(initial=0.0)))
    count = sum(each.weights.size + each.bias.size for each in layers)
    told = [one_digit(cost) if hidden else cost for cost in costs(layers, model, rows)]
    held = tuple(Held(each.activation.name if each.activation else "ReLU", len(made.table), cost)
                 for each, made, cost in zip(layers, model.layers, told, strict=False))
    return Quantised(model, found, tolerance_of(request, found.deviation), hashlib.sha256(document).hexdigest(), count, held)


def check_reading(layers: Sequence[FloatLayer], rows: np.ndarray, truth: np.ndarray) -> None:
    """Raise JobError where the layers, as they were read, are another function than the model.

    The quantiser holds its integers against these layers, and what it measures against the model could pass for rounding. 1 % is far
    above what float32 leaves, and TF32 on a GPU. What was taken for ReLU by its values at some places is it on all sums of the rows, too.
    """
    largest = float(np.abs(truth).max(initial=0.0))
    for start in range(0, len(rows), READ_ROWS):
        part = slice(start, start + READ_ROWS)
        sums = run(layers, rows[part])[1]
        relus = all(np.array_equal(each.taken(z), np.maximum(z, 0)) for each, z in zip(layers, sums, strict=True) if each.taken)
        if not relus or not np.abs(sums[-1] - truth[part]).max(initial=0.0) <= READING * max(largest, 1e-3):
            raise JobError("the model was read as layers that compute something else: this is a fault of EnclaveML's; please report it, and use "
                           "proof.system: ezkl")


def check_sizes(layers: Sequence[FloatLayer]) -> None:
    """Raise JobError for layers that no key has, whatever their weights and scales: before these are looked for."""
    shapes = tuple(Layer(len(each.weights), len(each.bias), int(number < len(layers)), each.wirings,
                         None if each.residual is None else (each.residual, 0)) for number, each in enumerate(layers, 1))
    try:
        VerificationKey(4, -1, 1, shapes, 0, (bytes(32),) * len(shapes))
    except ValueError as error:
        raise JobError(f"no batch proof holds this network: {error} (a maximum over n cells takes n - 1 layers along each axis); "
                       "make it smaller, or use proof.system: ezkl") from error


def coarse(model: IntegerModel) -> IntegerModel:
    """The model with its inputs' range cut to a power of two: what was the largest sample's value says its size alone.

    The range is at least twice the largest sample's, so that the sample rows stay within it.
    """
    high = 1 << (model.input_high.bit_length() - 1)
    return replace(model, input_low=-high, input_high=high)


def rounded(found: Measured) -> Measured:
    """What was measured to one digit of the deviation, upwards, and two of the agreement, downwards."""
    return Measured(one_digit(found.deviation), math.floor(100 * found.agreement) / 100)


def one_digit(value: float) -> float:
    """A number from 0 to one digit, upwards."""
    step = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return math.ceil(value / step) * step


def measure(model: IntegerModel, rows: np.ndarray, truth: np.ndarray) -> Measured:
    """The integer model beside the float model's outputs (S, D) on rows (S, *row_shape)."""
    proved = model.outputs(rows)
    agreement = 1.0 if truth.shape[1] == 1 else float((proved.argmax(axis=1) == truth.argmax(axis=1)).mean())
    return Measured(float(np.abs(proved - truth).max(initial=0.0)), agreement)


def refuse(found: Measured, request: CircuitRequest, largest: float) -> None:
    """Raise JobError where this is not what the job asks for; ``largest``: of the float outputs of the sample rows, without sign."""
    wider = "proof.system: ezkl has finer numbers"
    if request.tolerance is not None and not found.deviation <= request.tolerance:
        raise JobError(f"the integer model of a batch proof (8 bits a weight and activation) deviates by {found.deviation:.3g} on the sample "
                       f"rows, more than proof.tolerance {request.tolerance:g}; raise it, or {wider}")
    if request.tolerance is None and not found.deviation <= COARSEST * max(largest, 1e-3):
        raise JobError(f"the integer model of a batch proof (8 bits a weight and activation) deviates by {found.deviation:.3g} on the sample "
                       f"rows, whose outputs are {largest:.3g} at most: a tolerance that wide says nothing; set proof.tolerance if it is meant, or {wider}")
    if found.agreement < request.agreement:
        raise JobError(f"the integer model of a batch proof has the float model's argmax on {found.agreement:.4f} of the sample rows, less "
                       f"than proof.agreement {request.agreement:g}; lower it, or {wider}")


def tolerance_of(request: CircuitRequest, deviation: float) -> float:
    """The circuit's tolerance: as asked, else MARGIN times the sample rows' deviation, rounded up to two digits."""
    if request.tolerance is not None:
        return request.tolerance
    return rounded_up(max(MARGIN * deviation, 1e-6))
