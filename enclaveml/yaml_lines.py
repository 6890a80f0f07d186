"""YAML as a tree of nodes that know where they stand, without building any object from it.

Scalars keep their text: what ``no`` or ``1e-3`` means is decided by the schema's type
for that key, so YAML 1.1's traps (``no`` a boolean, ``010`` eight, ``10:00`` six
hundred, ``1e-3`` a text) cannot change a job silently.

Anchors, aliases and tags are refused: a job file has no use for them, and aliases can
make a short file expand without bound. Built on ``yaml.SafeLoader``'s event stream,
so nesting is bounded here and not by Python's stack.

References: YAML 1.1 (https://yaml.org/spec/1.1/), types bool, int, float.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import yaml

from enclaveml.errors import Fault

DEPTH = 20
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]{0,30})")
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
# What YAML 1.1 reads as something else than it looks like: octal, hexadecimal, binary, base 60.
_TRAP = re.compile(r"[-+]?(0[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_YES = {"yes", "Yes", "YES", "on", "On", "ON"}
_NO = {"no", "No", "NO", "off", "Off", "OFF"}


@dataclass(frozen=True)
class Scalar:
    """One value: its text, and whether it stood there plain (not quoted, no block)."""

    text: str
    plain: bool
    where: str

    @property
    def null(self) -> bool:
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")

    def flag(self) -> bool | None:
        """As a boolean, YAML 1.1's yes, no, on and off included; None if it is none."""
        if self.plain and self.text in _TRUE | _YES:
            return True
        return False if self.plain and self.text in _FALSE | _NO else None

    def whole(self) -> int | None:
        """As a decimal whole number, None if it is none (octal and base 60 are none)."""
        return int(self.text.replace("_", "")) if self.plain and _WHOLE.fullmatch(self.text) else None

    def number(self) -> float | None:
        """As a finite number, None if it is none. ``1e-3`` is one."""
        if not self.plain or self.trap or not _NUMBER.fullmatch(self.text):
            return None
        value = float(self.text.replace("_", ""))
        return value if math.isfinite(value) else None

    @property
    def trap(self) -> bool:
        """Whether YAML 1.1 reads a plain number here as another than it looks like."""
        return self.plain and _TRAP.fullmatch(self.text) is not None

    @property
    def ambiguous(self) -> bool:
        """Whether YAML 1.1 and 1.2 read it differently: yes, no, on, off and ``trap``."""
        return self.trap or (self.plain and self.text in _YES | _NO)

    def __str__(self) -> str:
        """As error texts quote it: quoted if it stood there as text, cut if long."""
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        if self.plain and (self.null or self.flag() is not None or _NUMBER.fullmatch(self.text)):
            return text or "nothing"
        return repr(text)


@dataclass(frozen=True)
class List:
    """A sequence of nodes."""

    items: tuple[Node, ...]
    where: str

    def __str__(self) -> str:
        return "a list"


@dataclass(frozen=True)
class Map:
    """A mapping by the keys' text; ``keys`` says where each key stands."""

    items: Mapping[str, Node]
    where: str
    keys: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "a mapping"


Node = Scalar | List | Map


def parse(text: str, where: Callable[[int], str], at: str = "") -> tuple[Node | None, list[Fault]]:
    """Read one YAML document. ``where(line)`` names a place, lines count from 1.

    ``at`` is the dotted path at which the document stands in the job. Returns the tree
    (None where the text holds no value or is no YAML) and all faults: a syntax error ends
    the reading, so it is then the only one. Raises nothing.
    """
    faults: list[Fault] = []
    try:
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return None, [Fault(where(mark.line + 1 if mark else 1), at, _syntax(error))]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [
            Fault(where(line), at, f"not YAML: the character U+{error.character:04X} is not allowed")
        ]
    # PyYAML lets these through for an escape or a directive with a number out of range.
    except (ValueError, OverflowError) as error:
        return None, [Fault(where(1), at, f"not YAML: {error}")]
    reader = _Tree(where, at, faults)
    for event in events:
        reader.take(event)
    return reader.root, faults


def _syntax(error: yaml.MarkedYAMLError) -> str:
    if "'\\t'" in (error.problem or ""):
        return "not YAML: a tab in the indentation; allowed: spaces"
    if error.context:
        return f"not YAML: {error.problem}, {error.context}"
    return f"not YAML: {error.problem}"


class _Open:
    """A collection that is being read; ``key`` is the mapping's key that waits for its value."""

    def __init__(self, where: str, path: str, mapping: bool) -> None:
        self.where, self.path, self.mapping = where, path, mapping
        self.list: list[Node] = []
        self.items: dict[str, Node] = {}
        self.keys: dict[str, str] = {}
        self.key: str | None = None
        self.bad_key = False

    def child(self) -> str:
        name = (self.key or "?") if self.mapping else str(len(self.list))
        return f"{self.path}.{name}" if self.path else name

    def node(self) -> Node:
        if self.mapping:
            return Map(self.items, self.where, self.keys)
        return List(tuple(self.list), self.where)


class _Tree:
    """Puts nodes together from events, with an explicit stack."""

    def __init__(self, where: Callable[[int], str], at: str, faults: list[Fault]) -> None:
        self.where, self.at, self.faults = where, at, faults
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.documents = 0
        self.skipped = 0  # collections open below one that is too deep or stands as a key

    def take(self, event: yaml.Event) -> None:
        place = self.where(event.start_mark.line + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents == 2:
                self.faults.append(Fault(place, self.at, "a second document begins here; allowed: one"))
            return
        if self.documents != 1:
            return
        if isinstance(event, yaml.CollectionEndEvent):
            if self.skipped:
                self.skipped -= 1
            else:
                self.put(self.stack.pop().node())
        elif isinstance(event, yaml.NodeEvent):
            self.node(event, place)

    def node(self, event: yaml.NodeEvent, place: str) -> None:
        opens = isinstance(event, yaml.CollectionStartEvent)
        if self.skipped:
            self.skipped += opens
            return
        path = self.stack[-1].child() if self.stack else self.at
        if isinstance(event, yaml.AliasEvent):
            self.faults.append(Fault(place, path, f"an alias, *{event.anchor}; write the value out"))
            self.put_nothing(place)
            return
        if event.anchor is not None:
            self.faults.append(
                Fault(place, path, f"an anchor, &{event.anchor}; write the value out where it is used")
            )
        if event.tag is not None and event.tag != "!":
            self.faults.append(Fault(place, path, f"a tag, {event.tag}; leave it out"))
        if not opens and any("\ud800" <= c <= "\udfff" for c in event.value):
            self.faults.append(Fault(place, path, "half of a surrogate pair; allowed: text"))
            self.put_nothing(place)
        elif not opens:
            self.put(Scalar(event.value, event.style is None and event.tag != "!", place))
        elif self.awaits_key():
            self.faults.append(Fault(place, path, "a list or mapping as a key; allowed: text"))
            self.put_nothing(place)
            self.skipped = 1
        elif len(self.stack) >= DEPTH:
            self.faults.append(Fault(place, path, f"nested more than {DEPTH} deep"))
            self.put_nothing(place)
            self.skipped = 1
        else:
            self.stack.append(_Open(place, path, isinstance(event, yaml.MappingStartEvent)))

    def awaits_key(self) -> bool:
        return bool(self.stack) and self.stack[-1].mapping and self.stack[-1].key is None

    def put_nothing(self, place: str) -> None:
        """Stand in for a node whose fault is already told."""
        if self.awaits_key():
            self.stack[-1].key, self.stack[-1].bad_key = "?", True
        else:
            self.put(Scalar("", True, place))

    def put(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if not top.mapping:
            top.list.append(node)
        elif top.key is None:
            assert isinstance(node, Scalar)
            top.key, top.bad_key = node.text, node.text in top.keys
            if top.bad_key:
                first = top.keys[node.text]
                self.faults.append(Fault(node.where, top.child(), f"given twice, first at {first}; keep one"))
            else:
                top.keys[node.text] = node.where
        else:
            if not top.bad_key:
                top.items[top.key] = node
            top.key, top.bad_key = None, False
