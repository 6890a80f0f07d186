"""What the command line asks of a run, and nothing of how it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """``enclaveml run``'s arguments; paths are relative to the current folder.

    ``overrides`` are ``--set``'s texts in order, ``input`` the data that stand in for the
    job's (``--input``), ``json`` where the short answer goes.
    """

    job: Path
    output: Path | None = None
    overrides: tuple[str, ...] = ()
    input: Path | None = None
    json: Path | None = None
    resume: bool = False
    force: bool = False
