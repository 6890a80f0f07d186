"""A hidden layer's activation as a circuit holds it: ReLU, which is exact, or a table, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """``name`` of the function, for people. entries: numbers of its table, a power of two; 0 for ReLU. cost: how far, at most, the table alone sets
    the outputs of the sample rows off (inputs that are not shown: one digit of it, upwards)."""

    name: str
    entries: int = 0
    cost: float = 0.0

    def to_json(self) -> list[object]:
        """For a circuit's manifest."""
        return [self.name, self.entries, self.cost]

    def __str__(self) -> str:
        if not self.entries:
            return f"{self.name}, exact"
        return f"{self.name}, by a table of 2^{self.entries.bit_length() - 1} numbers, which alone sets outputs off by {self.cost:.2g} at most"


def lines(held: Sequence[Held]) -> list[str]:
    """Of the hidden layers' activations, first to last, a line for each that differs, with the layers' numbers."""
    if len(held) > 1 and len(set(held)) == 1:
        return [f"activation of every hidden layer: {held[0]}"]
    numbers: dict[Held, list[int]] = {}
    for number, each in enumerate(held, 1):
        numbers.setdefault(each, []).append(number)
    return [f"activation of layer{'s' if len(mine) > 1 else ''} {', '.join(map(str, mine))}: {each}" for each, mine in numbers.items()]


def short(held: Sequence[Held]) -> str:
    """The same in a word for a line of the log: relu, or each function's name and its table's size."""
    return ",".join(f"{each.name.replace(' ', '_')}:2^{each.entries.bit_length() - 1}" if each.entries else each.name for each in held) or "none"
