"""A rank's prover of a circuit in slices: a bundle's slices one after the other, by one child.

All witnesses come first, each slice's made of the outputs of the one before, as field elements: without a witness nothing is proved.
Then the proofs. A child holds the key of one slice at a time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enclaveml.zk.ezkl import field, statement
from enclaveml.zk.ezkl.bench import input_document
from enclaveml.zk.ezkl.files import COMPILED, PK, SETTINGS, SRS, VK
from enclaveml.zk.ezkl.prover import EzklProver, NoWitness, raise_error
from enclaveml.zk.ezkl.slices.format import Slice, slices_of
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.interface import Proof, load_circuit
from enclaveml.zk.pool import Steps
from enclaveml.zk.process import Call, Reply


class SlicesProver(EzklProver):
    """See ``interface.Prover``."""

    def __init__(self, folder: Path, children: int, threads: int, scratch: Path | None) -> None:
        self._slices = slices_of(load_circuit(folder))
        super().__init__(folder, children, threads, scratch)

    def _files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.file(name) for each in self._slices for name in (COMPILED, SETTINGS, PK, VK, SRS)))

    def _names(self, serial: int) -> dict[str, str]:
        return super()._names(serial) | {f"witness-{each.number}": f"{serial}-witness-{each.number}" for each in self._slices}

    def _prove(self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]) -> Steps[Proof]:
        circuit = self.circuit
        if rows.shape[1:] != circuit.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, the circuit takes {circuit.row_shape}")
        felts, outputs = yield from self._witness(rows, timeout_s, names, seconds)
        proofs: list[bytes] = []
        for each in self._slices:
            path = each.paths(circuit.folder)
            proved: Reply = yield Call(
                "prove",
                {
                    "witness": str(self._scratch.file(names[f"witness-{each.number}"])), "circuit": path[COMPILED], "pk": path[PK],
                    "srs": path[SRS], "proof": str(self._scratch.file(names["proof"])),
                },
                timeout_s - seconds["witness"] - seconds["prove"],
            )
            seconds["prove"] += proved.seconds
            raise_error(f"prove, slice {each.number + 1} of {len(self._slices)}", proved)
            proofs.append(proved.block)
        section = b""
        if circuit.inputs == "committed":
            section = proofs[0][: statement.COMMITMENT_BYTES]
        elif call := tie_call(circuit.inputs, felts, self._slices[0].paths(circuit.folder), self._scratch, names["felts"],
                              timeout_s - seconds["witness"] - seconds["prove"]):
            tied: Reply = yield call
            raise_error(call.name, tied)
            section = tie_bytes(circuit.inputs, tied.value)
        return Proof(b"".join(proofs), section, outputs)

    def _witness(
        self, rows: np.ndarray, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[tuple[bytes, np.ndarray]]:
        """Make all slices' witnesses: the input's field elements, outputs (B, D) int64.

        Raises NoWitness where a slice has none for these rows.
        """
        circuit = self.circuit
        try:
            felts = statement.input_felts(rows, circuit.rows, circuit.input_scale)
        except ValueError as error:
            raise NoWitness(f"input: {error}") from error
        values, outputs = felts, np.empty(0, np.int64)
        for each in self._slices:
            values, outputs = yield from self._one_witness(each, values, timeout_s, names, seconds)
        return felts, outputs.reshape(circuit.rows, circuit.outputs)

    def _one_witness(
        self, each: Slice, values: bytes, timeout_s: float, names: dict[str, str], seconds: dict[str, float]
    ) -> Steps[tuple[bytes, np.ndarray]]:
        """One slice's outputs, as field elements and as int64 (they are in range)."""
        where = f"slice {each.number + 1} of {len(self._slices)}"
        made: Reply = yield Call(
            "witness",
            {
                "data": self._scratch.write(names["input"], input_document(values)),
                "circuit": each.paths(self.circuit.folder)[COMPILED],
                "output": str(self._scratch.file(names[f"witness-{each.number}"])),
            },
            timeout_s - seconds["witness"],
        )
        seconds["witness"] += made.seconds
        if made.ended:
            raise_error(f"witness, {where}", made)
        if made.error:
            raise NoWitness(f"witness, {where}: {made.error}")
        low, high = each.settings["lookup_range"]
        if not low <= made.value["min_lookup"] <= made.value["max_lookup"] <= high:
            raise NoWitness(  # prove would never return
                f"{where}: lookups reach {made.value['min_lookup']}..{made.value['max_lookup']}, the circuit's table is {low}..{high}"
            )
        try:
            return made.block, field.from_felts(made.block)
        except ValueError as error:
            raise NoWitness(f"{where}, an output: {error}") from error
