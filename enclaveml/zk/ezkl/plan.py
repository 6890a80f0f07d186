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
class Line:
    """A count that grows with the rows per proof: its values at 2 and at 4."""

    at_two: float
    at_four: float

    @property
    def slope(self) -> float:
        return (self.at_four - self.at_two) / 2

    def at(self, bundle: int) -> float:
        """The count at B rows per proof."""
        return self.at_two + self.slope * (bundle - 2)

    def largest(self, room: float) -> float:
        """The largest B whose count is within ``room``."""
        if self.slope <= 0:
            return math.inf if self.at_two <= room else 0.0
        return 2 + (room - self.at_two) / self.slope


@dataclass(frozen=True)
class Footprint:
    """What a circuit needs: rows (which split into blocks), columns that do not split, tables.

    ``single`` are the longest of the columns that must fit 2^k whole: public instances, a Poseidon
    hash, a commitment. ``einsum`` is the area of Freivalds' argument.
    """

    rows: Line
    einsum: Line
    single: Line
    widest_table: int
    tables: int

    def bundle(self, room: int, block_count: int) -> int:
        """The largest B that fits ``block_count`` blocks of ``room`` rows."""
        return math.floor(min(self.rows.largest(room * block_count), self.single.largest(room), 1 << 20))


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


def footprint(two: dict[str, Any], four: dict[str, Any], tables: list[int]) -> Footprint:
    """A footprint from the settings at 2 and at 4 rows per proof, and the lengths of the tables."""

    def single(settings: dict[str, Any]) -> int:
        sizes = settings["module_sizes"]
        instances = sum(math.prod(shape) for shape in settings["model_instance_shapes"])
        return max(sizes["poseidon"][0], *sizes["polycommit"], instances)

    def line(count: Callable[[dict[str, Any]], float]) -> Line:
        return Line(count(two), count(four))

    return Footprint(
        rows=line(lambda s: s["num_rows"]),
        einsum=line(lambda s: s["einsum_params"]["total_einsum_col_size"]),
        single=line(single),
        widest_table=max(tables, default=1),
        tables=len(tables),
    )


def table_lengths(settings: dict[str, Any], base: int, lookup: tuple[int, int]) -> list[int]:
    """Lengths of a circuit's range and lookup tables, its decomposition's base put at ``base``."""
    old = settings["run_args"]["decomp_base"]
    lengths = [
        base if (low, high) == (0, old - 1) else high - low + 1
        for low, high in settings["required_range_checks"]
    ]
    return lengths + [lookup[1] - lookup[0] + 1] * len(settings["required_lookups"])


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
            largest = shape.bundle(room, block_count)
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
            einsum_blocks = math.ceil(shape.einsum.at(rows) / room)
            columns = (logrows, choice.inner, block_count, einsum_blocks, shape.tables)
            seconds, key = cost.prove_seconds(*columns), cost.key_bytes(*columns)
            if cost.peak_bytes(key) <= memory_bytes:
                yield Candidate(
                    replace(choice, logrows=logrows, rows=rows),
                    block_count, seconds, seconds * (waves + 0.5), key,
                )
            single_is_full = largest + 1 < shape.rows.largest(room * block_count)
            if rows_per_proof is not None or largest * cores >= expected_rows or single_is_full:
                break  # more blocks would stay empty


def ranked(found: list[Candidate]) -> list[Candidate]:
    """Cheapest job first; within 5 % the finer scale, then the smaller key."""

    def rank(candidate: Candidate) -> tuple[float, int, float]:
        step = round(math.log(candidate.job_seconds) / math.log(1.05))
        return step, -candidate.choice.numerics.scale, candidate.key_bytes

    return sorted(found, key=rank)


Progress = Callable[[str], None]
