"""Trials of one slice of a model: as those of a whole model, of the part of its document that is the slice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from enclaveml.errors import JobError
from enclaveml.zk import process
from enclaveml.zk.export import HASH_BATCH, export
from enclaveml.zk.ezkl.bench import Bench
from enclaveml.zk.ezkl.slices.cut import Graph
from enclaveml.zk.interface import ModelFunction
from enclaveml.zk.scratch import Scratch


class Whole:
    """The model that is cut: its canonical document at each batch, exported once."""

    def __init__(self, function: ModelFunction) -> None:
        self.function = function
        self._documents: dict[int, bytes] = {}
        self._graphs: dict[int, Graph] = {}

    def document(self, batch: int) -> bytes:
        """The canonical document at a batch."""
        if batch not in self._documents:
            self._documents[batch] = export(self.function, batch)
        return self._documents[batch]

    def graph(self, batch: int = HASH_BATCH) -> Graph:
        """The same, to be cut."""
        if batch not in self._graphs:
            self._graphs[batch] = Graph(self.document(batch))
        return self._graphs[batch]


class SliceBench(Bench):
    """Trials of the slice from a value ("": the model's input) to another ("": its output), files in a folder of its own.

    Rows are float64 here, (S, *row_shape): a value between two slices may have more bits than a float32 holds.
    """

    def __init__(self, whole: Whole, start: str, end: str, inputs: str, child: process.Child, scratch: Scratch) -> None:
        self._whole, self.start, self.end = whole, start, end
        shape = whole.graph().shape(start)[1:] if start else whole.function.row_shape
        function = ModelFunction(_no_function, tuple(shape), whole.function.dtype if not start else np.dtype(np.float32))
        super().__init__(function, "committed" if start else inputs, child, scratch, outputs="committed" if end else "public")

    def exported(self, batch: int) -> bytes:
        """The slice's part of the canonical document at a batch."""
        return self._whole.graph(batch).slice(self.start, self.end)

    @property
    def width(self) -> int:
        """Numbers of a row that go in."""
        return math.prod(self.function.row_shape)


def _no_function(rows: object) -> object:
    raise AssertionError("a slice is evaluated as an ONNX document")


def benches_of(whole: Whole, cuts: Sequence[str], inputs: str, child: process.Child, scratches: Sequence[Scratch]) -> list[SliceBench]:
    """A bench for each slice of the model, cut at these values, in order.

    Raises JobError for a value that the model does not have, or in another order.
    """
    places = [place.name for place in whole.graph().places]
    if unknown := [name for name in cuts if name not in places]:
        raise JobError(f"the model cannot be cut at {', '.join(unknown)}; it can at {', '.join(places) or 'no value'}")
    if sorted(cuts, key=places.index) != list(cuts) or len(set(cuts)) < len(cuts):
        raise JobError(f"the cuts {', '.join(cuts)} are not in the model's order")
    ends = ["", *cuts, ""]
    return [SliceBench(whole, *ends[i : i + 2], inputs, child, scratch) for i, scratch in enumerate(scratches)]
