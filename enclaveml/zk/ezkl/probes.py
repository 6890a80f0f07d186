"""What a scale and a multiplier do to a model: deviation, range of values and of lookups, on a few sample rows.

Trials here cost about a microsecond a cell of the circuit, so a large model is probed with fewer rows, and a
decomposition wide enough for any value has few legs with a large base (what a trial costs grows with the legs;
no table is laid out for it). What is chosen is tried on all sample rows afterwards (``search.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from enclaveml.errors import ProofError
from enclaveml.zk.ezkl.bench import Bench, Trial
from enclaveml.zk.ezkl.plan import Choice, Numerics

MULTIPLIERS = (1, 2, 3, 4, 6, 8)

#: Inputs of whole multiples of 2^-n, n at most this, are tried at scale n: narrower values, no loss.
MAX_EXACT_BITS = 8

#: A decomposition wide enough for any probe: base and legs, and its bits.
WIDE = (1 << 14, 4)
_WIDE_BITS = 56
_LEG_BITS = 14

#: Rows that are probed, and cells of a circuit for which they are halved (to a quarter of MOST_ROWS at least).
MOST_ROWS = 32
PROBE_CELLS = 1 << 20


@dataclass(frozen=True)
class Probe:
    """What one scale and multiplier do to the model: deviation, bits to decompose, lookup range.

    ``flips``: probe rows whose argmax is not the float model's. ``gaps`` (n, D): |witness - float| of the probe rows.
    """

    numerics: Numerics
    deviation: float
    bits: float
    lookup: tuple[int, int]
    flips: int = 0
    gaps: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Multiplier:
    """A multiplier that gives a circuit of its own: its rows at 4 rows a proof, how many kinds of lookup it has."""

    multiplier: int
    rows: int
    lookups: int


def deviation(trial: Trial, truth: np.ndarray) -> float:
    """Largest |witness - float|; infinite where either is not a number."""
    gap = np.abs(trial.outputs - truth)
    return float(gap.max(initial=0.0)) if np.all(np.isfinite(gap)) else math.inf


def flips(trial: Trial, truth: np.ndarray) -> int:
    """Rows whose witness has another argmax than the float model's output."""
    return int((np.argmax(trial.outputs, axis=1) != np.argmax(truth, axis=1)).sum())


def exact_bits(rows: np.ndarray) -> int | None:
    """The least n, 1 at least, with every value a whole multiple of 2^-n; None above MAX_EXACT_BITS."""
    if not np.issubdtype(rows.dtype, np.floating):
        return None
    for bits in range(1, MAX_EXACT_BITS + 1):
        scaled = rows.astype(np.float64) * 2.0**bits
        if np.array_equal(scaled, np.round(scaled)):
            return bits
    return None


def range_of(bits: int) -> tuple[int, int]:
    """(base, legs) that hold values of so many bits, and hardly more, in as few legs as a probe takes."""
    legs = max(1, math.ceil(bits / _LEG_BITS))
    return math.ceil(2.0 ** (bits / legs)), legs


class Probing:
    """Probes of one model on sample rows (S, ...) with ``truth`` (S, D) float64; ``failures``: what gave no witness."""

    def __init__(self, bench: Bench, rows: np.ndarray, truth: np.ndarray) -> None:
        self.bench, self.rows, self.truth = bench, rows, truth
        self.failures: list[str] = []
        self._most_rows = MOST_ROWS

    def choice(self, numerics: Numerics) -> Choice:
        """The wide choice at which these numerics are probed."""
        return Choice(numerics, *WIDE, inner=2, logrows=16, rows=max(2, min(self._most_rows, len(self.rows))))

    def multipliers(self, like: Numerics) -> list[Multiplier]:
        """The multipliers that give different circuits at these scales, fewest rows first.

        A larger multiplier means fewer divisions and wider values. Without lookups (whose tables
        wide values blow up) those with half as many rows again as the least come last.
        """
        found: dict[tuple, Multiplier] = {}
        for multiplier in MULTIPLIERS:
            settings = self.bench.settings(self.choice(replace(like, multiplier=multiplier)), rows=4)
            what = (settings["num_rows"], settings["model_output_scales"][0], str(settings["required_lookups"]))
            found.setdefault(what, Multiplier(multiplier, settings["num_rows"], len(settings["required_lookups"])))
        ordered = sorted(found.values(), key=lambda m: (m.rows, m.multiplier))
        cells = 2 * ordered[-1].rows / 4  # of one row of data, in the two inner columns of a probe
        while self._most_rows > MOST_ROWS // 4 and self._most_rows * cells > PROBE_CELLS:
            self._most_rows //= 2
        near = [m for m in ordered if m.lookups or m.rows <= 1.5 * ordered[0].rows]
        return near + [m for m in ordered if m not in near]

    def look(self, numerics: Numerics) -> Trial | None:
        """A trial of the probe rows; None, with the reason in ``failures``, where they give no witness."""
        choice = self.choice(numerics)
        try:
            return self.bench.trial(choice, self.rows[: choice.rows])
        except ProofError as error:
            self.failures.append(f"scale {numerics.scale}, multiplier {numerics.multiplier}: {error}")
            return None

    def line(self, trials: dict[Numerics, Trial], guess: int | None = None) -> list[Probe]:
        """Probes of trials whose numerics differ in the weights' scale alone.

        Values grow by a whole number of bits a scale step: two measurements give the line.
        """
        low, high = (end(trials, key=lambda n: n.scale) for end in (min, max))
        most = self._bits(high, guess)
        step = 1 if high.input_scale == low.input_scale else 2  # as in a model of two layers
        least = most if low == high else most and self._bits(low, max(1, most - step * (high.scale - low.scale)))
        if least is None or most is None:
            self.failures.append(f"multiplier {low.multiplier}: values exceed any decomposition")
            return []
        slope = (most - least) / max(1, high.scale - low.scale)
        return [
            Probe(
                numerics, deviation(trial, self.truth[: len(trial.outputs)]),
                least + slope * (numerics.scale - low.scale), trial.lookup,
                flips(trial, self.truth[: len(trial.outputs)]),
                np.abs(trial.outputs - self.truth[: len(trial.outputs)]),
            )
            for numerics, trial in trials.items()
        ]

    def _bits(self, numerics: Numerics, guess: int | None) -> int | None:
        """The least r such that values of the probe rows, which gave a witness, fit into a decomposition of r bits.

        By steps that double from a ``guess``, then by halves: a good guess takes two trials, of which the one
        that fails is cheap.
        """
        choice = self.choice(numerics)
        rows = self.rows[: choice.rows]

        def fits(bits: int) -> bool:
            base, legs = range_of(bits)
            try:
                self.bench.trial(replace(choice, base=base, legs=legs), rows)
            except ProofError:
                return False
            return True

        low, high = 1, _WIDE_BITS  # at which the trial was made
        at, step = guess or _WIDE_BITS // 2, 1
        while low < high:
            at = min(max(at, low), high - 1)
            if fits(at):
                high, at = at, at - step
            else:
                low, at = at + 1, at + step
            step *= 2
            if low <= 1 or high >= _WIDE_BITS:
                continue  # one side is still open: go on from the guess
            at = (low + high) // 2
        return low
