"""The messages that TROUBLESHOOTING.md quotes are those that the program has."""

from __future__ import annotations

import re
from functools import cache

import pytest
from launch import ROOT

TEXT = (ROOT / "enclaveml/TROUBLESHOOTING.md").read_text(encoding="utf-8")
QUOTED = [line[2:] for line in TEXT.splitlines() if line.startswith("> ")]


@cache
def source() -> str:
    """All of the package's code, neighbouring string literals joined."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "enclaveml").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", code)


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_code_word_for_word(message: str) -> None:
    """Each piece between what differs, and the pieces one after the other; code may put any placeholder between."""
    pieces = [piece for piece in message.split("...") if piece]
    assert max(map(len, pieces)) >= 6, "too little to tell one message from another"
    between = r"(?:\{[^{}\"]*(?:\"[^\"]*\"|\{[^{}]*\}|[^{}\"])*\}|%\w)+"
    shape = between.join(re.escape(piece) for piece in pieces)
    assert re.search(shape, source()), message


def test_it_covers_what_breaks_jobs() -> None:
    assert len(QUOTED) > 25
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE) == [
        "Workers that do not connect", "GPUs", "Memory", "Cache, scratch and the SRS"]
