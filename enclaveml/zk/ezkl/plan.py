"""The choice of a circuit's settings: rows per proof, columns, logrows, decomposition.

``gen_settings``' defaults cost hundreds of times what the same proof can cost. What pays: many rows
in one proof (matrix products use Freivalds' argument, whose cost hardly grows with them), few
divisions between layers (a large rebase multiplier), decomposition into few legs, just enough
range, and leaving out range checks of values that the verifier fixes himself.

Pure: the numbers of a circuit come in as a :class:`Footprint`, measured by ``bench.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from enclaveml.zk.ezkl import cost

#: Curve and memory limit of what is tried.
MIN_LOGROWS, MAX_LOGROWS = 8, 22

#: An intermediate value on unseen rows may be twice the largest on the sample rows.
HEADROOM_BITS = 1

_VISIBILITY = {"public": "public", "committed": "polycommit", "hashed": "hashed"}


@dataclass(frozen=True)
class Numerics:
    """What decides the values in a circuit: one scale for inputs and weights, the rebase multiplier."""

    scale: int
    multiplier: int


@dataclass(frozen=True)
class Choice:
    """All settings of one circuit but its model; ``rows`` is B."""

    numerics: Numerics
    base: int
    legs: int
    inner: int
    logrows: int
    rows: int
    lookup: tuple[int, int] = (-2, 2)

    def run_args(self, inputs: str) -> dict[str, Any]:
        """ezkl's ``PyRunArgs`` for this choice.

        Range checks of inputs and outputs are left out: rank 0 fixes every input value and checks
        the range of every output itself (``soundness.md``, manifest ``inputs_bounded: false``).
        """
        return {
            "input_scale": self.numerics.scale,
            "param_scale": self.numerics.scale,
            "scale_rebase_multiplier": self.numerics.multiplier,
            "decomp_base": self.base,
            "decomp_legs": self.legs,
            "num_inner_cols": self.inner,
            "logrows": self.logrows,
            "lookup_range": list(self.lookup),
            "input_visibility": _VISIBILITY[inputs],
            "output_visibility": "public",
            "param_visibility": "fixed",
            "ignore_range_check_inputs_outputs": True,
        }


@dataclass(frozen=True)
class Footprint:
    """Rows that a circuit needs at 2 and at 4 rows per proof, and the tables it looks up."""

    at_two: int
    at_four: int
    module_at_two: int
    module_at_four: int
    constants: int
    widest_table: int
    tables: int

    def rows(self, bundle: int) -> int:
        """``num_rows`` expected at B rows per proof."""
        slope = (self.at_four - self.at_two) / 2
        return math.ceil(self.at_two + slope * (bundle - 2))

    def module_rows(self, bundle: int) -> int:
        """Rows of the Poseidon or commitment columns, which do not split into blocks."""
        slope = (self.module_at_four - self.module_at_two) / 2
        return math.ceil(self.module_at_two + slope * (bundle - 2))

    def bundle(self, room: int, module_room: int) -> int:
        """The largest B whose rows fit."""
        found = 2 + (room - self.at_two) / max((self.at_four - self.at_two) / 2, 1e-9)
        if self.module_at_four > self.module_at_two:
            slope = (self.module_at_four - self.module_at_two) / 2
            found = min(found, 2 + (module_room - self.module_at_two) / slope)
        return math.floor(min(found, 1 << 20))


@dataclass(frozen=True)
class Candidate:
    """A choice with what it is predicted to cost."""

    choice: Choice
    blocks: int
    prove_seconds: float
    job_seconds: float
    key_bytes: float

    @property
    def row_seconds(self) -> float:
        return self.prove_seconds / self.choice.rows

    def __str__(self) -> str:
        c = self.choice
        return (
            f"B={c.rows} k={c.logrows} scale={c.numerics.scale} multiplier={c.numerics.multiplier} "
            f"decomposition={c.base}^{c.legs} columns={c.inner}x{self.blocks}"
        )


def decompositions(bits: int) -> Iterator[tuple[int, int]]:
    """(base, legs) with base a power of two and base**legs >= 2**bits, fewest legs first."""
    for legs in range(1, 9):
        base_bits = max(2, math.ceil(bits / legs))
        if base_bits <= 19:
            yield 1 << base_bits, legs


def settings_footprint(two: dict[str, Any], four: dict[str, Any]) -> Footprint:
    """A footprint from the settings at 2 and at 4 rows per proof."""

    def module(settings: dict[str, Any]) -> int:
        sizes = settings["module_sizes"]
        return max([sizes["poseidon"][0], *sizes["polycommit"]], default=0)

    ranges = [high - low + 1 for low, high in four["required_range_checks"]]
    low, high = four["run_args"]["lookup_range"]
    lookups = len(four["required_lookups"])
    if lookups:
        ranges.append(high - low + 1)
    return Footprint(
        at_two=two["num_rows"],
        at_four=four["num_rows"],
        module_at_two=module(two),
        module_at_four=module(four),
        constants=four["total_const_size"],
        widest_table=max(ranges, default=1),
        tables=len(four["required_range_checks"]) + lookups,
    )


def candidates(
    choice: Choice, shape: Footprint, expected_rows: int, cores: int, memory_bytes: float,
    rows_per_proof: int | None,
) -> Iterator[Candidate]:
    """Every layout of one decomposition that fits memory, with its predicted time for the whole job.

    ``cores`` proofs run at a time, so a job of ``expected_rows`` takes whole waves of them: a B
    that leaves the last wave half empty wastes it. Set-up costs about half a proof more.
    """
    for logrows in range(MIN_LOGROWS, MAX_LOGROWS + 1):
        room = cost.usable_rows(logrows)
        if shape.widest_table > room:
            continue
        for block_count in range(1, 9):
            largest = shape.bundle(room * block_count, room)
            if rows_per_proof is not None:
                rows = max(2, rows_per_proof)
                if rows > largest:
                    continue
            elif largest < 2:
                continue
            else:
                waves = math.ceil(math.ceil(expected_rows / largest) / cores)
                rows = min(largest, max(2, math.ceil(expected_rows / (waves * cores))))
            waves = math.ceil(math.ceil(expected_rows / rows) / cores)
            seconds = cost.prove_seconds(logrows, choice.inner, block_count, shape.tables)
            key = cost.key_bytes(logrows, choice.inner, block_count, shape.tables)
            if cost.peak_bytes(key) <= memory_bytes:
                yield Candidate(
                    replace(choice, logrows=logrows, rows=rows),
                    block_count, seconds, seconds * (waves + 0.5), key,
                )
            if rows_per_proof is not None or largest * cores >= expected_rows:
                break  # more blocks would stay empty


def ranked(found: list[Candidate]) -> list[Candidate]:
    """Cheapest job first; within 5 % the finer scale, then the smaller key."""

    def rank(candidate: Candidate) -> tuple[float, int, float]:
        step = round(math.log(candidate.job_seconds) / math.log(1.05))
        return step, -candidate.choice.numerics.scale, candidate.key_bytes

    return sorted(found, key=rank)


Progress = Callable[[str], None]
