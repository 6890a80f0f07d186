"""The plots of a report, as SVG that stands alone: readable in grey, with units, text kept as text.

Colours are from Okabe and Ito's palette (2008, "Color Universal Design"), each with a hatch or an
edge of its own, so that no plot depends on colour.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from enclaveml.report_facts import Facts, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#B0B0B0"

#: Width in inches: 440 CSS pixels, so that text stays readable on a phone.
WIDTH = 4.6

#: Bars of more ranks than this cannot be told apart: the plots show the first ones and say so.
MOST_RANKS = 48

#: The deviation's histogram shows smaller ones in its first bin.
SMALLEST_DEVIATION = 1e-9


def plots(facts: Facts) -> dict[str, str]:
    """Name to SVG; a plot that has nothing to show is left out.

    Names: stages, timeline, seconds, deviation. Needs matplotlib, which the extra ``report`` brings.
    """
    made = {"stages": _stages(facts), "timeline": _timeline(facts), "seconds": _seconds(facts),
            "deviation": _deviation(facts)}
    return {name: svg for name, svg in made.items() if svg}


@contextmanager
def drawing(height: float, title: str) -> Iterator[tuple[Any, Axes]]:
    """Axes of ``height`` inches to draw on; ``svg`` in the dict is the SVG afterwards, ``title`` its label."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"font.size": 9, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "enclaveml",
             "hatch.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9,
             "axes.titlelocation": "left"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        made: dict[str, str] = {}
        axes = figure.add_subplot()
        yield made, axes
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        svg = text.getvalue()
        made["svg"] = svg[svg.index("<svg"):].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _stages(facts: Facts) -> str:
    """Where each rank's time went: seconds inferring, making proofs and waiting."""
    ranks = [r for r in facts.document["ranks"] if r["rows"] or r["seconds_proving"] > 0][:MOST_RANKS]
    if not ranks:
        return ""
    parts = (("inferring", "seconds_inferring", GREEN, "..."), ("proving", "seconds_proving", BLUE, ""),
             ("waiting", "seconds_waiting", GREY, "///"))
    with drawing(0.9 + 0.24 * len(ranks), "Seconds of each rank by stage") as (made, axes):
        left = np.zeros(len(ranks))
        for name, key, colour, hatch in parts:
            width = np.nan_to_num([r[key] for r in ranks])
            axes.barh(range(len(ranks)), width, left=left, color=colour, hatch=hatch, edgecolor="black", linewidth=0.4,
                      label=name)
            left += width
        axes.set_yticks(range(len(ranks)), [_name(facts, r["session"], r["rank"]) for r in ranks])
        axes.invert_yaxis()
        axes.set_xlabel("time, summed over the rank's provers (s)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return made["svg"]


def _timeline(facts: Facts) -> str:
    """Every proof in time, as many lanes a rank as proofs overlap, grey while it has none; below, what rank 0 verified when.

    A proof whose rank told no seconds (rejected answers may) is a mark at the moment when it came.
    """
    spans = [replace(s, begin=s.end) if np.isnan(s.begin) else s for s in facts.spans if np.isfinite(s.end)]
    whose = sorted({(s.session, s.rank) for s in spans})[:MOST_RANKS]
    if not spans:
        return ""
    lanes = [(key, lane) for key in whose for lane in _lanes([s for s in spans if (s.session, s.rank) == key])]
    ends = {session: max(s.end + s.verify for s in spans if s.session == session) for session, _ in whose}
    checks = _lanes([Span(s.session, s.rank, s.end, s.end + s.verify, 0, s.rejected) for s in spans])
    with drawing(1.0 + 0.2 * (len(lanes) + len(checks)), "Proofs of each rank in time") as (made, axes):
        for y, (_, lane) in enumerate(lanes):
            _bars(axes, y, lane, BLUE)
        for key in whose:
            mine = [y for y, (k, _) in enumerate(lanes) if k == key]
            _idle(axes, mine[0], mine[-1], [s for s in spans if (s.session, s.rank) == key], ends[key[0]])
        for y, lane in enumerate(checks, len(lanes)):
            _bars(axes, y, lane, GREEN)
        middles = [(np.mean([y for y, (k, _) in enumerate(lanes) if k == key]), _name(facts, *key)) for key in whose]
        middles.append((len(lanes) + (len(checks) - 1) / 2, "verifying"))
        axes.set_yticks([y for y, _ in middles], [name for _, name in middles])
        axes.invert_yaxis()
        axes.set_xlabel("since the job (or its resumption) began (s)")
    return made["svg"]


def idle(spans: list[Span], end: float) -> list[tuple[float, float]]:
    """When, from 0 to ``end``, none of the spans runs: (begin, seconds) of each gap."""
    gaps, free = [], 0.0
    for span in sorted(spans, key=lambda s: s.begin):
        if span.begin > free:
            gaps.append((free, span.begin - free))
        free = max(free, span.end)
    return [*gaps, (free, end - free)] if end > free else gaps


def _idle(axes: Axes, first: int, last: int, spans: list[Span], end: float) -> None:
    """Grey over the lanes ``first`` to ``last`` of a rank wherever it has no proof in hand."""
    axes.broken_barh(idle(spans, end), (first - 0.2, last - first + 0.4), facecolors=GREY, edgecolor="black", linewidth=0.2,
                     hatch="///")


def _bars(axes: Axes, y: float, lane: list[Span], colour: str) -> None:
    for rejected, fill, hatch in ((False, colour, ""), (True, ORANGE, "xxx")):
        bars = [(s.begin, max(s.end - s.begin, 1e-3)) for s in lane if s.rejected == rejected]
        axes.broken_barh(bars, (y - 0.4, 0.8), facecolors=fill, edgecolor="black", linewidth=0.4, hatch=hatch)
    untold = [s.end for s in lane if s.rejected and s.end == s.begin]
    axes.plot(untold, [y] * len(untold), "X", color=ORANGE, markeredgecolor="black", markersize=7, linestyle="none")


def _lanes(spans: list[Span]) -> list[list[Span]]:
    """The spans in as few lanes as keep them from overlapping, greedily by when they begin; 8 lanes at most."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: s.begin):
        free = next((lane for lane in lanes if lane[-1].end <= span.begin + 1e-3), None)
        if free is not None:
            free.append(span)
        elif len(lanes) < 8:
            lanes.append([span])
        else:
            min(lanes, key=lambda lane: lane[-1].end).append(span)
    return lanes


def _seconds(facts: Facts) -> str:
    """How long proofs took to make and to verify."""
    both = [(name, values[np.isfinite(values) & (values > 0)], colour, marker)
            for name, values, colour, marker in (("proving", facts.prove, BLUE, "o"), ("verifying", facts.verify, GREEN, "s"))]
    if not any(len(values) for _, values, _, _ in both):
        return ""
    rng = np.random.default_rng(0)  # only spreads the points, so that they don't hide each other
    with drawing(1.7, "Seconds to make and to verify a proof") as (made, axes):
        for y, (_, values, colour, marker) in enumerate(both):
            axes.plot(values, y + rng.uniform(-0.22, 0.22, len(values)), marker, color=colour, markersize=3.5,
                      markeredgecolor="black", markeredgewidth=0.3, linestyle="none")
            if len(values):
                axes.plot([np.median(values)] * 2, [y - 0.36, y + 0.36], color="black", linewidth=1.2)
        axes.set_yticks(range(len(both)), [name for name, *_ in both])
        axes.set_ylim(-0.6, len(both) - 0.4)
        log_scale(axes)
        axes.set_xlabel("time of one proof (s); the line is the median")
    return made["svg"]


def _deviation(facts: Facts) -> str:
    """How far float and proved outputs are apart, against the tolerance."""
    if not len(facts.deviation):
        return ""
    values = np.maximum(facts.deviation, SMALLEST_DEVIATION)
    limits = sorted({c["tolerance"] for c in facts.document["circuits"] if c["tolerance"]})
    top = max([float(values.max()), *limits])
    bins = np.geomspace(min(float(values.min()), top / 10) * 0.99, top * 1.3, 40)
    with drawing(2.2, "Deviation between float and proved outputs") as (made, axes):
        axes.hist(values, bins=bins, color=BLUE, edgecolor="black", linewidth=0.3)
        for limit in limits:
            axes.axvline(limit, color="black", linestyle="--", linewidth=1.2)
            axes.annotate(f"tolerance {limit:.3g} ", (limit, 0.97), xycoords=("data", "axes fraction"), ha="right", va="top")
        log_scale(axes)
        axes.set_xlabel("largest |float - proved| of a row (output units)")
        axes.set_ylabel("rows")
    return made["svg"]


def log_scale(axes: Axes) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5, or at the powers of ten where those would crowd."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,), numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name(facts: Facts, session: int, rank: int) -> str:
    """A rank as the plots call it; the session too where there are several."""
    several = len(facts.document["sessions"]) > 1
    return f"rank {rank}" + (f", part {session + 1}" if several else "")
