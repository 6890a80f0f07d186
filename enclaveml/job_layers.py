"""One tree of nodes from the job file, its cluster file and the command line.

Later layers replace what earlier ones say, key by key; each node remembers where it
came from, so a fault names the file and line, or the option, that is at fault.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from enclaveml.errors import Fault
from enclaveml.job_files import read_text
from enclaveml.schema import BY_PATH, SECTIONS, names
from enclaveml.yaml_lines import List, Map, Node, Scalar, parse

SMALLEST = "the smallest job gives model.flax and input.path"


def read_layers(
    path: Path, overrides: Sequence[str], output: Path | None
) -> tuple[Map | None, str, list[Fault]]:
    """The job as a tree: file, cluster file, ``--set`` in order, then ``-o``.

    Returns the tree (None where there is none to check), the job file's text, and the
    faults found so far.
    """
    text, faults = read_text(path, str(path), "")
    root: Node | None = None
    if text is not None:
        root, more = parse(text, lambda line: f"{path}:{line}")
        faults += more
    if text is not None and not faults and (root is None or (isinstance(root, Scalar) and root.null)):
        faults.append(Fault(f"{path}:1", "", f"an empty file; {SMALLEST}"))
    elif root is not None and not isinstance(root, Map):
        faults.append(
            Fault(root.where, "", f"found {root}; allowed: a mapping with the sections {', '.join(SECTIONS)}")
        )
    tree = root if isinstance(root, Map) else None
    base = tree if tree is not None else Map({}, f"{path}:1")
    for option in overrides:
        base, more = _override(base, option, path)
        faults += more
    if output is not None:
        where = f"-o {output}"
        base = _put(
            base, ["output", "path"], Scalar(_to_job(str(output), path), False, where), where, "", faults
        )
    base, more = _with_cluster(base, path)
    return (base if tree is not None else None), text or "", faults + more


def _to_job(written: str, job: Path) -> str:
    """A path of the command line, as the job file would write it: relative to its folder if inside."""
    target, folder = os.path.abspath(written), os.path.abspath(job.parent)
    inside = os.path.commonpath([target, folder]) == folder
    return os.path.relpath(target, folder) if inside and target != folder else target


def _from_command_line(at: str, node: Node, job: Path) -> Node:
    """The node with its paths, which are relative to the current folder, as the job file would write them."""
    if isinstance(node, Map):
        items = {name: _from_command_line(f"{at}.{name}", child, job) for name, child in node.items.items()}
        return replace(node, items=items)
    if not isinstance(node, Scalar) or node.null:
        return node
    if at in ("model.flax", "model.preprocess"):
        file, colon, name = node.text.rpartition(":")
        return replace(node, text=_to_job(file, job) + colon + name) if file.endswith(".py") else node
    is_path = at == "cluster" or (at in BY_PATH and BY_PATH[at].type == "path")
    return replace(node, text=_to_job(node.text, job)) if is_path and "\0" not in node.text else node


def _override(root: Map, option: str, job: Path) -> tuple[Map, list[Fault]]:
    key, equals, value = option.partition("=")
    parts = key.strip().split(".")
    where = f"--set {option if len(option) <= 80 else option[:77] + '...'}"
    if not equals or not all(parts):
        return root, [Fault(where, "", "allowed: SECTION.KEY=VALUE, as in split.strategy=equal")]
    key = ".".join(parts)
    node, faults = parse(value, lambda line: where, at=key)
    if faults:
        return root, faults
    if parts[0] == "cluster" and len(parts) > 1:
        root, faults = _with_cluster(root, job)
    node = _from_command_line(key, node if node is not None else Scalar("", True, where), job)
    return _put(root, parts, node, where, "", faults), faults


def _put(parent: Node, parts: list[str], node: Node, where: str, at: str, faults: list[Fault]) -> Node:
    """``parent`` with ``node`` at the path ``parts`` below it; what is not there is made."""
    if not parts:
        return node
    name, rest = parts[0], parts[1:]
    below = f"{at}.{name}" if at else name
    if isinstance(parent, List):
        count = len(parent.items)
        chosen = range(count) if name == "*" else [int(name)] if name.isascii() and name.isdigit() else []
        if not chosen or chosen[-1] >= count:
            allowed = (
                f"an entry's number, 0 to {count - 1}, or * for all" if count else "none, the list is empty"
            )
            faults.append(Fault(where, at, f"found entry {name!r}; allowed: {allowed}"))
            return parent
        items = list(parent.items)
        for index in chosen:
            items[index] = _put(items[index], rest, node, where, f"{at}.{index}", faults)
        return replace(parent, items=tuple(items))
    if isinstance(parent, Scalar) and not parent.null:
        faults.append(
            Fault(where, below, f"{at} is {parent} at {parent.where}, so nothing can be set below it")
        )
        return parent
    known = parent if isinstance(parent, Map) else Map({}, where)
    child = _put(known.items.get(name, Scalar("", True, where)), rest, node, where, below, faults)
    return replace(
        known,
        items={**known.items, name: child},
        keys={**known.keys, name: known.keys.get(name, where)} if rest else {**known.keys, name: where},
    )


def _with_cluster(root: Map, job: Path) -> tuple[Map, list[Fault]]:
    """``root`` with the cluster file, if ``cluster`` is the path of one, read in its place."""
    node = root.items.get("cluster")
    if not isinstance(node, Scalar) or node.null:
        return root, []
    path = Path(os.path.normpath(job.parent / node.text))
    found: Node | None = None
    if not node.text.isprintable():
        faults = [Fault(node.where, "cluster", f"found {node}; allowed: a path, or a mapping")]
        text = None
    else:
        text, faults = read_text(path, node.where, "cluster")
        faults = [
            replace(f, message=f"found {node}; {f.message}") if f.where == node.where else f for f in faults
        ]
    if text is not None:
        found, more = parse(text, lambda line: f"{path}:{line}", at="cluster")
        faults += more
        if not isinstance(found, Map) and not more:
            what = (
                "an empty file"
                if found is None or (isinstance(found, Scalar) and found.null)
                else f"found {found}"
            )
            keys = ", ".join(names("cluster"))
            faults.append(Fault(f"{path}:1", "cluster", f"{what}; allowed: a mapping with the keys {keys}"))
    items = {**root.items, "cluster": found if isinstance(found, Map) else Map({}, node.where)}
    return replace(root, items=items), faults
