"""The same report as Markdown, without plots: for a pull request, an issue or a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from enclaveml.report_facts import Facts
from enclaveml.report_markup import markdown_table
from enclaveml.report_tables import Table, compared, tables
from enclaveml.report_words import caution, summary


def text(files: Sequence[Facts]) -> str:
    """The report of one or several files."""
    parts = []
    if len(files) > 1:
        parts += ["# Results compared", markdown_table(compared([facts.document for facts in files]), title=False)]
    for facts in files:
        document = facts.document
        parts += [f"# {document['file'].rsplit('/', 1)[-1]}", summary(document), f"*{caution(document)}*"]
        parts += [markdown_table(table) for table in tables(document).values()]
        if facts.confusion is not None:
            n = len(facts.confusion)
            rows = [[f"**{i}**", *(str(int(c)) if c else "" for c in line)] for i, line in enumerate(facts.confusion)]
            parts.append(markdown_table(Table("Confusion matrix of the verified rows", ["label", *map(str, range(n))], rows,
                                      frozenset(range(n + 1)), "Columns are the class of the proved output.")))
        parts.append(f"## The job, defaults filled in\n\n```yaml\n{document['job'].strip()}\n```")
    return "\n\n".join(parts) + "\n"
