"""The one error of a proof that does not hold."""

from __future__ import annotations


class Rejected(Exception):
    """The proof doesn't show the statement. The text begins with the step of ``PROTOCOL.md`` that failed."""


def demand(holds: bool, reason: str) -> None:
    """Raise ``Rejected`` with ``reason`` unless ``holds``."""
    if not holds:
        raise Rejected(reason)
