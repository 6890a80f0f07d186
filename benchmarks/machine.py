"""The machine and versions that a report names, and how a report of ratios is written."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "reports"
LIBRARIES = ("ezkl", "jax", "flax", "jax2onnx", "mpi4py", "h5py", "numpy")


def machine(names: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """CPU, cores, memory, and the versions of what was measured; a library that is not there is left out."""
    cpu = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            cpu = next(line.split(":", 1)[1].strip() for line in handle if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1),
             "python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def command(name: str) -> str:
    """The command as typed, without the machine's paths."""
    return " ".join([Path(sys.executable).name, "-m", f"benchmarks.{name}", *sys.argv[1:]])


def sentence(here: Mapping[str, Any], name: str) -> str:
    """The line under a report's title: command, machine, versions, load."""
    versions = ", ".join(f"{key} {here[key]}" for key in ("python", *LIBRARIES) if key in here)
    return (f"`{command(name)}` on {here['cores']} cores of {here['cpu']}, {here['memory_gb']} GB; {versions}. "
            f"Load at the end (1 min): {os.getloadavg()[0]:.1f}.")


def write_report(name: str, document: Mapping[str, Any], lines: Sequence[str], folder: Path = REPORTS) -> str:
    """Write ``name``.json and .md; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(lines) + "\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)]
