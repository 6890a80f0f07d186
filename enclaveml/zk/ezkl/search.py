"""The search for a circuit: probe scales and multipliers, lay candidates out, try the cheapest.

The numbers that the pure :mod:`plan` ranks come from here, by trials through :class:`Bench`.

What keeps the search short for a model of many lookups and divisions, and what that may miss:

- Probes are of few rows (:mod:`probes`). A candidate's first trial is of FIRST_ROWS sample rows, and only one
  that holds these is tried on all.
- A multiplier whose cheapest conceivable layout is predicted dearer, by more than the prediction may be wrong,
  than one already found is probed no further. Multipliers whose lookups are widest (they need the longest
  tables) come last. Where what was found holds the sample rows after all at no scale, the others are probed.
- After BUDGET CPU seconds of trials no more multipliers are probed, if there is a plan to try; after twice that
  the search ends, with an error where nothing holds the sample rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from enclaveml.errors import JobError, ProofError
from enclaveml.zk.ezkl import cost, plan
from enclaveml.zk.ezkl.bench import Bench, Trial
from enclaveml.zk.ezkl.layouts import Layouts, table_range
from enclaveml.zk.ezkl.plan import Candidate, Numerics
from enclaveml.zk.ezkl.probes import MULTIPLIERS, Multiplier, Probe, Probing, deviation, exact_bits, flips
from enclaveml.zk.ezkl.tolerance import another_function
from enclaveml.zk.interface import DEFAULT_TOLERANCE, CircuitRequest

SCALES = (13, 12, 10, 8)
FINE_SCALES = (16, 14)  # only where 13 is not accurate enough
EXACT_SCALES = (16, 14, 13, 12, 10)  # of weights, where the inputs' scale is less

#: Sample rows of a candidate's first trial.
FIRST_ROWS = 32

#: CPU seconds of trials after which the search takes what it has.
BUDGET = 300.0


class NoWitness(JobError):
    """The sample rows have no witness at any scale and multiplier."""


class Search:
    """The search for one model and request. ``rows`` (S, ...) sample rows, ``truth`` (S, D) float64.

    headroom: bits that values on unseen rows may exceed those on the sample rows. input_scale: the inputs' scale, where
    it is given and not the search's to choose. whole: the model is no slice of one. thorough: probe every
    multiplier, for a caller that lays out with other headroom. ``refused``: numerics that do not keep what is
    asked on all sample rows, and why; ``agreed``: the most that any of those that fell short of
    ``proof.agreement`` agreed; ``outputs``: of each numerics that hold all sample rows, the witnesses' (S, D).
    """

    def __init__(
        self, bench: Bench, request: CircuitRequest, rows: np.ndarray, truth: np.ndarray,
        progress: plan.Progress, headroom: int = plan.HEADROOM_BITS, thorough: bool = False,
        input_scale: int | None = None, whole: bool = True,
    ) -> None:
        self.bench, self.request, self.progress = bench, request, progress
        self.input_scale = input_scale
        self.rows, self.truth = rows, truth
        self.probing = Probing(bench, rows, truth)
        self.layouts = Layouts(bench, request, rows)
        self.found: list[Probe] = []
        self.limit = DEFAULT_TOLERANCE if request.tolerance is None else request.tolerance
        self.margin = 0.0  # deviation * margin <= limit, on every sample row
        self.headroom, self.thorough, self.whole = headroom, thorough, whole
        self.refused: dict[Numerics, str] = {}
        self.agreed: float | None = None
        self.outputs: dict[Numerics, np.ndarray] = {}
        self._best = math.inf  # predicted seconds of the cheapest accurate layout so far
        self._passed_over = False
        self._looked: dict[Numerics, Trial] = {}

    def settings_of(self, probe: Probe) -> dict:
        """ezkl's settings at a probe's numerics, for few rows."""
        return self.bench.settings(self.probing.choice(probe.numerics), rows=4)

    def probes(self, scales: tuple[int, ...]) -> list[Probe]:
        """Scales and multipliers that make a witness at all, but for multipliers that are too dear."""
        found: list[Probe] = []
        for one in self._ordered(scales):
            if self._enough(found, one.multiplier) or (self._spent(1) and math.isfinite(self._best)):
                break
            found += self._line([self._numerics(scale, one.multiplier) for scale in scales])
        exact = exact_bits(self.rows) if self.input_scale is None else None
        if scales is SCALES and exact is not None and exact < min(EXACT_SCALES) and not self._spent(1):
            # their values are never divided down to the inputs' coarse scale
            multiplier = math.ceil(MULTIPLIERS[-1] * max(EXACT_SCALES) / exact)
            found += self._line([Numerics(scale, multiplier, exact) for scale in EXACT_SCALES])
        return found

    def _numerics(self, scale: int, multiplier: int) -> Numerics:
        return Numerics(scale, multiplier, scale if self.input_scale is None else self.input_scale)

    def _ordered(self, scales: tuple[int, ...]) -> list[Multiplier]:
        """The multipliers, most promising first. With lookups that takes a look at each at the coarsest scale."""
        several = self.probing.multipliers(self._numerics(scales[0], 1))
        if not any(one.lookups for one in several):
            return several
        rank: dict[int, float] = {}
        for one in several:
            numerics = self._numerics(min(scales), one.multiplier)
            if trial := self._look(numerics):
                rank[one.multiplier] = self.layouts.least_seconds(numerics, trial.lookup, self.headroom)
        return sorted((one for one in several if one.multiplier in rank), key=lambda one: rank[one.multiplier])

    def _look(self, numerics: Numerics) -> Trial | None:
        """A trial of the probe rows, made once; None where they give no witness, or one that no table holds."""
        if numerics not in self._looked and (trial := self.probing.look(numerics)):
            low, high = table_range(trial.lookup, self.headroom)
            if high - low >= cost.usable_rows(plan.MAX_LOGROWS):
                self.probing.failures.append(
                    f"scale {numerics.scale}, multiplier {numerics.multiplier}: lookups reach {trial.lookup}, which no "
                    f"table of 2^{plan.MAX_LOGROWS} rows holds"
                )
            else:
                self._looked[numerics] = trial
        return self._looked.get(numerics)

    def _line(self, several: list[Numerics]) -> list[Probe]:
        """Probes of numerics that differ in the weights' scale alone; those that are too dear are left out."""
        known = {probe.numerics: probe for probe in self.found}
        trials: dict[Numerics, Trial] = {}
        for numerics in sorted(several, key=lambda n: n.scale):
            trial = None if numerics in known else self._look(numerics)
            if trial is None:
                continue
            if not self.thorough and self.layouts.least_seconds(
                numerics, trial.lookup, self.headroom
            ) > self._best * (1 + cost.ERROR):
                self._passed_over = True
                self.progress(f"scale {numerics.input_scale}+{numerics.scale} and finer at multiplier "
                              f"{numerics.multiplier}: dearer than what was found, by prediction")
                break
            trials[numerics] = trial
        if not trials:
            return []
        top = max(trials, key=lambda n: n.scale)
        near = [p for p in self.found if p.numerics.scale == top.scale and p.numerics.input_scale == top.input_scale]
        line = self.probing.line(trials, math.ceil(near[-1].bits) if near else None)
        within = [p for p in line if p.deviation * 2 <= self.limit and self._may_agree(p)]
        laid = [c for p in within for c in self.layouts.of(p, self.headroom)]
        self._best = min([self._best, *(c.job_seconds for c in self.layouts.that_fit(laid))])
        self.found += line
        self.progress(
            f"multiplier {top.multiplier}, scales {', '.join(f'{n.input_scale}+{n.scale}' for n in trials)}: "
            f"{len(within)} of {len(line)} accurate; {self.bench.spent:.0f} CPU s of trials so far"
        )
        return line

    def _spent(self, times: float) -> bool:
        return self.bench.spent > times * BUDGET

    def _enough(self, found: list[Probe], multiplier: int) -> bool:
        """Whether dearer multipliers need no probing: a cheap one without lookups is accurate."""
        return any(
            p.lookup == (0, 0) and p.deviation * 2 <= self.limit and p.numerics.multiplier != multiplier
            and self._may_agree(p) for p in found
        )

    def _may_agree(self, probe: Probe) -> bool:
        """Whether all sample rows can still agree as asked: what the probe rows flipped is flipped among all."""
        return 1 - probe.flips / len(self.rows) >= self.request.agreement

    def why_none(self) -> str:
        """Why no candidate was tried to the end, after :meth:`tried` gave none."""
        if self.agreed is not None:
            return self.disagreement()
        ended = f"the search ended after {self.bench.spent:.0f} CPU s: give proof.scale" if self._spent(2) else ""
        return f"no circuit for this model holds the sample rows ({ended or 'values exceed every decomposition tried'})"

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
        Raises JobError with the numbers when a given tolerance cannot be met, and where what is off is no rounding.
        """
        request = self.request
        scales = (request.scale,) if request.scale is not None else SCALES
        limit = self.limit
        found = self.probes(scales)
        if request.scale is None and not any(p.deviation * 2 <= limit and self._may_agree(p) for p in found):
            found += self.probes(FINE_SCALES)
        finite = [p for p in found if math.isfinite(p.deviation)]
        if not finite:
            reason = (self.probing.failures or ["its outputs are not finite"])[-1]
            raise NoWitness(f"the model cannot be proved: no witness of the sample rows ({reason})")
        off = not self.whole or any(p.deviation <= limit and self._may_agree(p) for p in finite)
        if not off and (why := another_function(self.bench, finite, self.rows, self.truth, limit)):
            raise JobError(f"the model cannot be proved: {why}")
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
        found = [candidate for probe in probes for candidate in self.layouts.of(probe, self.headroom)]
        return plan.ranked(self.layouts.fitting(self.layouts.within_srs(found)))

    def refuse_too_large(self) -> None:
        """Raise JobError, before any trial, where no layout fits memory even with the narrowest decomposition."""
        self.layouts.refuse_too_large(SCALES[-1] if self.request.scale is None else self.request.scale)

    def tried(self, ordered: list[Candidate]) -> Iterator[tuple[Candidate, dict]]:
        """Candidates that hold the sample rows with headroom, with their exact settings, best first.

        Where none does: of the multipliers that were passed over, and then, where all fall short of the
        agreement asked for, of finer scales.
        """
        yielded = False
        for candidate in self._tried(ordered):
            yielded = True
            yield candidate
        if yielded or self._spent(2):
            return
        if self._passed_over and not self.thorough:
            self.thorough, self._best = True, math.inf  # that was of plans which did not hold
            yield from self._those_fit(self.probes(SCALES if self.request.scale is None else (self.request.scale,)))
        scales = {probe.numerics.scale for probe in self.found}
        if self.outputs or self.agreed is None or self.request.scale is not None or not scales.isdisjoint(FINE_SCALES[:1]):
            return
        self._best = math.inf
        yield from self._those_fit(self.probes(FINE_SCALES))

    def _those_fit(self, more: list[Probe]) -> Iterator[tuple[Candidate, dict]]:
        """Candidates of further probes that hold the sample rows, of those that are accurate."""
        if fit := [p for p in more if p.deviation * self.margin <= self.limit and self._may_agree(p)]:
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
                if self._spent(2):
                    self.progress(f"the search ends after {self.bench.spent:.0f} CPU s of trials")
                    return
                problem = self.problem(candidate)
                if problem is None:
                    holds[values] = bits
                else:
                    text, lasting = problem
                    self.progress(f"plan {candidate}: {text}")
                    too_small[values] = math.inf if lasting else bits
                    continue
            settings = self.bench.settings(choice)
            blocks = cost.blocks(settings["num_rows"], choice.logrows)
            if blocks > candidate.blocks and self.request.rows_per_proof is not None:
                candidate = replace(candidate, blocks=blocks)  # asked for so many rows: more columns, not fewer rows
            elif blocks > candidate.blocks:
                choice = replace(choice, rows=max(2, math.floor(choice.rows * 0.97)))
                candidate, settings = replace(candidate, choice=choice), self.bench.settings(choice)
            yield candidate, settings

    def problem(self, candidate: Candidate) -> tuple[str, bool] | None:
        """Why a candidate does not hold the sample rows with headroom, and whether more range would not help."""
        choice = candidate.choice
        # the same values in so much less range: the headroom over the sample rows
        narrow = replace(
            choice, base=math.floor(choice.base * 2.0 ** (-self.headroom / choice.legs)), rows=max(2, min(64, choice.rows))
        )
        outputs = np.empty((0, self.truth.shape[1]))
        for end in sorted({min(FIRST_ROWS, len(self.rows)), len(self.rows)}):
            try:
                trial = self.bench.trial(narrow, self.rows[len(outputs) : end])
            except ProofError as error:
                return f"sample rows need more range ({error})", False
            outputs = np.concatenate([outputs, trial.outputs])
            so_far = Trial(outputs, trial.lookup)
            if (off := deviation(so_far, self.truth[:end])) * self.margin > self.limit:
                return f"deviation {off:.2g} leaves no margin", True
            if (agreed := 1 - flips(so_far, self.truth[:end]) / len(self.rows)) < self.request.agreement:
                self.agreed = max(agreed, self.agreed or 0.0)
                self.refused[choice.numerics] = f"argmax agreement {agreed:.4f}"
                return f"argmax agreement {agreed:.4f}, less than proof.agreement {self.request.agreement:g}", True
        self.outputs[choice.numerics] = outputs
        return None
