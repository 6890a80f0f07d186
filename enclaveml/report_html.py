"""One HTML file without any link to elsewhere: readable on a desktop, on a phone and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from enclaveml.report_facts import Facts
from enclaveml.report_tables import Table, compared, tables
from enclaveml.report_words import caution, summary

_STYLE = """
:root { --ink: #1a1a1a; --soft: #5a5a5a; --line: #c8c8c8; --paper: #ffffff; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
       margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 1.8rem 0 .5rem; border-bottom: 1px solid var(--line); }
p.caution, p.note { color: var(--soft); font-size: .9rem; }
p.summary { font-size: 1.05rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid #e4e4e4; }
th { hyphens: auto; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.short { white-space: nowrap; }
table.pairs td:first-child { white-space: nowrap; color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem; }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; max-width: 34rem; height: auto; }
figcaption { font-size: .9rem; font-weight: 600; }
table.confusion td, table.confusion th { text-align: right; padding: .15rem .45rem; border: 1px solid #e4e4e4; }
pre { font-size: .8rem; overflow-x: auto; background: #f5f5f5; padding: .6rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8pt; } pre { white-space: pre-wrap; }
  .wide { overflow: visible; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""

_CAPTIONS = {"stages": "Where each rank's time went", "timeline": "When each proof was made and verified",
             "seconds": "How long proofs took", "deviation": "Float against proved outputs"}


def page(files: Sequence[tuple[Facts, Mapping[str, str]]]) -> str:
    """The report of one or several files, each with its plots (name to SVG)."""
    names = [facts.document["file"].rsplit("/", 1)[-1] for facts, _ in files]
    body = []
    if len(files) > 1:
        body = ["<h1>Results compared</h1>", _table(compared([facts.document for facts, _ in files]))]
    for (facts, plots), name in zip(files, names, strict=True):
        body += _one(facts, plots, name)
    return (f"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            f"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            f"<title>{escape(', '.join(names))}: EnclaveML report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(body) + "\n</body>\n</html>\n")


def _one(facts: Facts, plots: Mapping[str, str], name: str) -> list[str]:
    found = tables(facts.document)
    out = [f"<h1>{escape(name)}</h1>", f"<p class=\"summary\">{escape(summary(facts.document))}</p>",
           f"<p class=\"caution\">{escape(caution(facts.document))}</p>", _table(found["figures"], pairs=True)]
    if "draws" in found:
        out.append(_table(found["draws"]))
    if "rejections" in found:
        out.append(_table(found["rejections"]))
    if "ranks" in found:
        out.append(_table(found["ranks"]))
    if plots:
        out.append("<h2>Time and deviation</h2>\n<div class=\"plots\">" + "\n".join(
            f"<figure><figcaption>{escape(_CAPTIONS[key])}</figcaption>{svg}</figure>" for key, svg in plots.items()) + "</div>")
        if "timeline" in plots:
            out.append("<p class=\"note\">Blue bars are proofs being made, green ones being verified by rank 0; orange with "
                       "crosses: rejected. When a proof was begun and how long it took is what its rank says.</p>")
    if facts.confusion is not None:
        out.append(_confusion(facts.confusion))
    if "circuits" in found:
        out.append(_table(found["circuits"]))
    out.append(_table(found["provenance"], pairs=True))
    out.append(f"<h2>The job, defaults filled in</h2>\n<pre>{escape(facts.document['job'])}</pre>")
    return out


def _table(table: Table, pairs: bool = False) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        def kind(i: int, cell: str) -> str:
            return ' class="number"' if i in table.numbers else ' class="short"' if len(cell) <= 24 else ""

        return "".join(f"<{tag}{kind(i, c)}>{escape(c)}</{tag}>" for i, c in enumerate(row))

    head = f"<tr>{cells(table.heads, 'th')}</tr>" if any(table.heads) else ""
    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    note = f"<p class=\"note\">{escape(table.note)}</p>" if table.note else ""
    kind = " class=\"pairs\"" if pairs else ""
    return f"<h2>{escape(table.title)}</h2>\n<div class=\"wide\"><table{kind}>{head}\n{rows}\n</table></div>{note}"


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
