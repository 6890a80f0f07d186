"""A forecast in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from enclaveml.forecast import EFFICIENT, Forecast, stops_at
from enclaveml.forecast_rounds import Outcome
from enclaveml.progress import hours, significant, table


def slurm_limit(seconds: float) -> str:
    """Seconds as ``--time`` takes them, rounded up to five minutes: "02:35:00", "1-04:00:00"."""
    minutes = 5 * math.ceil(seconds / 300)
    days, minutes = divmod(minutes, 24 * 60)
    text = f"{minutes // 60:02}:{minutes % 60:02}:00"
    return f"{days}-{text}" if days else text


def gigabytes(count: float) -> str:
    """Bytes in GB (1e9) or MB."""
    return f"{significant(count / 1e9)} GB" if count >= 1e9 else f"{significant(count / 1e6)} MB"


def text(found: Forecast, points: Sequence[tuple[int, Outcome, str]] = ()) -> str:
    """The forecast for people; ``points`` is a curve over numbers of ranks, left out where it is empty."""
    t, o = found.target, found.outcome
    cores = f"{t.cores_per_rank} core{'' if t.cores_per_rank == 1 else 's'} each"
    lines = [
        f"wall time   {hours(found.wall)}; ask Slurm for {slurm_limit(found.ask)}",
        f"ranks       {t.ranks} on {t.nodes} node{'' if t.nodes == 1 else 's'}, {cores}, device {t.device.name}: "
        f"{found.provers} provers",
        f"rows        {found.rows} in {found.rounds} round{'' if found.rounds == 1 else 's'}, {found.bundles} proofs of "
        f"{found.rows_per_proof} rows, {significant(found.rows / max(found.outcome.seconds, 1e-9))} rows/s",
        "stages      " + ", ".join(f"{name} {significant(s)} s" for name, s in found.stages.items()),
        f"memory      {gigabytes(found.memory_rank)} a rank, {gigabytes(found.memory_root)} at rank 0",
        f"files       key {gigabytes(found.key_bytes)}, results {gigabytes(found.results_bytes)}, journal "
        f"{gigabytes(found.journal_bytes)}",
        f"rank 0      its thread is busy {100 * o.root_busy:.0f} % of the rounds, its {t.verifiers} verifiers "
        f"{100 * o.verify_busy:.0f} %; at most {o.queue} proofs wait for one",
        f"provers     busy {100 * o.prove_busy:.0f} %, {o.stolen} bundles moved to idle ranks, {o.lost} ranks lost",
    ]
    first, *more = found.limits
    lines.append(f"binds first {first.name}, from {_ranks(first.ranks)} on: {first.text}")
    lines.append("then        " + ", ".join(f"{limit.name} {_ranks(limit.ranks)}" for limit in more))
    if points:
        stop = stops_at(points)
        lines += ["", table(
            ["ranks", "rounds s", "rows/s", "provers busy %", "rank 0 busy %", "verifiers busy %", "binds first"],
            [[p, o.seconds, found.rows / max(o.seconds, 1e-9), 100 * o.prove_busy, 100 * o.root_busy,
              100 * o.verify_busy, name] for p, o, name in points],
        )]
        lines.append(f"a rank brings less than {EFFICIENT:g} of the best from {stop} ranks on" if stop else
                     f"it scales to {points[-1][0]} ranks")
    lines += ["", *(f"assumed     {words}" for words in found.assumptions)]
    return "\n".join(lines) + "\n"


def _ranks(count: float) -> str:
    return f"{significant(max(1, math.floor(count)))} ranks" if math.isfinite(count) else "no number of ranks"
