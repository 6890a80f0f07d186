"""Files that a job names: reading small ones, and what to say of those that are not there."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from enclaveml.errors import Fault
from enclaveml.schema import nearest

LARGEST_TEXT = 1 << 20  # bytes; PyYAML reads some 100 KB a second


def read_text(path: Path, where: str, key: str) -> tuple[str | None, list[Fault]]:
    """A YAML file's text, or None and the fault. ``where`` and ``key`` name who asks for it."""
    problem = missing(path)
    if problem:
        inside = nearest("job.yaml", _listing(path)) if not key else None
        hint = f"; did you mean {str(path / inside)!r}?" if inside else ""
        return None, [Fault(where, key, problem + hint)]
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except OSError as error:
        return None, [Fault(where, key, f"cannot be read: {error.strerror}")]
    if len(data) > LARGEST_TEXT:
        return None, [
            Fault(where, key, f"larger than 1 MiB ({path.stat().st_size} bytes); is it a job file?")
        ]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Fault(f"{path}:{line}", key, f"not UTF-8: byte 0x{data[error.start]:02x}")]


def missing(path: Path) -> str:
    """Why ``path`` cannot be read as a file, with the nearest name in its folder; "" if it can."""
    if os.path.isfile(path):
        return ""
    if os.path.isdir(path):
        return "a folder; allowed: a file"
    if not os.path.isdir(path.parent):
        return f"no such file: the folder {str(path.parent)!r} does not exist"
    close = nearest(path.name, _listing(path.parent))
    return f"no such file in {str(path.parent)!r}" + (f"; did you mean {close!r}?" if close else "")


def missing_weights(path: Path) -> str:
    """The same for weights, which may be a folder too: an Orbax checkpoint, or a manager's with steps in it."""
    if not os.path.isdir(path):
        return missing(path)
    names = _listing(path)
    inside = any(os.path.isfile(path / name / "_METADATA") or name.isdigit() for name in names)
    return "" if "_METADATA" in names or inside else "a folder; allowed: a file, or an Orbax checkpoint's folder"


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def class_missing(path: Path, name: str, function: bool = False) -> str:
    """Why ``path``, a Python file, defines no class (or ``function``) ``name``; "" if it does or may. Runs nothing of it."""
    tree = _parsed(path)
    if isinstance(tree, str):
        return tree
    classes: list[str] = []
    others: set[str] = set()
    wanted, other = (ast.FunctionDef, ast.ClassDef) if function else (ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, wanted):
            classes.append(node.name)
        elif isinstance(node, other):
            others.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            others.add(node.id)
        elif isinstance(node, ast.alias):
            others.add(node.asname or node.name)
    if name in classes or name in others or "*" in others:
        return ""
    close = nearest(name, classes)
    found = ", ".join(classes) or "none"
    return f"{path.name} defines no {name!r}; {'functions' if function else 'classes'} there: {found}" + (
        f"; did you mean {close!r}?" if close else ""
    )


def import_in(path: Path, libraries: frozenset[str]) -> tuple[str, int] | None:
    """The first import of one of these libraries in a Python file, anywhere in it, and its line; None without one."""
    tree = _parsed(path)
    for node in () if isinstance(tree, str) else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] in libraries:
                return name, node.lineno
    return None


def _parsed(path: Path) -> ast.Module | str:
    """A Python file as a tree, or why it is none."""
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        return f"{path.name}, line {error.lineno}: {error.msg}"
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return f"{path.name} cannot be read as Python: {error}"
