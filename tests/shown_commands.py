"""Every command that the project's Markdown shows: fenced, indented, or as code in a line or a table."""

from __future__ import annotations

import re
from pathlib import Path

from launch import ROOT

_PROGRAMS = "mpirun|mpiexec|srun|sbatch|enclaveml|enclaveml-run|python3?|pip|pytest|h5dump|apt-get|bash|export"
_COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{_PROGRAMS})(?: .*)?$")


def markdown() -> list[Path]:
    """The Markdown files that are the project's: its own, and its folders'."""
    folders = ("enclaveml", "jobs", "slurm", "benchmarks", "configs")
    return sorted([*ROOT.glob("*.md"), *(path for name in folders for path in (ROOT / name).rglob("*.md"))])


def commands() -> dict[str, list[str]]:
    """Each command, blanks made single and comments left out, with the files that show it."""
    found: dict[str, list[str]] = {}
    for path in markdown():
        for text in _code(path.read_text(encoding="utf-8")):
            line = re.sub(r"\s+", " ", re.sub(r"\s+# .*$", "", text)).strip()
            if _COMMAND.match(line):
                found.setdefault(line, []).append(str(path.relative_to(ROOT)))
    return found


def _code(text: str) -> list[str]:
    fenced = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    code = [line for m in fenced.finditer(text) if m[1] in ("", "sh", "bash") for line in m[2].splitlines()]
    rest = re.sub(r"^> .*$", "", fenced.sub("", text), flags=re.MULTILINE)  # messages of the program
    indented = re.compile(r"^    .*$", re.MULTILINE)
    code += [m[0].strip() for m in indented.finditer(rest)]
    return code + [" ".join(m[1].split()) for m in re.finditer(r"`([^`]+)`", indented.sub("", rest))]
