"""Verifying proofs in slices for somebody who trusts neither workers nor aggregator, from keys in a results file.

What he needs to know of the circuit is that each slice's key and settings have the id that the circuit's id is made of, that each
commits to what goes in and out where another slice is beside it, that both sides take the same numbers, in the same domain and
at the same scale, and that all have the same SRS. Of a bundle: every slice's proof, and that each link holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from enclaveml.errors import FormatError
from enclaveml.results_reader import CircuitKeys
from enclaveml.zk.ezkl import statement
from enclaveml.zk.ezkl.audit import EzklAuditor, Statement, check_rest, compare, full_srs, limit_of, mode_of, said_of
from enclaveml.zk.ezkl.document import pack
from enclaveml.zk.ezkl.files import SETTINGS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.onnx_bound import BOUNDS
from enclaveml.zk.ezkl.slices import packed
from enclaveml.zk.ezkl.slices.format import Slice, check_links, parts_of, slices_of
from enclaveml.zk.ezkl.slices.verifier import instances_of
from enclaveml.zk.interface import SLICED, Circuit, Proof, circuit_from_manifest
from enclaveml.zk.pool import Steps


@dataclass(frozen=True)
class SlicesStatement:
    """What proofs of one circuit in slices are checked against; each part agrees with every other and with its id.

    vks, settings: one of each slice, in order; settings are canonical JSON, made anew.
    """

    circuit: Circuit
    slices: tuple[Slice, ...]
    vks: tuple[bytes, ...]
    settings: tuple[bytes, ...]
    srs: bytes


class SlicesAudit:
    """See ``auditing.AuditSystem``."""

    def statement(self, circuit_id: str, keys: CircuitKeys) -> SlicesStatement:
        """The statement that keys of a results file stand for.

        Raises FormatError where the id does not follow from them, where the manifest says anything that the settings,
        which the id covers, do not, or where two slices do not meet.
        """
        circuit = circuit_from_manifest(keys.manifest, Path(circuit_id))
        where = f"circuit {circuit_id[:16]}"
        if circuit.system != SLICED or circuit.circuit_id != circuit_id:
            raise FormatError(f"{where}: its manifest is of system {str(circuit.system)[:40]!r} and circuit {str(circuit.circuit_id)[:16]}")
        slices = slices_of(circuit)
        vks = packed.unpack(keys.vk, len(slices))
        try:
            documents = json.loads(keys.settings)
            texts = tuple(json.dumps(statement.canonical_settings(document), sort_keys=True).encode() for document in documents)
            for each, vk, document in zip(slices, vks, documents, strict=True):
                _check_slice(circuit, each, vk, document, keys.srs)
            bound = circuit.settings["bound"], circuit.inputs_bounded
            wanted = slices[0].settings["bound"], slices[0].settings["bound"] in BOUNDS
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, RecursionError) as error:
            raise FormatError(f"{where}: its settings are not those of a circuit in slices: {error!r}") from error
        if bound != wanted or any(each.settings["bound"] for each in slices[1:]):
            raise FormatError(f"{where}: what its manifest says of how inputs are bounded is not what its first slice says")
        check_rest(circuit, keys.srs)
        return SlicesStatement(circuit, slices, tuple(vks), texts, keys.srs)

    def input_limit(self, wanted: SlicesStatement) -> float | None:
        """See ``auditing.AuditSystem``: by the first slice."""
        return limit_of(wanted.circuit, wanted.settings[0])

    def auditor(self, wanted: SlicesStatement, processes: int, data: bool, srs: Path | None,
                progress: Callable[[str], None]) -> SlicesAuditor:
        """An auditor; commitments to the data need the whole SRS, ``srs`` or this machine's own."""
        committed = data and wanted.circuit.inputs == "committed"
        return SlicesAuditor(wanted, processes, full_srs(wanted.circuit.logrows, wanted.srs, srs, progress) if committed else None)

    def version(self) -> str:
        """The installed version of ezkl."""
        return metadata.version("ezkl")


def _check_slice(circuit: Circuit, each: Slice, vk: bytes, document: dict, srs: bytes) -> None:
    """Raise FormatError unless a slice is what the manifest says, by what its id covers."""
    where = f"circuit {circuit.circuit_id[:16]}, slice {each.number + 1}"
    settings = json.dumps(statement.canonical_settings(document), sort_keys=True).encode()
    args, shapes, sizes = document["run_args"], document["model_instance_shapes"], document["module_sizes"]
    shown = [math.prod(shape) for shape in shapes]
    values, given = each.rows * each.width, each.rows * each.outputs
    # What is public, in the one column of instances, and what is committed, a column each: inputs, then outputs.
    public = [values] * (each.inputs == "public") + [given] * each.last
    committed = [values] * (each.inputs == "committed") + [given] * (not each.last)
    files = {name: circuit.files.get(each.file(name)) for name in (VK, VERIFIER_SRS, SETTINGS)}
    said = {
        **said_of(each, vk, settings, document, srs, circuit.version, each.settings["bound"], files),
        "outputs": (mode_of(args["output_visibility"]), each.output_mode),
        "weights": (args["param_visibility"], "Fixed"),
        "committed values": (sizes["polycommit"], committed),
        "public values": (shown, ([1] if each.inputs == "hashed" and len(shown) > len(public) else []) + public),
    }
    if each.last:
        said["rows"] = (shapes[-1][0], each.rows)
    compare(where, said)


class SlicesAuditor(EzklAuditor):
    """See ``auditing.Auditor``."""

    statement: SlicesStatement  # type: ignore[assignment]

    def __init__(self, wanted: SlicesStatement, processes: int, whole_srs: Path | None = None) -> None:
        super().__init__(Statement(wanted.circuit, wanted.vks[0], wanted.settings[0], wanted.srs), processes, whole_srs)
        self.statement = wanted
        self._paths = [
            self._written(vk, settings, wanted.srs, None, f"slice{number}-")
            for number, (vk, settings) in enumerate(zip(wanted.vks, wanted.settings, strict=True))
        ]

    def _check(self, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, prefix: str) -> Steps[None]:
        circuit, slices = self.statement.circuit, self.statement.slices
        outputs = statement.check_sections(proof, circuit.inputs, circuit.rows, circuit.outputs, circuit.proof_bytes)
        proofs = parts_of(proof.computation, slices)
        felts = yield from self._inputs(proof, shown, owned, prefix)
        check_links(slices, proofs)
        for each, part, path in zip(slices, proofs, self._paths, strict=True):
            instances = instances_of(each, felts, proof.commitment, outputs)
            yield from self._verify(pack(instances, part), path, prefix,
                                    f"slice {each.number + 1} of {len(slices)} does not verify")
