"""The choice of a circuit's settings: rows per proof, columns, logrows, decomposition.

``gen_settings``' defaults cost hundreds of times what the same proof can cost. What pays: many rows
in one proof (matrix products use Freivalds' argument, whose cost hardly grows with them), few
divisions between layers (a large rebase multiplier), decomposition into few legs, just enough
range, and leaving out range checks of values that the verifier fixes himself.

Pure: the numbers of a circuit come in as a :class:`Footprint`, measured by ``bench.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from enclaveml.zk.ezkl import cost
from enclaveml.zk.interface import CircuitRequest

#: Curve and memory limit of what is tried.
MIN_LOGROWS, MAX_LOGROWS = 8, 22

#: Set-up and registration cost about one proof's time, once for all jobs that use the keys: counted as a part.
SETUP_SHARE = 0.25

#: Blocks of columns that are tried; more of them make longer proofs, which take longer to verify.
MAX_BLOCKS = 8

#: An intermediate value on unseen rows may be twice the largest on the sample rows.
HEADROOM_BITS = 1

#: Range that is added to each leg of a decomposition where it is free.
HEADROOM_LEG_BITS = 3

_VISIBILITY = {"public": "public", "committed": "polycommit", "hashed": "hashed"}


@dataclass(frozen=True)
class Numerics:
    """What decides the values in a circuit: scale of the weights, rebase multiplier, scale of the inputs.

    Values are divided down to the inputs' scale where theirs would exceed ``multiplier`` times that.
    """

    scale: int
    multiplier: int
    input_scale: int


@dataclass(frozen=True)
class Choice:
    """All settings of one circuit but its model; ``rows`` is B, ``bound`` how it bounds its inputs."""

    numerics: Numerics
    base: int
    legs: int
    inner: int
    logrows: int
    rows: int
    lookup: tuple[int, int] = (-2, 2)
    bound: str = ""

    def run_args(self, inputs: str, outputs: str = "public") -> dict[str, Any]:
        """ezkl's ``PyRunArgs`` for this choice; ``outputs`` committed: those of a slice that is not the last.

        ezkl's own range checks of inputs and outputs are left out: rank 0 fixes every input value and
        checks the range of every output itself; ``bound`` is in the graph (``onnx_bound.py``).
        """
        return {
            "input_scale": self.numerics.input_scale,
            "param_scale": self.numerics.scale,
            "scale_rebase_multiplier": self.numerics.multiplier,
            "decomp_base": self.base,
            "decomp_legs": self.legs,
            "num_inner_cols": self.inner,
            "logrows": self.logrows,
            "lookup_range": list(self.lookup),
            "input_visibility": _VISIBILITY[inputs],
            "output_visibility": _VISIBILITY[outputs],
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


@dataclass(frozen=True)
class Work:
    """The job as the plan sees it: rows to prove, split over ranks that run ``children`` proofs at a time.

    ``processors`` is how many proofs get a core of their own: less than ranks * children where ranks
    crowd a node.
    """

    rows: int
    ranks: int
    children: int
    processors: int

    @property
    def share(self) -> int:
        """Rows of one rank."""
        return max(1, math.ceil(self.rows / self.ranks))

    def waves(self, bundle: int) -> float:
        """How many proofs' time the job takes at B rows per proof, the half empty last ones included."""
        bundles = math.ceil(self.share / bundle)
        return max(bundles * self.ranks / self.processors, math.ceil(bundles / self.children))


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

    @property
    def peak_bytes(self) -> float:
        """Predicted peak memory of set-up and of one proof, with a margin."""
        return cost.peak_bytes(self.key_bytes)

    def __str__(self) -> str:
        c = self.choice
        return (
            f"B={c.rows} k={c.logrows} scale={c.numerics.input_scale}+{c.numerics.scale} "
            f"multiplier={c.numerics.multiplier} decomposition={c.base}^{c.legs} columns={c.inner}x{self.blocks}"
            + (f" bound={c.bound}" if c.bound else "")
        )


def decompositions(bits: int, most_legs: int = 8) -> Iterator[tuple[int, int]]:
    """(base, legs) with base a power of two and base**legs >= 2**bits, fewest legs first."""
    for legs in range(1, most_legs + 1):
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


def work_of(request: CircuitRequest) -> Work:
    """The work of a request.

    Where it does not say on how many processors, and ranks of one child each may crowd a node, this
    machine's cores are taken. With ranks on more machines that is too few, which changes no ranking:
    every plan's time grows alike.
    """
    processors = request.processors or request.cores
    if not request.processors and request.children == 1:
        processors = min(request.cores, os.cpu_count() or 1)
    return Work(request.expected_rows, max(1, request.cores // request.children), request.children, processors)


def widest_base(choice: Choice, room: int) -> int:
    """The largest base whose table still fits one column, at most HEADROOM_LEG_BITS more than needed.

    A larger table costs nothing and gives unseen rows more range.
    """
    bits = min(int(math.log2(room)), int(math.log2(choice.base)) + HEADROOM_LEG_BITS)
    return max(choice.base, 1 << bits)


def bundle_sizes(shape: Footprint, room: int, work: Work) -> list[int]:
    """Every B worth costing at one domain size: those that just fill columns, and even shares of a rank's rows.

    At most MAX_BLOCKS blocks, at most a rank's rows (2 at least).
    """
    areas = range(room, room * MAX_BLOCKS + 1, room)
    largest = min(shape.rows.largest(areas[-1]), shape.single.largest(room), max(2, work.share))
    full = {shape.rows.largest(area) for area in areas} | {shape.einsum.largest(area) for area in areas}
    sizes = {math.floor(b) for b in {*full, largest} if 2 <= b <= largest}
    even = {max(2, math.ceil(work.share / math.ceil(work.share / b))) for b in sizes}
    return sorted(sizes | even)


def candidates(
    choice: Choice, shape: Footprint, work: Work, rows_per_proof: int | None
) -> Iterator[Candidate]:
    """Every layout of one decomposition, whatever memory it takes, with its predicted time for the whole job."""
    for logrows in range(MIN_LOGROWS, MAX_LOGROWS + 1):
        room = cost.usable_rows(logrows)
        if shape.widest_table > room:
            continue
        if rows_per_proof is not None:
            rows = max(2, rows_per_proof)
            fits = shape.single.at(rows) <= room and shape.rows.at(rows) <= room * MAX_BLOCKS
            sizes = [rows] if fits else []
        else:
            sizes = bundle_sizes(shape, room, work)
        for rows in sizes:
            blocks = math.ceil(shape.rows.at(rows) / room)
            columns = (logrows, choice.inner, blocks, math.ceil(shape.einsum.at(rows) / room), shape.tables)
            seconds, key = cost.prove_seconds(*columns), cost.key_bytes(*columns)
            job_seconds = seconds * (work.waves(rows) + SETUP_SHARE)
            wide = replace(choice, base=widest_base(choice, room), logrows=logrows, rows=rows)
            yield Candidate(wide, blocks, seconds, job_seconds, key)


def ranked(found: list[Candidate]) -> list[Candidate]:
    """Cheapest job first; within 5 % the finer scale and fewer divisions."""

    def rank(candidate: Candidate) -> tuple[float, ...]:
        step = math.floor(math.log(candidate.job_seconds / least) / math.log(1.05))
        numerics = candidate.choice.numerics
        fine = (-numerics.scale, -numerics.input_scale, -numerics.multiplier)
        return step, *fine, candidate.job_seconds, candidate.choice.rows

    least = min((candidate.job_seconds for candidate in found), default=1.0)

    return sorted(found, key=rank)


Progress = Callable[[str], None]
