"""What the circuit plan considered, kept beside the circuit: for ``enclaveml prepare`` to print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enclaveml.zk.ezkl import cost
from enclaveml.zk.ezkl.plan import Candidate
from enclaveml.zk.ezkl.search import Search
from enclaveml.zk.interface import Circuit

#: The file's name in the circuit's folder; it stays in the cache and is no part of the circuit.
PLAN = "plan.json"

#: Layouts that are kept, besides those that were set up: the cheapest of each domain size.
_KEPT = 12


class Table:
    """Candidates with what was predicted and measured of them, as they are tried."""

    def __init__(self, search: Search, ordered: Sequence[Candidate]) -> None:
        self.search, self.ordered = search, list(ordered)
        self.problems: dict[str, str] = {}
        self.measured: dict[str, Circuit] = {}
        self._tried: list[Candidate] = []

    def fail(self, candidate: Candidate, problem: str) -> None:
        """Note a candidate that could not be set up or proved."""
        self.problems[str(candidate)] = problem
        self._tried.append(candidate)

    def measure(self, candidate: Candidate, circuit: Circuit) -> None:
        """Note a candidate that was set up, proved and verified."""
        self.measured[str(candidate)] = circuit
        self._tried.append(candidate)

    def _shown(self) -> list[Candidate]:
        """Those tried, then the cheapest of each domain size."""
        shown, sizes = {str(c): c for c in self._tried}, {c.choice.logrows for c in self._tried}
        for candidate in self.ordered:
            if candidate.choice.logrows not in sizes and len(shown) < _KEPT:
                sizes.add(candidate.choice.logrows)
                shown[str(candidate)] = candidate
        return list(shown.values())

    def document(self, chosen: Circuit) -> dict[str, Any]:
        """As JSON: scales tried, and layouts with seconds a row, memory and deviation."""
        of = {probe.numerics: probe for probe in self.search.found}
        rows = []
        for candidate in self._shown():
            name, probe = str(candidate), of[candidate.choice.numerics]
            circuit = self.measured.get(name)
            if name in self.problems:
                verdict = self.problems[name]
            elif circuit is None:
                verdict = "not tried: dearer by prediction"
            else:
                verdict = "chosen" if circuit.circuit_id == chosen.circuit_id else "dearer by measurement"
            rows.append({
                "plan": name, "predicted_row_cpu_seconds": candidate.row_seconds,
                "predicted_job_seconds": candidate.job_seconds,
                "predicted_peak_bytes": cost.peak_bytes(candidate.key_bytes),
                "measured_row_cpu_seconds": circuit and circuit.measured["prove_cpu_seconds"] / circuit.rows,
                "measured_peak_bytes": circuit and circuit.measured["prove_peak_bytes"],
                "deviation": circuit.deviation if circuit else probe.deviation, "verdict": verdict,
            })
        numerics = [
            {"input_scale": p.numerics.input_scale, "scale": p.numerics.scale, "multiplier": p.numerics.multiplier,
             "deviation": p.deviation, "bits": p.bits, "refused": self.search.refused.get(p.numerics, "")}
            for p in self.search.found
        ]
        return {"numerics": numerics, "layouts": rows}


def text(folder: Path, limit: float) -> str:
    """The table of a circuit's folder for people; scales whose deviation exceeds ``limit`` are so marked."""
    try:
        document: Mapping[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "no table of candidates: the circuit was not planned here\n"
    lines = [
        f"{'CPU s a row':>22}  {'peak memory, GB':>20}",
        f"{'predicted':>11}{'measured':>11}  {'predicted':>10}{'measured':>10}  deviation  plan",
    ]
    for row in document["layouts"]:
        second, peak = row["measured_row_cpu_seconds"], row["measured_peak_bytes"]
        lines.append(
            f"{row['predicted_row_cpu_seconds']:11.4f}{'' if second is None else format(second, '.4f'):>11}  "
            f"{row['predicted_peak_bytes'] / 1e9:10.2f}{'' if peak is None else format(peak / 1e9, '.2f'):>10}  "
            f"{row['deviation']:9.2g}  {row['plan']}: {row['verdict']}"
        )
    for one in document["numerics"]:
        refused = f"deviation {one['deviation']:.2g}" if one["deviation"] > limit else one["refused"]
        if refused:
            lines.append(
                f"scale {one['input_scale']}+{one['scale']}, multiplier {one['multiplier']}: refused, {refused} "
                "on sample rows"
            )
    return "\n".join(lines) + "\n"
