"""Trials of one model: export, settings, compile and witness at any choice, without keys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import ProofError
from enclaveml.zk import process
from enclaveml.zk.export import HASH_BATCH, export
from enclaveml.zk.ezkl import field, statement
from enclaveml.zk.ezkl.onnx_bound import bounded, largest_input, least_cells
from enclaveml.zk.ezkl.onnx_ids import one_hot_ids
from enclaveml.zk.ezkl.onnx_lean import lean
from enclaveml.zk.ezkl.onnx_norms import fold_norms
from enclaveml.zk.ezkl.onnx_products import merge_pools, products
from enclaveml.zk.ezkl.onnx_steps import steps
from enclaveml.zk.ezkl.plan import Choice
from enclaveml.zk.interface import ModelFunction
from enclaveml.zk.onnx_canonical import weights_of
from enclaveml.zk.rows import padded
from enclaveml.zk.scratch import Scratch, private


@dataclass(frozen=True)
class Trial:
    """The witness of some rows: outputs (n, D) float64 and the range that lookups saw."""

    outputs: np.ndarray
    lookup: tuple[int, int]


class Bench:
    """Trials of ``function`` in one child, files in a private folder."""

    def __init__(
        self, function: ModelFunction, inputs: str, child: process.Child, scratch: Scratch, outputs: str = "public"
    ) -> None:
        self.function, self.inputs, self.outputs, self.child, self.scratch = function, inputs, outputs, child, scratch
        self.timeout_s = 600.0
        self.spent = 0.0  # CPU seconds of ezkl's calls made here
        self._documents: dict[tuple[int, str], str] = {}
        self._settings: dict[Choice, dict[str, Any]] = {}

    def exported(self, batch: int) -> bytes:
        """The canonical document at a batch."""
        return export(self.function, batch)

    @cached_property
    def canonical(self) -> bytes:
        """The canonical document; made when it is asked for, since a cached circuit needs none."""
        return self.exported(HASH_BATCH)

    @property
    def model_hash(self) -> str:
        """SHA-256 (hex) of the canonical document."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def weights(self) -> int:
        """How many numbers the model's weights are."""
        return weights_of(self.canonical)

    def document(self, batch: int, bound: str = "") -> str:
        """Path of the lean ONNX document at a batch, its inputs bounded in that way."""
        if (batch, "") not in self._documents:
            document = self.canonical if batch == HASH_BATCH else self.exported(batch)
            document = products(lean(merge_pools(fold_norms(steps(one_hot_ids(document))))))
            self._documents[batch, ""] = self.scratch.write(f"model-{batch}.onnx", document)
        if (batch, bound) not in self._documents:
            document = bounded(Path(self._documents[batch, ""]).read_bytes(), bound)
            self._documents[batch, bound] = self.scratch.write(f"model-{batch}-{bound}.onnx", document)
        return self._documents[batch, bound]

    def _call(self, name: str, **args: Any) -> process.Reply:
        """One call of the child, its CPU seconds counted."""
        reply = process.wait(self.child, name, self.timeout_s, **args)
        self.spent += reply.cpu_seconds
        return reply

    def settings(self, choice: Choice, rows: int | None = None) -> dict[str, Any]:
        """Canonical settings of a choice, at its B or at ``rows``; made once. Not to be changed."""
        choice = choice if rows is None else replace(choice, rows=rows)
        if choice not in self._settings:
            reply = self._call(
                "settings", model=self.document(choice.rows, choice.bound),
                output=str(self.scratch.file("trial.json")), run_args=choice.run_args(self.inputs, self.outputs),
            )
            self._settings[choice] = statement.canonical_settings(reply.value["settings"])
        return self._settings[choice]

    def compile(self, choice: Choice, settings: dict[str, Any], circuit: str, settings_path: str) -> None:
        """Write settings and compiled circuit to the two paths."""
        with open(settings_path, "w", encoding="utf-8", opener=private) as handle:
            json.dump(settings, handle, sort_keys=True)
        self._call(
            "compile", model=self.document(choice.rows, choice.bound), circuit=circuit, settings=settings_path
        )

    def trial(self, choice: Choice, rows: np.ndarray) -> Trial:
        """Compile a choice and make witnesses of rows (n, *row_shape), B at a time.

        A witness depends on numerics, range and B alone, and making settings lays the circuit out: so they are
        those of two rows, with this choice's decomposition written into them.
        Raises ProofError where a value does not fit the decomposition.
        """
        settings = dict(self.settings(replace(choice, base=1 << 14, legs=2, inner=2, logrows=16), rows=2))
        settings["run_args"] = settings["run_args"] | {"decomp_base": choice.base, "decomp_legs": choice.legs}
        circuit = str(self.scratch.file("trial.circuit"))
        self.compile(choice, settings, circuit, str(self.scratch.file("trial-settings.json")))
        return self.witness(circuit, settings, choice.rows, rows)

    def witness(self, circuit: str, settings: dict[str, Any], bundle: int, rows: np.ndarray) -> Trial:
        """Witnesses of rows through a compiled circuit."""
        (input_scale,), (output_scale,) = settings["model_input_scales"], settings["model_output_scales"]
        outputs, low, high = [], 0, 0
        for start in range(0, len(rows), bundle):
            some = rows[start : start + bundle]
            try:
                felts = statement.input_felts(some, bundle, input_scale)
            except ValueError as error:
                raise ProofError(f"sample rows {start}..{start + len(some) - 1}: {error}") from error
            data = self.scratch.write("trial-input.json", input_document(felts))
            reply = self._call(
                "witness", data=data, circuit=circuit, output=str(self.scratch.file("trial-witness.json"))
            )
            try:
                values = field.from_felts(reply.block)
            except ValueError as error:
                raise ProofError(f"an output on the sample rows: {error}") from error
            outputs.append(field.dequantise(values, output_scale).reshape(bundle, -1)[: len(some)])
            low, high = min(low, reply.value["min_lookup"]), max(high, reply.value["max_lookup"])
        self.scratch.drop("trial-input.json", "trial-witness.json")
        return Trial(np.concatenate(outputs), (low, high))

    def check_bound(self, choice: Choice, circuit: str, settings: dict[str, Any], rows: np.ndarray) -> None:
        """Raise ProofError unless the compiled circuit bounds its inputs, should ezkl ever optimise that away.

        It must have the cells for it, and refuse an input one beyond the bound: the last of the first of
        ``rows`` (n, *row_shape). (A refusal alone could be a hidden value's, which grows with the input.)
        """
        free = self.settings(replace(choice, bound=""))["num_rows"]
        cells = (settings["num_rows"] - free) * choice.inner
        wanted = least_cells(choice.bound, choice.legs) * choice.rows * rows[0].size
        if cells < wanted:
            raise ProofError(f"the circuit has {cells} cells more than one that bounds no input, where that takes {wanted}")
        most = largest_input(choice.bound, settings["run_args"])
        (scale,) = settings["model_input_scales"]
        values = field.quantise(padded(rows[: choice.rows], choice.rows), scale)
        values[0].reshape(-1)[-1] = most + 1
        data = self.scratch.write("trial-input.json", input_document(field.to_felts(values)))
        try:
            reply = self._call(
                "witness", data=data, circuit=circuit, output=str(self.scratch.file("trial-witness.json"))
            )
        except ProofError:
            return
        finally:
            self.scratch.drop("trial-input.json", "trial-witness.json")
        low, high = settings["run_args"]["lookup_range"]
        if choice.bound == "table" and not low <= reply.value["min_lookup"] <= reply.value["max_lookup"] <= high:
            return  # the argument has no such line, and prove no way on
        raise ProofError(f"the circuit takes an input of {most + 1}, beyond the {most} that it should be bounded by")


def input_document(felts: bytes) -> str:
    """What ``gen_witness`` reads: field elements, so that no parsing of numbers changes them."""
    return json.dumps({"input_data": [field.hex_felts(felts)]}, separators=(",", ":"))
