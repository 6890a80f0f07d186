"""A suite's run, and a comparison of two, as JSON, HTML and Markdown; the page links to nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.machine import LIBRARIES
from benchmarks.suite import FORMAT
from benchmarks.suite_compare import DRIFT, Comparison
from benchmarks.suite_figures import FOREIGN, WIDEST, Figure, case_figures
from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.progress import significant
from enclaveml.report_markup import html_page, html_table, markdown_table
from enclaveml.report_plots import BLUE, GREY, drawing, log_scale
from enclaveml.report_tables import Table


#: Times that are further apart than by this factor are plotted on a logarithmic axis; others from 0 on.
LINEAR = 5


def write(document: Mapping[str, Any], folder: Path, name: str) -> list[Path]:
    """Write NAME.json, .html and .md; returns their paths. Raises EnvironmentFault."""
    texts = {".json": json.dumps(document, indent=1) + "\n", ".html": html(document), ".md": markdown(document)}
    paths = [folder / (name + ending) for ending in texts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentFault(f"{error.filename}: cannot be written: {error.strerror}") from error
    return paths


def read(path: Path) -> dict[str, Any]:
    """A document that :func:`write` wrote. Raises EnvironmentFault, FormatError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{path}: is no JSON: {error}") from error
    try:
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}")
        heading(document), [table_of(case) for case in document["cases"]]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise FormatError(f"{path}: is no report of `python -m benchmarks` in format {FORMAT} ({type(error).__name__}: {error}); "
                          "allowed: the .json that it writes") from error
    return document


def heading(document: Mapping[str, Any]) -> tuple[str, str]:
    """The title, and the paragraph below it: command, machine, versions, load, and how to read the figures."""
    here, failed = document["machine"], [case["name"] for case in document["cases"] if case["error"]]
    versions = ", ".join(f"{key} {here[key]}" for key in ("python", *LIBRARIES) if key in here)
    told = (f"{document['command']}, {document['started']}, {document['seconds'] / 60:.1f} min, on {here['cores']} cores of "
            f"{here['cpu']}, {here['memory_gb']} GB; {versions}. Load of the machine (1 min): {document['load_before']:.1f} before, "
            f"{document['load_after']:.1f} after. ")
    told += (f"Each contender had {document['rounds']} rounds, in turns; figures are medians, with the range of the rounds; "
             "plots have a point for each round, grey where unstable, and a line at the median. Unstable: "
             f"rounds more than {100 * WIDEST:.0f} % apart, or others kept more than {FOREIGN:g} processors busy.")
    if failed:
        told += f" Failed: {', '.join(failed)}."
    return f"Benchmarks, {document['suite']} suite", told


def table_of(case: Mapping[str, Any]) -> Table:
    """A case's contenders: seconds a unit, range, CPU seconds, ratio to the first, stability."""
    unit, rows = case["unit"], []
    by = {(f.contender, f.metric): f for f in case_figures(case)}
    first = case["contenders"][0]["name"] if case["contenders"] else ""
    for contender in case["contenders"]:
        name = contender["name"]
        clock, cpu, ratio = (by.get((name, metric)) for metric in (f"s a {unit}", f"CPU s a {unit}", f"time in that of {first}"))
        if clock is None:
            rows.append([name, "", "", "", "", "failed", contender["detail"]])
            continue
        marks = "; ".join(dict.fromkeys(m for f in (clock, cpu) if f for m in f.unstable))
        rows.append([name, significant(clock.middle), f"{significant(clock.low)} to {significant(clock.high)}",
                     "" if cpu is None else significant(cpu.middle), "1" if ratio is None else significant(ratio.middle),
                     f"unstable: {marks}" if marks else "stable", contender["detail"]])
    busy = case["others"]
    note = f"Prepared in {case['prepare_seconds']:.0f} s; `{case['command']}`"
    note += "" if busy is None else f"; others kept {busy:.2f} processors busy"
    heads = ["contender", f"s a {unit}", "range", f"CPU s a {unit}", "in the first's time", "stability", "settings"]
    shown = [i for i in range(len(heads)) if i < 2 or any(row[i] for row in rows)]
    return Table(case["name"], [heads[i] for i in shown], [[row[i] for i in shown] for row in rows],
                 frozenset(at for at, i in enumerate(shown) if 1 <= i <= 4), note)


def html(document: Mapping[str, Any]) -> str:
    """The run as a page, with a plot of every case's rounds."""
    title, told = heading(document)
    body = [f"<h1>{escape(title)}</h1>", f'<p class="caution">{escape(told)}</p>']
    for case in document["cases"]:
        table = html_table(table_of(case)) if case["contenders"] else f"<h2>{escape(case['name'])}</h2>"
        body += [table, f"<p>{escape(case['what'])}</p>"]
        if case["error"]:
            body.append(f"<p><strong>Failed:</strong> {escape(case['error'])}</p>")
        plot = _plot(case)
        body += [f'<div class="plots"><figure>{plot}</figure></div>'] if plot else []
    return html_page(title, body)


def markdown(document: Mapping[str, Any]) -> str:
    """The run as Markdown, without plots."""
    title, told = heading(document)
    parts = [f"# {title}", told]
    for case in document["cases"]:
        parts += [markdown_table(table_of(case)) if case["contenders"] else f"## {case['name']}", case["what"]]
        parts += [f"**Failed:** {case['error']}"] if case["error"] else []
    return "\n\n".join(parts) + "\n"


def _plot(case: Mapping[str, Any]) -> str:
    """Seconds a unit of each contender, a point a round and a line at the median."""
    clock = [f for f in case_figures(case) if f.metric == f"s a {case['unit']}"]
    if not clock:
        return ""
    with drawing(0.7 + 0.32 * len(clock), f"Rounds of {case['name']}") as (made, axes):
        for y, figure in enumerate(clock):
            axes.plot(figure.rounds, [y] * len(figure.rounds), "o", color=GREY if figure.unstable else BLUE, markersize=4,
                      markeredgecolor="black", markeredgewidth=0.4, linestyle="none")
            axes.plot([figure.middle] * 2, [y - 0.35, y + 0.35], color="black", linewidth=1.2)
        axes.set_yticks(range(len(clock)), [f.contender for f in clock])
        axes.set_ylim(len(clock) - 0.5, -0.5)
        if max(f.high for f in clock) > LINEAR * min(f.low for f in clock):
            log_scale(axes)
        else:
            axes.set_xlim(left=0)
        axes.set_xlabel(f"a round's time (s a {case['unit']})")
    return made["svg"]


def comparison(found: Comparison, names: Sequence[str]) -> tuple[str, list[Table]]:
    """What a comparison says in a sentence, and its tables: all figures, and what only one run has. ``names``: of the runs."""
    better = len(found.changed) - len(found.worse)
    told = (f"{len(found.worse)} worse and {better} better of {len(found.changes)} figures, beyond noise; by chance at most "
            f"{sum(c.chance for c in found.changes):.2g} would be" if found.changed
            else f"no change beyond noise in {len(found.changes)} figures")
    rows = [[c.before.case, c.before.contender, c.before.metric, _shown(c.before), _shown(c.after), significant(c.ratio),
             c.verdict.value, f"{100 * c.chance:.2g} %"] for c in found.changes]
    heads = ["case", "contender", "figure", names[0], names[1], "second in first", "verdict", "by chance"]
    tables = [Table("Figures of both", heads, rows, frozenset({3, 4, 5, 7}),
                    f"Changed: the ranges of the rounds, widened by {100 * DRIFT:.0f} %, have no value in common. By chance: how often "
                    "that happens at most where nothing changed. Less is better.")]
    alone = [[f.case, f.contender, f.metric, _shown(f), name] for name, some in
             zip(names, (found.only_before, found.only_after), strict=True) for f in some]
    if alone:
        tables.append(Table("Figures of one run alone", ["case", "contender", "figure", "value", "run"], alone, frozenset({3})))
    if found.differs:
        tables.append(Table("What differs between the runs", [""], [[line] for line in found.differs]))
    return told, tables


def _shown(figure: Figure) -> str:
    return f"{significant(figure.middle)} ({significant(figure.low)} to {significant(figure.high)})" + ("*" if figure.unstable else "")


def comparison_text(found: Comparison, names: Sequence[str], kind: str) -> str:
    """A comparison as ``html`` or ``markdown``. A star marks what is unstable."""
    told, tables = comparison(found, names)
    title = f"{names[0]} and {names[1]} compared"
    told = told[0].upper() + told[1:] + ". * marks an unstable figure."
    if kind == "html":
        return html_page(title, [f"<h1>{escape(title)}</h1>", f'<p class="summary">{escape(told)}</p>', *map(html_table, tables)])
    return "\n\n".join([f"# {title}", told, *map(markdown_table, tables)]) + "\n"
