"""What an audit found: failures, limits, a table; as text for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from enclaveml.progress import significant, table
from enclaveml.seal import brief

#: Failures and limits that the text shows in full; the rest is counted.
SHOWN = 20

#: Facts that the verdict is made with, and that the text does not show by themselves.
_NOT_SHOWN = ("circuit_given", "preprocess_outside", "weights_hidden")


@dataclass(frozen=True)
class Failure:
    """Something in the file that is not so. ``rows`` are those of the job that it concerns, where known."""

    where: str
    text: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        about = f" (row{'s' if len(self.rows) > 1 else ''} {brief(self.rows)})" if self.rows else ""
        return f"{self.where}: {self.text}{about}" if self.where else f"{self.text}{about}"


@dataclass
class Report:
    """The outcome of one audit, filled as it goes.

    ``limits``: what the audit could not establish, a line each. ``facts``: lines of the header, name to
    value. ``circuits``: lines of the table.
    """

    path: str
    failures: list[Failure] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    circuits: list[dict[str, Any]] = field(default_factory=list)
    statuses: Mapping[str, int] = field(default_factory=dict)
    proofs: int = 0
    proofs_checked: int = 0
    rows: int = 0
    rows_checked: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0, or 3 where something failed."""
        return 3 if self.failures else 0

    def fail(self, where: str, text: str, rows: Sequence[int] = ()) -> None:
        """Add a failure."""
        self.failures.append(Failure(where, text, tuple(int(r) for r in rows)))

    @property
    def failed_rows(self) -> tuple[int, ...]:
        """Rows that any failure concerns, ascending."""
        return tuple(sorted({row for failure in self.failures for row in failure.rows}))

    @property
    def verdict(self) -> str:
        """The short verdict, one line."""
        if self.failures:
            rows = self.failed_rows
            about = f"; rows that fail: {brief(rows, 20)}" if rows else ""
            count = len(self.failures)
            return f"FAILED: {count} thing{'' if count == 1 else 's'} in this file {'is' if count == 1 else 'are'} not so{about}"
        which = "consistent; no claim about which model"
        if self.facts.get("weights_hidden"):
            which = "consistent; some network of these shapes gave these outputs, and there may be one for any"
        if self.facts.get("circuit_given"):
            which = f"of the circuit{'s' if len(self.circuits) > 1 else ''} given"
        if self.facts.get("preprocess_outside"):
            which += f"; of rows as {self.facts['preprocess_outside']} made them, outside of the proofs"
        kind = f" ({self.facts['kind_of_proof']})" if "kind_of_proof" in self.facts else ""
        return f"{self.rows_checked} of {self.rows} rows proved, {self.proofs_checked} of {self.proofs} proofs checked: {which}{kind}"

    def document(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "file": self.path,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "rows": self.rows,
            "rows_proved": self.rows_checked,
            "proofs": self.proofs,
            "proofs_checked": self.proofs_checked,
            "statuses": dict(self.statuses),
            "failed_rows": list(self.failed_rows),
            "failures": [{"where": f.where, "text": f.text, "rows": list(f.rows)} for f in self.failures],
            "not_established": self.limits,
            "notes": self.notes,
            "circuits": self.circuits,
            "seconds": self.seconds,
            **self.facts,
        }

    def text(self) -> str:
        """The report for people: verdict, table, failures, limits."""
        lines = [f"{self.path}: {self.verdict}", ""]
        counts = ", ".join(f"{n} {name}" for name, n in self.statuses.items() if n)
        facts = {"rows": f"{self.rows}: {counts}" if counts else str(self.rows), **self.facts}
        lines += [f"  {name.replace('_', ' ')}: {value}" for name, value in facts.items() if name not in _NOT_SHOWN]
        if self.circuits:
            heads = list(self.circuits[0])
            body = table([h.replace("_", " ") for h in heads],
                         [[c[h][:16] if h == "circuit" else c[h] for h in heads] for c in self.circuits])
            lines += ["", *(f"  {line}" for line in body.splitlines())]
        for title, items in (("Not so:", self.failures), ("To be noted:", self.notes),
                             ("Not established:", self.limits)):
            if items:
                lines += ["", title, *(f"  - {item}" for item in items[:SHOWN])]
                if len(items) > SHOWN:
                    lines.append(f"  - and {len(items) - SHOWN} more (--json has all)")
        lines += ["", f"{self.proofs_checked} proofs in {significant(self.seconds)} s"]
        return "\n".join(_plain(line) for line in lines)


def _plain(line: str) -> str:
    """Text of a file that somebody else made, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)
