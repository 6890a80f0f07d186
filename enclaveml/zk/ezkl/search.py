"""The search for a circuit: probe scales and multipliers, lay candidates out, try the cheapest.

The numbers that the pure :mod:`plan` ranks come from here, by trials through :class:`Bench`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.srs_file import logrows_of
from enclaveml.zk.ezkl import cost, plan
from enclaveml.zk.ezkl.bench import Bench, Trial
from enclaveml.zk.ezkl.plan import Candidate, Choice, Numerics
from enclaveml.zk.interface import CircuitRequest

SCALES = (13, 12, 10, 8)
FINE_SCALES = (16, 14)  # only where 13 is not accurate enough
EXACT_SCALES = (16, 14, 12, 10)  # of weights, where the inputs' scale is less
MULTIPLIERS = (1, 2, 3, 4, 6, 8)
INNER = (1, 2, 3)
MAX_LEGS = 5

#: Inputs of whole multiples of 2^-n, n at most this, are tried at scale n: narrower values, no loss.
MAX_EXACT_BITS = 8

#: Tolerance where the job gives none and the model is accurate enough.
DEFAULT_TOLERANCE = 0.01

#: Widest range of input values, in fixed point, for which a lookup table is laid out to bound them.
MAX_BOUND_TABLE = 1 << 14

_PROBE_ROWS = 32
_WIDE = (1 << 14, 4)  # a decomposition wide enough for any probe
_WIDE_BITS = 56


@dataclass(frozen=True)
class Probe:
    """What one scale and multiplier do to the model: deviation, bits to decompose, lookup range.

    ``flips``: probe rows whose argmax is not the float model's.
    """

    numerics: Numerics
    deviation: float
    bits: float
    lookup: tuple[int, int]
    flips: int = 0


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


class Search:
    """The search for one model and request. ``rows`` (S, ...) sample rows, ``truth`` (S, D) float64.

    headroom: bits that values on unseen rows may exceed those on the sample rows. ``refused``: numerics
    that do not keep what is asked on all sample rows, and why; ``agreed``: the most that any of those
    that fell short of ``proof.agreement`` agreed.
    """

    def __init__(
        self, bench: Bench, request: CircuitRequest, rows: np.ndarray, truth: np.ndarray,
        progress: plan.Progress, headroom: int = plan.HEADROOM_BITS,
    ) -> None:
        self.bench, self.request, self.progress = bench, request, progress
        self.rows, self.truth = rows, truth
        self.failures: list[str] = []
        self.found: list[Probe] = []
        self.limit = DEFAULT_TOLERANCE if request.tolerance is None else request.tolerance
        self.margin = 0.0  # deviation * margin <= limit, on every sample row
        self.headroom = headroom
        self.refused: dict[Numerics, str] = {}
        self.agreed: float | None = None

    def _probe_choice(self, numerics: Numerics) -> Choice:
        rows = max(2, min(_PROBE_ROWS, len(self.rows)))
        return Choice(numerics, *_WIDE, inner=2, logrows=16, rows=rows)

    def settings_of(self, probe: Probe) -> dict:
        """ezkl's settings at a probe's numerics, for few rows."""
        return self.bench.settings(self._probe_choice(probe.numerics), rows=4)

    def multipliers(self, scale: int) -> list[int]:
        """The multipliers that give different circuits at this scale, cheapest first.

        A larger multiplier means fewer divisions and wider values. Without lookups (whose tables
        wide values blow up) those with half as many rows again as the least are left out.
        """
        settings: dict[tuple, tuple[int, int, int]] = {}
        for multiplier in MULTIPLIERS:
            found = self.bench.settings(self._probe_choice(Numerics(scale, multiplier, scale)), rows=4)
            lookups = len(found["required_lookups"])
            what = (found["num_rows"], found["model_output_scales"][0], str(found["required_lookups"]))
            settings.setdefault(what, (found["num_rows"], multiplier, lookups))
        ordered = sorted(settings.values())
        return [
            multiplier for rows, multiplier, lookups in ordered if lookups or rows <= 1.5 * ordered[0][0]
        ] + [m for rows, m, lookups in ordered if not lookups and rows > 1.5 * ordered[0][0]]

    def _bits(self, numerics: Numerics, guess: int | None = None) -> int | None:
        """The least r such that values of the probe rows fit into a decomposition of r bits; None above 56.

        A good ``guess`` saves trials.
        """
        probe = self._probe_choice(numerics)
        rows = self.rows[: probe.rows]

        def fits(bits: int) -> bool:
            try:
                self.bench.trial(replace(probe, base=2, legs=bits), rows)
            except ProofError:
                return False
            return True

        low, high = 1, _WIDE_BITS
        if guess is not None and fits(guess):
            high = guess
            if guess == 1 or not fits(guess - 1):
                return guess
        elif not fits(high):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle + 1, high)
        return low

    def probes(self, scales: tuple[int, ...]) -> list[Probe]:
        """Every scale and multiplier that makes a witness at all."""
        found: list[Probe] = []
        for multiplier in self.multipliers(scales[0]):
            if self._enough(found, multiplier):
                break
            found += self._line([Numerics(scale, multiplier, scale) for scale in scales])
        exact = exact_bits(self.rows)
        if scales is SCALES and exact is not None and exact < min(EXACT_SCALES):
            # their values are never divided down to the inputs' coarse scale
            multiplier = math.ceil(MULTIPLIERS[-1] * max(EXACT_SCALES) / exact)
            found += self._line([Numerics(scale, multiplier, exact) for scale in EXACT_SCALES])
        return found

    def _line(self, several: list[Numerics]) -> list[Probe]:
        """Probes of numerics that differ in the weights' scale alone."""
        trials: dict[Numerics, Trial] = {}
        for numerics in several:
            choice = self._probe_choice(numerics)
            try:
                trials[numerics] = self.bench.trial(choice, self.rows[: choice.rows])
            except ProofError as error:
                self.failures.append(f"scale {numerics.scale}, multiplier {numerics.multiplier}: {error}")
        if not trials:
            return []
        # values grow by a whole number of bits a scale step: two measurements give the line
        low, high = (end(trials, key=lambda n: n.scale) for end in (min, max))
        most = self._bits(high)
        step = 1 if high.input_scale == low.input_scale else 2  # as in a model of two layers
        least = most and self._bits(low, max(1, most - step * (high.scale - low.scale)))
        if least is None or most is None:
            self.failures.append(f"multiplier {low.multiplier}: values exceed any decomposition")
            return []
        slope = (most - least) / max(1, high.scale - low.scale)
        return [
            Probe(
                numerics, deviation(trial, self.truth[: len(trial.outputs)]),
                least + slope * (numerics.scale - low.scale), trial.lookup,
                flips(trial, self.truth[: len(trial.outputs)]),
            )
            for numerics, trial in trials.items()
        ]

    def _enough(self, found: list[Probe], multiplier: int) -> bool:
        """Whether dearer multipliers need no probing: a cheap one without lookups is accurate."""
        return any(
            p.lookup == (0, 0) and p.deviation * 2 <= self.limit and p.numerics.multiplier != multiplier
            and self._may_agree(p) for p in found
        )

    def _may_agree(self, probe: Probe) -> bool:
        """Whether all sample rows can still agree as asked: what the probe rows flipped is flipped among all."""
        return 1 - probe.flips / len(self.rows) >= self.request.agreement

    def disagreement(self) -> str:
        """Why the model is refused where no plan keeps the agreement asked for."""
        return (
            f"the model's proved outputs have the argmax of its float outputs on {self.agreed:.4f} of the sample "
            f"rows at best, less than proof.agreement {self.request.agreement:g}; lower proof.agreement (0 where "
            "outputs are no classes), or give a finer proof.scale"
        )

    def accurate(self) -> list[Probe]:
        """The probes within the tolerance, those with a margin of 2 if there are any.

        Without a tolerance: within half the default one, else the most accurate.
        Raises JobError with the numbers when a given tolerance cannot be met.
        """
        request = self.request
        scales = (request.scale,) if request.scale is not None else SCALES
        limit = self.limit
        found = self.probes(scales)
        if request.scale is None and not any(p.deviation * 2 <= limit and self._may_agree(p) for p in found):
            found += self.probes(FINE_SCALES)
        self.found = found
        finite = [p for p in found if math.isfinite(p.deviation)]
        if not finite:
            reason = self.failures[-1] if self.failures else "its outputs are not finite"
            raise JobError(f"the model cannot be proved: no witness of the sample rows ({reason})")
        agreeing = [p for p in finite if self._may_agree(p)]
        if not agreeing and (request.tolerance is None or any(p.deviation <= limit for p in finite)):
            self.agreed = 1 - min(p.flips for p in finite) / len(self.rows)
            raise JobError(self.disagreement())
        finite = agreeing or finite
        for margin in (2.0, 1.0):
            if kept := [p for p in finite if p.deviation * margin <= limit]:
                self.margin = margin
                return kept
        best = min(finite, key=lambda p: p.deviation)
        if request.tolerance is None:
            return [p for p in finite if p.deviation <= best.deviation * 1.5]
        raise JobError(
            f"the model's proved outputs deviate from its float outputs by {best.deviation:.3g} on the sample "
            f"rows (scale {best.numerics.scale}), more than proof.tolerance {request.tolerance:g}; "
            "raise proof.tolerance or make the model less sensitive to rounding"
        )

    def candidates(self, probes: list[Probe]) -> list[Candidate]:
        """Every layout of every accurate probe that fits a child's part of the memory, cheapest job first.

        Raises JobError with what the smallest takes where none does.
        """
        request = self.request
        work = plan.work_of(request)
        rows_of: dict[tuple, tuple[dict, dict]] = {}
        found: list[Candidate] = []
        for probe in probes:
            for bound, bits, (low, high) in self._bounds(probe):
                lookup = (min(low, -1) << self.headroom, max(high, 1) << self.headroom)
                exact = self.bench.settings(
                    Choice(probe.numerics, *_WIDE, inner=2, logrows=16, rows=4, lookup=lookup, bound=bound)
                )
                for base, legs in plan.decompositions(math.ceil(bits + self.headroom), MAX_LEGS):
                    tables = plan.table_lengths(exact, base, lookup)
                    for inner in INNER:
                        same = probe.numerics.input_scale == probe.numerics.scale
                        key = (probe.numerics.multiplier, same, legs, inner, bound)
                        choice = Choice(probe.numerics, base, legs, inner, 16, 4, lookup, bound)
                        if key not in rows_of:  # rows do not depend on the scale, tables do
                            rows_of[key] = self.bench.settings(choice, rows=2), self.bench.settings(choice)
                        found += plan.candidates(
                            choice, plan.footprint(*rows_of[key], tables), work, request.rows_per_proof
                        )
        return plan.ranked(self._fitting(self._within_srs(found), "takes"))

    def refuse_too_large(self) -> None:
        """Raise JobError, before any trial, where no layout fits memory even with the narrowest decomposition."""
        scale = SCALES[-1] if self.request.scale is None else self.request.scale
        work, found = plan.work_of(self.request), []
        for inner in INNER:
            choice = Choice(Numerics(scale, MULTIPLIERS[-1], scale), 2, 1, inner, logrows=16, rows=4)
            shape = plan.footprint(self.bench.settings(choice, rows=2), self.bench.settings(choice), [])
            found += plan.candidates(choice, shape, work, self.request.rows_per_proof)
        self._fitting(found, "takes at least")

    def _fitting(self, found: list[Candidate], takes: str) -> list[Candidate]:
        """The candidates that fit a child's part of the memory; JobError with what the smallest takes if none does."""
        request = self.request
        memory = request.memory_gb * 1e9 / request.children
        if fitting := [candidate for candidate in found if candidate.peak_bytes <= memory]:
            return fitting
        given = f" at {request.rows_per_proof} rows per proof" if request.rows_per_proof else ""
        if not found:
            raise JobError(f"no circuit for this model fits into 2^{plan.MAX_LOGROWS} rows{given}")
        least = min(candidate.peak_bytes for candidate in found) * request.children
        each = f" for {request.children} provers at a time" if request.children > 1 else ""
        raise JobError(
            f"no circuit for this model fits {request.memory_gb:g} GB of memory{given}; the smallest {takes} "
            f"{least / 1e9:.3g} GB{each}, as predicted with a margin"
        )

    def _within_srs(self, found: list[Candidate]) -> list[Candidate]:
        """The layouts for which the SRS at hand is large enough. Raises JobError where there is none such."""
        given = self.request.srs
        if given is None or not found:
            return found
        has = logrows_of(given.path)
        if not (kept := [c for c in found if c.choice.logrows <= has]):
            least = min(c.choice.logrows for c in found)
            raise JobError(
                f"proof.srs: {given.path} has 2^{has} rows; a circuit for this model needs 2^{least} at least: "
                "give a larger file of the same ceremony"
            )
        return kept

    def _bounds(self, probe: Probe) -> list[tuple[str, float, tuple[int, int]]]:
        """The ways to bound the inputs that are worth laying out, each with the bits and lookups that it needs.

        Values do not depend on the way, so that one probe serves for all.
        """
        if not self.request.bounds_inputs:
            return [("", probe.bits, probe.lookup)]
        scaled = self.rows.astype(np.float64) * 2.0**probe.numerics.input_scale
        low, high = math.floor(scaled.min()), math.ceil(scaled.max())
        bits = max(probe.bits, math.log2(max(-low, high) + 1))
        found = [("legs", bits, probe.lookup)]
        ends = min(low, probe.lookup[0]), max(high, probe.lookup[1])
        if np.issubdtype(self.rows.dtype, np.floating) and ends[1] - ends[0] <= MAX_BOUND_TABLE:
            found.append(("table", probe.bits, ends))
        return found

    def tried(self, ordered: list[Candidate]) -> Iterator[tuple[Candidate, dict]]:
        """Candidates that hold the sample rows with headroom, with their exact settings, best first.

        Where all fall short of the agreement asked for, those of finer scales.
        """
        yielded = False
        for candidate in self._tried(ordered):
            yielded = True
            yield candidate
        scales = {probe.numerics.scale for probe in self.found}
        if yielded or self.agreed is None or self.request.scale is not None or not scales.isdisjoint(FINE_SCALES[:1]):
            return
        finer = self.probes(FINE_SCALES)
        self.found += finer
        if fit := [p for p in finer if p.deviation * self.margin <= self.limit and self._may_agree(p)]:
            yield from self._tried(self.candidates(fit))

    def _tried(self, ordered: list[Candidate]) -> Iterator[tuple[Candidate, dict]]:
        too_small: dict[tuple[Numerics, str], float] = {}
        holds: dict[tuple[Numerics, str], float] = {}
        for candidate in ordered:
            choice = candidate.choice
            values = choice.numerics, choice.bound
            bits = choice.legs * math.log2(choice.base)
            if bits <= too_small.get(values, 0.0):
                continue
            if bits < holds.get(values, math.inf):
                # the same values in so much less range: the headroom over the sample rows
                narrow = math.floor(choice.base * 2.0 ** (-self.headroom / choice.legs))
                batch = max(2, min(64, choice.rows))
                try:
                    trial = self.bench.trial(replace(choice, base=narrow, rows=batch), self.rows)
                except ProofError as error:
                    self.progress(f"plan {candidate}: sample rows need more range ({error})")
                    too_small[values] = bits
                    continue
                if (off := deviation(trial, self.truth)) * self.margin > self.limit:
                    self.progress(f"plan {candidate}: deviation {off:.2g} leaves no margin")
                    too_small[values] = math.inf
                    continue
                if (agreed := 1 - flips(trial, self.truth) / len(self.rows)) < self.request.agreement:
                    self.agreed = max(agreed, self.agreed or 0.0)
                    self.refused[choice.numerics] = f"argmax agreement {agreed:.4f}"
                    self.progress(f"plan {candidate}: argmax agreement {agreed:.4f}, less than "
                                  f"proof.agreement {self.request.agreement:g}")
                    too_small[values] = math.inf
                    continue
                holds[values] = bits
            settings = self.bench.settings(choice)
            blocks = cost.blocks(settings["num_rows"], choice.logrows)
            if blocks > candidate.blocks and self.request.rows_per_proof is not None:
                candidate = replace(candidate, blocks=blocks)  # asked for so many rows: more columns, not fewer rows
            elif blocks > candidate.blocks:
                choice = replace(choice, rows=max(2, math.floor(choice.rows * 0.97)))
                candidate, settings = replace(candidate, choice=choice), self.bench.settings(choice)
            yield candidate, settings
