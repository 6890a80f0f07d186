"""Plots of several results files on one axis each: how long proofs took and how far they deviate, file by file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaveml.report_facts import Facts
from enclaveml.report_plots import BLUE, GREEN, GREY, SMALLEST_DEVIATION, drawing, log_scale


def compared_plots(files: Sequence[Facts]) -> dict[str, str]:
    """Name to SVG: each_proving, each_verifying, each_deviation; a plot that has nothing to show is left out."""
    limits = [[c["tolerance"] for c in facts.document["circuits"] if c["tolerance"]] for facts in files]
    none: list[list[float]] = [[] for _ in files]
    made = {
        "each_proving": _boxes(files, [f.prove for f in files], none, BLUE, "time to make one proof (s)"),
        "each_verifying": _boxes(files, [f.verify for f in files], none, GREEN, "time to verify one proof (s)"),
        "each_deviation": _boxes(files, [np.maximum(f.deviation, SMALLEST_DEVIATION) for f in files], limits, GREY,
                                 "largest |float - proved| of a row; dashed: tolerance"),
    }
    return {name: svg for name, svg in made.items() if svg}


def _boxes(files: Sequence[Facts], samples: Sequence[np.ndarray], limits: Sequence[Sequence[float]], colour: str,
           what: str) -> str:
    """Of each file's sample its range (line), its middle half (bar) and its median (mark); dashed its limits."""
    samples = [values[np.isfinite(values) & (values > 0)] for values in samples]
    if not any(len(values) for values in samples):
        return ""
    with drawing(0.8 + 0.34 * len(files), what) as (made, axes):
        for y, (values, lines) in enumerate(zip(samples, limits, strict=True)):
            if len(values):
                low, left, middle, right, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
                axes.plot([low, high], [y, y], color="black", linewidth=1)
                axes.barh(y, right - left, left=left, height=0.5, color=colour, edgecolor="black", linewidth=0.6)
                axes.plot([middle, middle], [y - 0.34, y + 0.34], color="black", linewidth=1.8)
            for line in lines:
                axes.plot([line, line], [y - 0.4, y + 0.4], color="black", linestyle="--", linewidth=1.2)
        axes.set_yticks(range(len(files)), [f"{i + 1}: {_short(facts)}" for i, facts in enumerate(files)])
        axes.set_ylim(len(files) - 0.4, -0.6)
        log_scale(axes)
        axes.set_xlabel(what)
    return made["svg"]


def _short(facts: Facts) -> str:
    name = facts.document["file"].rsplit("/", 1)[-1]
    short = name if len(name) <= 18 else name[:8] + "..." + name[-7:]
    return short.replace("$", r"\$")  # else it begins a formula
