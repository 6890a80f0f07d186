"""Nodes against the schema: each key's value, default or fault."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from enclaveml.errors import Fault
from enclaveml.schema import AUDIT_KEYS, KEYS, RANK_KEYS, SECTIONS, Key, names, nearest
from enclaveml.yaml_lines import List, Map, Node, Scalar

_BAD = object()


@dataclass
class Values:
    """What was read: ``of`` holds each valid key's value by dotted path, ``marks`` where it stands."""

    of: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, where: str, key: str, message: str) -> object:
        self.faults.append(Fault(where, key, message))
        return _BAD


def read_values(root: Map) -> Values:
    """Every key of the schema, from ``root`` or its default; all faults are in the result."""
    values = Values()
    for name in root.items:
        if name not in SECTIONS:
            values.fault(root.keys[name], name, _unknown_section(name))
    for section in SECTIONS:
        node = root.items.get(section, Scalar("", True, root.where))
        keys = [key for key in KEYS if key.section == section]
        if isinstance(node, Scalar) and node.null:
            node = Map({}, root.keys.get(section, root.where))
        if not isinstance(node, Map):
            allowed = f"a mapping with the keys {', '.join(names(section))}"
            values.fault(node.where, section, f"found {node}; allowed: {allowed}")
            continue
        values.marks[section] = root.keys.get(section, root.where)
        for key, value in _read_keys(node, keys, section, values).items():
            values.of[f"{section}.{key}"] = value
    return values


def _read_keys(node: Map, keys: Iterable[Key], at: str, values: Values) -> dict[str, Any]:
    """One mapping's values by the keys' own names; faulty ones are left out."""
    by_name = {key.path.partition(".")[2] or key.path: key for key in keys}
    for name in node.items:
        if name not in by_name:
            values.fault(node.keys[name], f"{at}.{name}", _unknown_key(name, at, list(by_name)))
    read: dict[str, Any] = {}
    for name, key in by_name.items():
        path = f"{at}.{name}"
        child = node.items.get(name)
        values.marks[path] = child.where if child is not None else values.marks.get(at, node.where)
        if child is None or (isinstance(child, Scalar) and child.null):
            if key.required:
                where = node.keys.get(name, values.marks.get(at, node.where))
                values.fault(where, path, f"missing; allowed: {key.allowed()}")
            else:
                read[name] = copy.deepcopy(key.default)
            continue
        value = _READERS[key.type](key, child, path, values)
        if value is not _BAD:
            read[name] = value
    return read


def _unknown_section(name: str) -> str:
    text = f"unknown section; allowed: {', '.join(SECTIONS)}"
    homes = [key.path for key in KEYS if key.name == name]
    close = nearest(name, SECTIONS)
    if homes and not close:
        return f"{text}; did you mean {' or '.join(repr(home) for home in homes)}?"
    return text + (f"; did you mean {close!r}?" if close else "")


def _unknown_key(name: str, at: str, allowed: list[str]) -> str:
    text = f"unknown key; allowed in {at}: {', '.join(allowed)}"
    close = nearest(name, allowed)
    homes = [key.path for key in KEYS if key.name == name]
    if close is None and homes:
        return f"{text}; did you mean {' or '.join(repr(home) for home in homes)}?"
    return text + (f"; did you mean {close!r}?" if close else "")


def _refuse(key: Key, node: Node, path: str, values: Values) -> object:
    close = nearest(node.text, key.choices) if isinstance(node, Scalar) and key.choices else None
    hint = f"; did you mean {close!r}?" if close else ""
    return values.fault(node.where, path, f"found {node}; allowed: {key.allowed()}{hint}")


def _text(key: Key, node: Node, path: str, values: Values) -> Any:
    if not isinstance(node, Scalar) or not node.text.strip() or not node.text.isprintable():
        return _refuse(key, node, path, values)
    if (key.choices and node.text not in key.choices) or (
        key.check is not None and not key.check.holds(node.text)
    ):
        return _refuse(key, node, path, values)
    return node.text


def _names(key: Key, node: Node, path: str, values: Values) -> Any:
    if not isinstance(node, List):
        return _text(key, node, path, values)
    if not node.items:
        return values.fault(node.where, path, f"found an empty list; allowed: {key.allowed()}")
    read = [_text(key, item, f"{path}.{index}", values) for index, item in enumerate(node.items)]
    return _BAD if _BAD in read else read


def _flag(key: Key, node: Node, path: str, values: Values) -> Any:
    value = node.flag() if isinstance(node, Scalar) else None
    return _refuse(key, node, path, values) if value is None else value


def _number(key: Key, node: Node, path: str, values: Values) -> Any:
    value: float | None = None
    if isinstance(node, Scalar):
        value = node.whole() if key.type == "whole" else node.number()
    if value is None or (key.check is not None and not key.check.holds(value)):
        return _refuse(key, node, path, values)
    return value


def _mapping(key: Key, node: Node, path: str, values: Values) -> Any:
    if not isinstance(node, Map):
        return _refuse(key, node, path, values)
    before = len(values.faults)
    for name in node.items:
        if not name.isidentifier():
            values.fault(
                node.keys[name], f"{path}.{name}", f"found {name!r}; allowed: the name of an argument"
            )
    value = _free(node, path, values)
    return value if len(values.faults) == before else _BAD


def _free(node: Node, path: str, values: Values) -> Any:
    """A value that the schema says nothing of, by YAML 1.2's rules; JSON can hold it."""
    if isinstance(node, Map):
        return {name: _free(child, f"{path}.{name}", values) for name, child in node.items.items()}
    if isinstance(node, List):
        return [_free(child, f"{path}.{index}", values) for index, child in enumerate(node.items)]
    if node.ambiguous:
        return values.fault(
            node.where,
            path,
            f"found {node.text}, which YAML's versions read differently; "
            "allowed: true, false, a decimal number, or text in quotes",
        )
    if node.null:
        return None
    for value in (node.flag(), node.whole(), node.number()):
        if value is not None:
            return value
    if node.plain and node.text.lower().lstrip("+-") in (".inf", ".nan"):
        return values.fault(
            node.where, path, f"found {node.text}; allowed: a finite number, or text in quotes"
        )
    return node.text


def _ranks(key: Key, node: Node, path: str, values: Values) -> Any:
    if not isinstance(node, List):
        return _refuse(key, node, path, values)
    before = len(values.faults)
    entries = []
    for index, item in enumerate(node.items):
        at = f"{path}.{index}"
        if isinstance(item, Map):
            values.marks[at] = item.where
            entries.append(_read_keys(item, RANK_KEYS, at, values))
        else:
            allowed = ", ".join(k.path for k in RANK_KEYS)
            values.fault(item.where, at, f"found {item}; allowed: a mapping with the keys {allowed}")
    return tuple(entries) if len(values.faults) == before else _BAD


def _audit(key: Key, node: Node, path: str, values: Values) -> Any:
    if not isinstance(node, Map):
        return _refuse(key, node, path, values)
    before = len(values.faults)
    read = _read_keys(node, AUDIT_KEYS, path, values)
    return read if len(values.faults) == before else _BAD


_READERS = {
    "text": _text,
    "path": _text,
    "names": _names,
    "flag": _flag,
    "whole": _number,
    "number": _number,
    "mapping": _mapping,
    "ranks": _ranks,
    "audit": _audit,
}
