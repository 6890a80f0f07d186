"""Layouts of a model's probes: what fits memory and the SRS, with its predicted time; cheapest first."""

from __future__ import annotations

import math

import numpy as np

from enclaveml.errors import JobError
from enclaveml.srs_file import logrows_of
from enclaveml.zk.ezkl import plan
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.plan import Candidate, Choice, Numerics
from enclaveml.zk.ezkl.probes import MULTIPLIERS, WIDE, Probe
from enclaveml.zk.interface import CircuitRequest

INNER = (1, 2, 3)
MAX_LEGS = 5

#: Widest range of input values, in fixed point, for which a lookup table is laid out to bound them.
MAX_BOUND_TABLE = 1 << 14


class TooLarge(JobError):
    """No layout of a circuit for this model fits the memory at hand, or 2^MAX_LOGROWS rows."""


class Layouts:
    """Layouts for one model and request; ``rows`` (S, ...) are the sample rows."""

    def __init__(self, bench: Bench, request: CircuitRequest, rows: np.ndarray) -> None:
        self.bench, self.request, self.rows = bench, request, rows
        self._work = plan.work_of(request)
        self._needs: dict[tuple, tuple[dict, dict]] = {}

    def of(self, probe: Probe, headroom: int) -> list[Candidate]:
        """Every layout of a probe, whatever memory it takes; values may exceed the samples' by ``headroom`` bits."""
        found: list[Candidate] = []
        for bound, bits, ends in self._bounds(probe):
            lookup = table_range(ends, headroom)
            exact = self.bench.settings(
                Choice(probe.numerics, *WIDE, inner=2, logrows=16, rows=4, lookup=lookup, bound=bound), rows=2
            )
            for base, legs in plan.decompositions(math.ceil(bits + headroom), MAX_LEGS):
                tables = plan.table_lengths(exact, base, lookup)
                for inner in INNER:
                    choice = Choice(probe.numerics, base, legs, inner, 16, 4, lookup, bound)
                    shape = plan.footprint(*self._needed(choice), tables)
                    found += plan.candidates(choice, shape, self._work, self.request.rows_per_proof)
                if exact["required_lookups"] and base < lookup[1] - lookup[0]:
                    break  # more legs with a smaller table take more rows, and the lookups' table stays as long
        return found

    def _needed(self, choice: Choice) -> tuple[dict, dict]:
        """Settings at 2 and at 4 rows; rows do not depend on the scale, tables do."""
        same = choice.numerics.input_scale == choice.numerics.scale
        key = (choice.numerics.multiplier, same, choice.legs, choice.inner, choice.bound)
        if key not in self._needs:
            self._needs[key] = self.bench.settings(choice, rows=2), self.bench.settings(choice, rows=4)
        return self._needs[key]

    def least_seconds(self, numerics: Numerics, ends: tuple[int, int], headroom: int) -> float:
        """Less than the predicted job seconds of any layout of numerics whose lookups reach ``ends``: no range
        but the lookups' table, and a decomposition of two legs."""
        choice = Choice(numerics, 2, 2, 1, 16, 4)
        two, lookup = self._needed(choice), table_range(ends, headroom)
        tables = [lookup[1] - lookup[0] + 1] * len(two[0]["required_lookups"])
        found = plan.candidates(choice, plan.footprint(*two, tables), self._work, self.request.rows_per_proof)
        return min((c.job_seconds for c in found), default=math.inf)

    def refuse_too_large(self, scale: int) -> None:
        """Raise JobError, before any trial, where no layout fits memory even with the narrowest decomposition."""
        found: list[Candidate] = []
        for inner in INNER:
            choice = Choice(Numerics(scale, MULTIPLIERS[-1], scale), 2, 1, inner, logrows=16, rows=4)
            shape = plan.footprint(self.bench.settings(choice, rows=2), self.bench.settings(choice), [])
            found += plan.candidates(choice, shape, self._work, self.request.rows_per_proof)
        self.fitting(found, "takes at least")

    def fitting(self, found: list[Candidate], takes: str = "takes") -> list[Candidate]:
        """The candidates that fit a child's part of the memory; JobError with what the smallest takes if none does."""
        request = self.request
        if fitting := [c for c in found if self._in_memory(c)]:
            return fitting
        given = f" at {request.rows_per_proof} rows per proof" if request.rows_per_proof else ""
        if not found:
            raise TooLarge(f"no circuit for this model fits into 2^{plan.MAX_LOGROWS} rows{given}")
        least = min(candidate.peak_bytes for candidate in found) * request.children
        each = f" for {request.children} provers at a time" if request.children > 1 else ""
        raise TooLarge(
            f"no circuit for this model fits {request.memory_gb:g} GB of memory{given}; the smallest {takes} "
            f"{least / 1e9:.3g} GB{each}, as predicted with a margin"
        )

    def that_fit(self, found: list[Candidate]) -> list[Candidate]:
        """The candidates that fit a child's part of the memory, and the SRS at hand."""
        most = plan.MAX_LOGROWS if self.request.srs is None else logrows_of(self.request.srs.path)
        return [c for c in found if self._in_memory(c) and c.choice.logrows <= most]

    def _in_memory(self, candidate: Candidate) -> bool:
        return candidate.peak_bytes <= self.request.memory_gb * 1e9 / self.request.children

    def within_srs(self, found: list[Candidate]) -> list[Candidate]:
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


def table_range(ends: tuple[int, int], headroom: int) -> tuple[int, int]:
    """The range of the lookups' table where those of the sample rows reach ``ends``."""
    return min(ends[0], -1) << headroom, max(ends[1], 1) << headroom
