"""How a report is set: a table as HTML and as Markdown, and the page around the HTML, which links to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from enclaveml.report_tables import Table

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
td.long { min-width: 10rem; }
table.pairs td:first-child { white-space: nowrap; color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem; }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; max-width: 34rem; height: auto; }
figcaption { font-size: .9rem; font-weight: 600; }
table.confusion td, table.confusion th { text-align: right; padding: .15rem .45rem; border: 1px solid #e4e4e4;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
@media (max-width: 30rem) { table.confusion { font-size: .7rem; }
  table.confusion td, table.confusion th { padding: .1rem .2rem; } }
pre { font-size: .8rem; overflow-x: auto; background: #f5f5f5; padding: .6rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8pt; } pre { white-space: pre-wrap; }
  .wide { overflow: visible; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""


def html_page(title: str, body: Sequence[str]) -> str:
    """One HTML file without any link to elsewhere: readable on a desktop, on a phone and printed.

    title: text; body: HTML, whose text is escaped already.
    """
    return (f"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            f"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(body) + "\n</body>\n</html>\n")


def html_table(table: Table, pairs: bool = False) -> str:
    """A table with its title and its note; ``pairs``: of two columns, a name and its value."""
    def cells(row: Sequence[str], tag: str) -> str:
        def kind(i: int, cell: str) -> str:
            return ' class="number"' if i in table.numbers else ' class="short"' if len(cell) <= 24 else ' class="long"'

        return "".join(f"<{tag}{kind(i, c)}>{escape(c)}</{tag}>" for i, c in enumerate(row))

    head = f"<tr>{cells(table.heads, 'th')}</tr>" if any(table.heads) else ""
    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    note = f"<p class=\"note\">{escape(table.note)}</p>" if table.note else ""
    kind = " class=\"pairs\"" if pairs else ""
    return f"<h2>{escape(table.title)}</h2>\n<div class=\"wide\"><table{kind}>{head}\n{rows}\n</table></div>{note}"


def _cell(cell: str) -> str:
    """Text of a file that somebody else made, as one cell: no markup, no end of line."""
    return " ".join(cell.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())


def markdown_table(table: Table, title: bool = True) -> str:
    """The same in Markdown, with its title or without."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_cell(c) for c in cells) + " |"

    marks = ["---:" if i in table.numbers else "---" for i in range(len(table.heads))]
    lines = [line(table.heads), line(marks), *(line(row) for row in table.rows)]
    head = f"## {table.title}\n\n" if title else ""
    return head + "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")
