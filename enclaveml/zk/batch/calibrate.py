"""From float layers to an integer model: scales by trial on sample rows, the one that deviates least is kept.

Every scale is a power of two, but a hidden layer's values may be multiplied by any positive number if the next layer's weights are divided
by it: ReLU is homogeneous. That is used twice (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, arXiv:1906.04721, sections 4.1 and 4.2):

 1. *Equalised*: each channel by its own factor, so that small channels keep more bits.
 2. *Filled*: all channels of a layer by one, so that its weights, or its activations, just fill their 8 bits.

Behind another activation than ReLU values have factors of their own: a table of whole numbers (PROTOCOL.md, "Activations") takes the layer's sums in
steps of any size, so that its weights fill their bits, and gives what it gives so that the largest fills 8 bits and the sign.

Biases take up what rounding shifts the layer's sums by on average over the sample rows. At the end the weights of the best scales are rounded
again so that errors make each other good (``compensate``); that is kept where it is better on all sample rows.

Letters: S sample rows, K inputs and M outputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk.batch.compensate import COMPENSATED, compensated_weights, mean_products
from enclaveml.zk.batch.equalise import equalised, tied
from enclaveml.zk.batch.float_model import FloatLayer, run
from enclaveml.zk.batch.format import ACTIVATION_MAX, MOST_SHIFT, MOST_TABLE_NUMBERS, WEIGHT_HIGH, WEIGHT_LOW, bits
from enclaveml.zk.batch.integer import (
    BIAS_HIGH,
    IntegerLayer,
    IntegerModel,
    fits,
    largest_input,
    layer,
    quantised,
)
from enclaveml.zk.batch.number_tables import numbers, steep
from enclaveml.zk.batch.patches import products

#: Inputs that are whole multiples of 2^-n, n at most this, are taken at scale n, which loses nothing.
MAX_EXACT_BITS = 8

#: An input of an unseen row may be this many times as large as the largest of the sample rows, and more where that is free.
HEADROOM = 2

#: Range bits that cost next to nothing: their table is 32 kB of a proof; and entries of them and of all tables of activations, 64 kB.
FREE_RANGE_BITS, FREE_ENTRIES = 12, 2**14

#: Sample rows that scales are tried on: every other one, where there are so many, so that what is measured on all of them is not only
#: what was made to fit; and times that every layer's scales are tried anew beside the others'.
TRIAL_ROWS, SWEEPS = 128, 2

#: From so many multiplications a row on fewer trials must do: LARGE_ROWS rows, the finest scale of the inputs, no sweeps.
LARGE, LARGE_ROWS = 500_000, 64

#: Activations on the sample rows fill this part of their 8 bits at most. Those of other rows that are larger than all of 8 bits are cut, which
#: puts a row out of tolerance: with normally distributed inputs, 10^6 rows reach about 1.7 times as far as 256 do.
FILLED = 0.5

#: The same before a table, where its function is so steep that over HEADROOM times the sums it gives more than that: exp, x^3.
STEEP_FILLED = 0.4

#: Bits of a place in a table: its steps are then about as fine as what it gives. Fewer where more than 8 layers have tables.
TABLE_BITS = 11


@dataclass(frozen=True)
class _Scales:
    """A layer's trial: weights stand for w 2^-weight, activations for a 2^-activation (unused in the last layer), after
    multiplying the layer's outputs by ``factor``. Before a table that is said of quotients, and ``table`` are its numbers, each for
    a 2^-given[0] / given[1]."""

    weight: int
    activation: int
    factor: float
    table: tuple[int, ...] = ()
    given: tuple[int, float] = (0, 1.0)

    @property
    def values(self) -> tuple[int, float]:
        """Scale and factor of what later layers read."""
        return self.given if self.table else (self.activation, self.factor)

    @property
    def units(self) -> tuple[float, float]:
        """What a quotient and a number of the table stand for in the float layer's sums and values."""
        return 2.0**-self.activation / self.factor, 2.0 ** -self.given[0] / self.given[1]


@dataclass(frozen=True)
class _Made:
    """The first layers of a trial, and the arrays they are given and give, (S, features) int64, the inputs first; the last layer's sums last."""

    layers: list[IntegerLayer]
    arrays: list[np.ndarray]

    def until(self, number: int) -> _Made:
        """So many layers of it."""
        return _Made(self.layers[:number], self.arrays[: number + 1])


def exact_bits(rows: np.ndarray) -> int | None:
    """The least n with every value a whole multiple of 2^-n; None above MAX_EXACT_BITS."""
    for n in range(MAX_EXACT_BITS + 1):
        scaled = rows.astype(np.float64) * 2.0**n
        if np.array_equal(scaled, np.round(scaled)):
            return n
    return None


def calibrate(dense: Sequence[FloatLayer], rows: np.ndarray, truth: np.ndarray, plain: bool = False) -> IntegerModel:
    """The integer model of float layers that deviates least from ``truth`` (S, D) on rows (S, *row_shape).

    plain: weights and biases are rounded to the nearest, by scales that are powers of two or follow from the weights: of the rows the
    model says which of these scales suit them, and nothing finer.

    Raises JobError where the protocol has no key for it (too wide, or values of too different sizes).
    """
    every = rows, truth
    large = sum(each.work for each in dense) >= LARGE
    count = LARGE_ROWS if large else TRIAL_ROWS
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
    rows, truth = rows[chosen], truth[chosen]
    found: list[tuple[float, int, _Search, list[_Scales]]] = []
    problems: list[str] = []
    scales = _input_scales(_inputs_read(dense), every[0])
    for scale in scales[:1] if large else scales:
        for by in ("", "weights", "activations")[: 2 if plain else 3] if len(dense) > 1 else ("",):
            search = _Search(equalised(dense, every[0], by), every[0], rows, truth, scale, plain)
            try:
                deviation, chosen_scales = search.best(0 if large else SWEEPS)
                found.append((deviation, len(found), search, chosen_scales))
            except JobError as error:
                problems.append(str(error))
    if not found:
        raise JobError(f"no integer model for a batch proof was found: {problems[-1]}; proof.system: ezkl has wider numbers")
    widest = max(len(each.weights) for each in dense)
    compensations = (False, True) if widest <= COMPENSATED and not plain else (False,)
    tried = [(search, best, compensated) for _, _, search, best in (sorted(found)[:1] if large else found) for compensated in compensations]
    models = (search.model(best, compensated) for search, best, compensated in tried)
    made = [model for model in models if model is not None and not fits(model)]
    return _widened(min(made, key=lambda model: _off(model.outputs(every[0]) - every[1])))


def _inputs_read(layers: Sequence[FloatLayer] | Sequence[IntegerLayer]) -> int:
    """The most inputs of a row that a layer reads for one of its sums, windows' cells counted each."""
    return max(sum(wiring.inputs * wiring.window for wiring in each.reads(number) if wiring.source == 0)
               for number, each in enumerate(layers, 1))


def _input_scales(inputs: int, rows: np.ndarray) -> list[int]:
    """Scales of the inputs that are worth a trial: the exact one, else the finest that fits and two coarser."""
    most = float(np.abs(rows.astype(np.float64)).max(initial=0.0))
    room = largest_input(inputs) / (HEADROOM * max(most, 2.0**-30))
    if room <= 0:
        raise JobError(f"a first layer of {inputs} inputs is too wide for a batch proof; proof.system: ezkl")
    finest = math.floor(math.log2(room))
    exact = exact_bits(rows)
    if exact is not None and exact <= finest:
        return [exact]
    return [finest, finest - 2, finest - 4]


class _Search:
    """Scales of all layers for one scale of the inputs, by coordinate descent on the largest deviation.

    every: all sample rows, of which ``rows`` are those to try on.
    """

    def __init__(self, dense: Sequence[FloatLayer], every: np.ndarray, rows: np.ndarray, truth: np.ndarray, input_scale: int, plain: bool = False) -> None:
        self.dense, self.truth, self.input_scale, self.plain = dense, truth, input_scale, plain
        self.x = quantised(rows, input_scale)
        most = np.abs(quantised(every, input_scale)).max(initial=0)
        self.limit = int(min(largest_input(_inputs_read(dense)), max(1, HEADROOM * most)))
        self.targets = run(dense, rows)[1]
        arrays, sums = run(dense, every)
        self.most = [float(np.abs(a).max(initial=0.0)) or 1.0 for a in arrays[1:]]
        self.spans = [(float(z.min(initial=0.0)), float(z.max(initial=0.0))) for z in sums]
        by_table = sum(each.activation is not None for each in dense)
        self.table_bits = min(TABLE_BITS, bits(MOST_TABLE_NUMBERS) - bits(max(1, by_table)))
        self.tied = tied(dense)

    def best(self, sweeps: int) -> tuple[float, list[_Scales]]:
        """The least deviation and its scales, after so many sweeps over all layers. Raises JobError where no scales give a model that the protocol has."""
        chosen: list[_Scales] = []
        made: _Made | None = _Made([], [self.x])
        for number in range(len(self.dense)):  # from the front, each held to its own values in float
            chosen.append(self._choose(number, chosen, made))
            made = made and self._continued(made, chosen)
        whole = self._deviation(made, chosen)
        for _ in range(sweeps):
            before = whole
            for number in range(len(self.dense)):
                for other in self._options(number, chosen[:number]):
                    trial = [*chosen[:number], other, *chosen[number + 1 :]]
                    other_made = self._continued(made.until(number) if made else _Made([], [self.x]), trial)
                    if (found := self._deviation(other_made, trial)) < whole:
                        chosen, whole, made = trial, found, other_made
            if not whole < before:
                break
        if not math.isfinite(whole):
            raise JobError(self._problem(chosen))
        return whole, chosen

    def _options(self, number: int, before: Sequence[_Scales]) -> Iterator[_Scales]:
        """What is tried for a layer: weights, or activations, that fill their bits, or as they are."""
        each = self.dense[number]
        largest = float((np.abs(each.weights) / self._divisors(number, before)[:, None]).max(initial=0.0)) or 1.0
        plain = math.floor(math.log2((WEIGHT_HIGH + 0.49) / largest))
        if number == len(self.dense) - 1:
            yield from (_Scales(plain - d, 0, 1.0) for d in (0, 1))
            return
        filled = (WEIGHT_HIGH + 0.49) / largest / 2.0**plain
        if each.activation is not None:
            yield from self._table_options(number, before, (1.0,) if number + 1 in self.tied else (1.0, filled), largest)
            return
        top = ACTIVATION_MAX * FILLED / self.most[number]
        factors = (1.0, filled, top / 2.0 ** math.floor(math.log2(top)))
        alone = number + 1 in self.tied or np.isin(np.abs(each.weights), (0, 1)).all()  # as they are, differences are exact
        for factor in factors[:1] if alone else factors[:2] if self.plain else factors:
            fine = math.floor(math.log2(WEIGHT_HIGH + 0.49) - math.log2(largest * factor) + 1e-9)
            kept = math.floor(math.log2(top / factor) + 1e-9)
            yield from (_Scales(fine - d, kept - e, factor) for d in (0, 1) for e in (0, 1))

    def _table_options(self, number: int, before: Sequence[_Scales], factors: Sequence[float], largest: float) -> Iterator[_Scales]:
        """What is tried for a layer behind which is a table: as fine as it can be where the function is not flat, and coarser."""
        each = self.dense[number]
        assert each.activation is not None
        # As far as the sums may lie, but for values that are so much larger than the sample rows' that these would be left few of 8 bits.
        low, high, top = (*(HEADROOM * value for value in self.spans[number]), self.most[number] / STEEP_FILLED)
        if self.plain:  # of the rows not more than powers of two
            low, high, top = (math.copysign(2.0 ** math.ceil(math.log2(abs(value))), value) if value else 0.0 for value in (low, high, top))
        reach, most = steep(each, low, high, top)
        kept = math.floor(math.log2(ACTIVATION_MAX / most))
        given = kept, 1.0 if number + 1 in self.tied else ACTIVATION_MAX / most / 2.0**kept
        for factor in factors:
            fine = math.floor(math.log2(WEIGHT_HIGH + 0.49) - math.log2(largest * factor) + 1e-9)
            places = self.table_bits - 1 + math.floor(-math.log2(reach * factor) + 1e-9)
            for weight in (fine, fine - 1):
                finest = min(places, self._scale(self._first(number), before) + weight - 1)  # a shift of 1 at least
                for activation in (finest, finest - 1, finest - 3):
                    yield _Scales(weight, activation, factor, numbers(each, activation, factor, reach, given, self.table_bits), given)

    def _choose(self, number: int, before: list[_Scales], so_far: _Made | None) -> _Scales:
        """The scales of a layer with which its own values come out best, given the layers before it."""
        found: list[tuple[float, _Scales]] = []
        each, last = self.dense[number], number == len(self.dense) - 1
        wanted = self.targets[number] if last else each.activated(self.targets[number])
        for option in self._options(number, before):
            made = so_far and self._continued(so_far, [*before, option])
            error = math.inf
            if made is not None:
                scale, factor = (self._scale_of_sums(number, [*before, option]), 1.0) if last else option.values
                value = made.arrays[-1] * 2.0**-scale / factor
                error = float(np.square(value - wanted).mean())
            found.append((error, option))
        return min(found, key=lambda each: each[0])[1]

    def _scale(self, array: int, scales: Sequence[_Scales]) -> int:
        """The scale of an array's values."""
        return scales[array - 1].values[0] if array else self.input_scale

    def _first(self, number: int) -> int:
        """The array beside whose scale that of a layer's weights is counted: the first it reads."""
        return self.dense[number].reads(number + 1)[0].source

    def _divisors(self, number: int, scales: Sequence[_Scales]) -> np.ndarray:
        """Of each input of a layer (K,) what its weights are divided by, because arrays have factors and scales of their own."""
        found = []
        for wiring in self.dense[number].reads(number + 1):
            factor = scales[wiring.source - 1].values[1] if wiring.source else 1.0
            finer = self._scale(self._first(number), scales) - self._scale(wiring.source, scales)
            found.append(np.full(wiring.inputs, factor * 2.0**-finer))
        return np.concatenate(found)

    def _scale_of_sums(self, number: int, scales: Sequence[_Scales]) -> int:
        return self._scale(self._first(number), scales) + scales[number].weight

    def _layer(self, number: int, scales: Sequence[_Scales], arrays: Sequence[np.ndarray],
               compensated: bool) -> tuple[IntegerLayer, np.ndarray] | None:
        """A layer in integers, its bias corrected on what it is given, arrays (S, features), and its sums z (S, M) int64; None where
        something is out of range."""
        mine, last = scales[number], number == len(self.dense) - 1
        scale = self._scale_of_sums(number, scales)
        shift = 0 if last else scale - mine.activation
        if not last and not 1 <= shift <= MOST_SHIFT:
            return None
        each, through = self.dense[number], 1.0 if last else mine.factor
        weights = each.weights * (through / self._divisors(number, scales) * 2.0**mine.weight)[:, None]
        wirings, residual, added = each.reads(number + 1), None, 0
        if each.residual is not None:
            exponent = scale - self._scale(each.residual, scales)
            if not 0 <= exponent <= MOST_SHIFT:
                return None
            residual, added = (each.residual, exponent), arrays[each.residual] * 2.0**exponent
        if compensated:
            weights = compensated_weights(weights, mean_products(wirings, arrays))
        else:
            weights = np.clip(np.rint(weights), WEIGHT_LOW, WEIGHT_HIGH)
        bias = each.bias * through * 2.0**scale
        sums = (products(wirings, arrays, weights) + added).reshape(-1, len(bias))
        if not self.plain:
            bias = bias + ((self.targets[number] * through * 2.0**scale).reshape(-1, len(bias)) - bias - sums).mean(axis=0)
        bias = np.rint(bias)
        if not (np.abs(bias) <= BIAS_HIGH).all():
            return None
        z = (sums.astype(np.int64) + bias.astype(np.int64)).reshape(len(self.x), -1)
        made = layer(weights, bias, shift, each.wirings, residual, mine.table)
        return replace(made, units=mine.units) if mine.table else made, z

    def _continued(self, made: _Made, scales: Sequence[_Scales], compensated: bool = False) -> _Made | None:
        """The integer layers of these scales, those after ``made`` made; None where something is out of range."""
        layers, arrays = list(made.layers), list(made.arrays)
        for number in range(len(layers), len(scales)):
            found = self._layer(number, scales, arrays, compensated)
            if found is None:
                return None
            layers.append(found[0])
            arrays.append(found[0].activated(found[1]) if found[0].shift else found[1])
        return _Made(layers, arrays)

    def _model(self, made: _Made, output_scale: int) -> IntegerModel:
        return IntegerModel(tuple(made.layers), self.input_scale, output_scale, -self.limit, self.limit)

    def model(self, scales: Sequence[_Scales], compensated: bool = False) -> IntegerModel | None:
        """The integer model of these scales; None where something is out of range."""
        made = self._continued(_Made([], [self.x]), scales, compensated)
        return None if made is None else self._model(made, self._scale_of_sums(len(scales) - 1, scales))

    def _deviation(self, made: _Made | None, scales: Sequence[_Scales]) -> float:
        """Largest deviation of the outputs; infinite where the protocol has no key for such a model."""
        if made is None:
            return math.inf
        scale = self._scale_of_sums(len(scales) - 1, scales)
        if fits(self._model(made, scale)):
            return math.inf
        return float(np.abs(made.arrays[-1] * 2.0**-scale - self.truth).max(initial=0.0))

    def _problem(self, scales: Sequence[_Scales]) -> str:
        """Why these scales give no model, and which layer's it is."""
        model = self.model(scales)
        if model is not None:
            return fits(model)
        number = next(n for n in range(len(scales)) if self._continued(_Made([], [self.x]), scales[: n + 1]) is None)
        scale, residual = self._scale_of_sums(number, scales), self.dense[number].residual
        shift, last = scale - scales[number].activation, number == len(scales) - 1
        if not last and not 1 <= shift <= MOST_SHIFT:
            return (f"layer {number + 1}: its sums would be divided by 2^{shift} for activations of 8 bits, and 2^1 to 2^{MOST_SHIFT} are allowed: its weights are "
                    f"too {'small' if shift > 0 else 'large'} beside its values")
        if residual is not None and not 0 <= scale - self._scale(residual, scales) <= MOST_SHIFT:
            return f"layer {number + 1}: its sums and the values of layer {residual} that are added to them are of too different sizes"
        return f"layer {number + 1}: a bias is too large beside the weights"


def _off(gap: np.ndarray) -> float:
    """What models are compared by at the end: the largest deviation and four times the root mean square, which says more of unseen rows."""
    return float(np.abs(gap).max(initial=0.0) + 4 * np.sqrt(np.square(gap).mean()))


def _widened(model: IntegerModel) -> IntegerModel:
    """The model with as wide a range of inputs as costs next to nothing, and as cannot wrap."""
    tables = 1 + len({each.table for each in model.layers if each.table})
    most = largest_input(_inputs_read(model.layers))
    free = max(model.range_bits, min(FREE_RANGE_BITS, bits(FREE_ENTRIES) - 1 - bits(tables)))
    while model.input_high < most:
        high = min(2 * model.input_high, most)
        wider = replace(model, input_low=-high, input_high=high)
        if fits(wider) or wider.range_bits > free:
            break
        model = wider
    return model
