"""``enclaveml report``: what a results file says, as one page for people who did not run the job.

It needs numpy and h5py, and matplotlib for the page's plots (the extra ``report``); neither JAX, MPI nor
ezkl. It verifies no proof: that is ``enclaveml audit``'s, and every report says so.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enclaveml.errors import EnvironmentFault, JobError
from enclaveml.report_facts import Facts, read_facts


def report(results: Sequence[Path], output: Path | None, kind: str) -> int:
    """Write the report of these files as ``kind`` html, markdown or json. Returns the exit status, 0.

    HTML goes to ``output``, beside the first file by default; the others to ``output``, else to stdout.
    Raises JobError for an output that is one of the results, FormatError or EnvironmentFault for files that
    cannot be read or written.
    """
    files = [read_facts(path) for path in results]
    if kind == "html" and output is None:
        output = results[0].with_suffix(".html")
    if output is not None and any(output.absolute() == path.absolute() for path in results):
        raise JobError(f"--output {output} is a results file; name another file")
    text = _text(files, kind)
    if output is None:
        print(text, end="")
    else:
        _write(output, text)
        print(f"report: {output}")
    return 0


def _text(files: list[Facts], kind: str) -> str:
    if kind == "json":
        documents = [_plain(dict(facts.document) | _confusion(facts)) for facts in files]
        return json.dumps(documents if len(documents) > 1 else documents[0], indent=2, allow_nan=False) + "\n"
    if kind == "markdown":
        from enclaveml.report_markdown import text

        return text(files)
    from enclaveml.report_compared import compared_plots
    from enclaveml.report_html import page
    from enclaveml.report_plots import plots

    return page([(facts, plots(facts)) for facts in files], compared_plots(files) if len(files) > 1 else {})


def _confusion(facts: Facts) -> dict[str, Any]:
    return {} if facts.confusion is None else {"confusion": facts.confusion.tolist()}


def _plain(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises EnvironmentFault."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror}") from error
