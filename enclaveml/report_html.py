"""The report of results files as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from enclaveml.report_facts import Facts
from enclaveml.report_markup import html_page, html_table
from enclaveml.report_tables import compared, tables
from enclaveml.report_words import caution, summary

_CAPTIONS = {"stages": "Where each rank's time went", "timeline": "When each proof was made and verified",
             "seconds": "How long proofs took", "deviation": "Float against proved outputs",
             "each_proving": "Making a proof, file by file", "each_verifying": "Verifying a proof, file by file",
             "each_deviation": "Float against proved outputs, file by file"}


_TIMELINE = ("Blue bars are proofs being made, green ones being verified by rank 0, grey ones a rank without a proof in hand: "
             "it waited for rows, for others or for the job's end, or it inferred or started; how much of that was inferring "
             "and how much waiting the file has as sums only (the plot of stages). Orange with crosses: rejected, an X where the "
             "rank told no seconds. How long a proof took is what its rank says, and it is drawn as ending when rank 0 had it: "
             "one that was long on its way may overlap the next.")


def page(files: Sequence[tuple[Facts, Mapping[str, str]]], beside: Mapping[str, str] | None = None) -> str:
    """The report of one or several files, each with its plots (name to SVG); ``beside``: plots of all of them."""
    names = [facts.document["file"].rsplit("/", 1)[-1] for facts, _ in files]
    body = []
    if len(files) > 1:
        body = ["<h1>Results compared</h1>", html_table(compared([facts.document for facts, _ in files])), _figures(beside or {})]
    for (facts, plots), name in zip(files, names, strict=True):
        body += _one(facts, plots, name)
    return html_page(f"{', '.join(names)}: EnclaveML report", body)


def _one(facts: Facts, plots: Mapping[str, str], name: str) -> list[str]:
    found = tables(facts.document)
    out = [f"<h1>{escape(name)}</h1>", f"<p class=\"summary\">{escape(summary(facts.document))}</p>",
           f"<p class=\"caution\">{escape(caution(facts.document))}</p>", html_table(found["figures"], pairs=True)]
    if "combined" in found:
        out.append(html_table(found["combined"], pairs=True))
    if "draws" in found:
        out.append(html_table(found["draws"]))
    if "rejections" in found:
        out.append(html_table(found["rejections"]))
    if "ranks" in found:
        out.append(html_table(found["ranks"]))
    if plots:
        out.append("<h2>Time and deviation</h2>\n" + _figures(plots))
        if "timeline" in plots:
            out.append(f"<p class=\"note\">{escape(_TIMELINE)}</p>")
    if facts.confusion is not None:
        out.append(_confusion(facts.confusion))
    if "circuits" in found:
        out.append(html_table(found["circuits"]))
    out.append(html_table(found["provenance"], pairs=True))
    out.append(f"<h2>The job, defaults filled in</h2>\n<pre>{escape(facts.document['job'])}</pre>")
    return out


def _figures(plots: Mapping[str, str]) -> str:
    return "<div class=\"plots\">" + "\n".join(
        f"<figure><figcaption>{escape(_CAPTIONS[key])}</figcaption>{svg}</figure>" for key, svg in plots.items()) + "</div>"


def _confusion(counts: np.ndarray) -> str:
    """Rows are labels, columns classes of the proved outputs; darker is more, and the number is in the cell."""
    most = max(1, int(counts.max()))
    head = "".join(f"<th>{j}</th>" for j in range(len(counts)))
    rows = []
    for i, line in enumerate(counts):
        cells = []
        for count in line:
            grey = 255 - int(170 * (count / most) ** 0.5)
            ink = "#fff" if grey < 130 else "#1a1a1a"
            cells.append(f"<td style=\"background:rgb({grey},{grey},{grey});color:{ink}\">{int(count) or ''}</td>")
        rows.append(f"<tr><th>{i}</th>{''.join(cells)}</tr>")
    return ("<h2>Confusion matrix of the verified rows</h2>\n<div class=\"wide\"><table class=\"confusion\">"
            f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
            "<p class=\"note\">Lines are labels, columns the class of the proved output.</p>")
