"""Verifying proofs for somebody who trusts neither workers nor aggregator, from keys in a results file.

The statement is rebuilt as the aggregator's verifier does it (``statement.py``), with the public
input values where the file has them, and with the proof's own commitment or hash where it has not.
Who has the inputs gives them, and then the commitment or hash is recomputed from them.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.results_reader import CircuitKeys
from enclaveml.srs_file import VERIFIER_BYTES, SrsFile, verifier_srs
from enclaveml.zk import keys
from enclaveml.zk.auditing import Checked
from enclaveml.zk.ezkl import field, srs, statement
from enclaveml.zk.ezkl.document import pack
from enclaveml.zk.ezkl.files import SETTINGS, SRS, VERIFIER_SRS, VK
from enclaveml.zk.ezkl.onnx_bound import BOUNDS, largest_input
from enclaveml.zk.ezkl.program import EZKL
from enclaveml.zk.ezkl.slices.format import Slice
from enclaveml.zk.ezkl.tie import tie_bytes, tie_call
from enclaveml.zk.ezkl.verifier import TIMEOUT_S
from enclaveml.zk.interface import Circuit, Proof, circuit_from_manifest
from enclaveml.zk.pool import Pool, Steps
from enclaveml.zk.process import Call, Reply
from enclaveml.zk.scratch import Scratch

#: Longest time (s) for making the part of an SRS that commitments need.
SETUP_S = 3600.0

_VISIBILITY = {"Public": "public", "KZGCommit": "committed"}


def mode_of(visibility: object) -> str:
    """The input mode (``interface.INPUT_MODES``) that a visibility in ezkl's settings is. Raises KeyError, TypeError for none."""
    return "hashed" if isinstance(visibility, dict) and "Hashed" in visibility else _VISIBILITY[visibility]  # type: ignore[index]


@dataclass(frozen=True)
class Statement:
    """What proofs of one circuit are checked against; each part agrees with every other and with its id.

    ``settings`` are canonical JSON, made anew, so that nothing hides in how they were written.
    """

    circuit: Circuit
    vk: bytes
    settings: bytes
    srs: bytes


class EzklAudit:
    """See ``auditing.AuditSystem``."""

    def statement(self, circuit_id: str, keys: CircuitKeys) -> Statement:
        """See :func:`statement_of`."""
        return statement_of(circuit_id, keys.vk, keys.settings, keys.srs, keys.manifest)

    def input_limit(self, wanted: Statement) -> float | None:
        """See :func:`input_limit`."""
        return input_limit(wanted)

    def auditor(self, wanted: Statement, processes: int, data: bool, srs: Path | None,
                progress: Callable[[str], None]) -> EzklAuditor:
        """An auditor; commitments to the data need the whole SRS, ``srs`` or this machine's own."""
        whole = full_srs(wanted.circuit.logrows, wanted.srs, srs, progress) if data and wanted.circuit.inputs == "committed" else None
        return EzklAuditor(wanted, processes, whole)

    def version(self) -> str:
        """The installed version of ezkl."""
        return metadata.version("ezkl")


def statement_of(circuit_id: str, vk: bytes, settings: bytes, srs_bytes: bytes, manifest: Mapping[str, Any]) -> Statement:
    """The statement that keys of a results file stand for.

    Raises FormatError where ``circuit_id`` does not follow from them, or where the manifest says
    anything that the settings, which the id covers, do not.
    """
    circuit = circuit_from_manifest(manifest, Path(circuit_id))
    try:
        document = json.loads(settings)
        canonical = statement.canonical_settings(document)
        args, shapes = document["run_args"], document["model_instance_shapes"]
        inputs = mode_of(args["input_visibility"])
        bundle, outputs = int(shapes[-1][0]), math.prod(shapes[-1]) // int(shapes[-1][0])
        values = bundle * math.prod(circuit.row_shape)
        sizes = {
            "public": math.prod(shapes[0]) if len(shapes) == 2 else -1,
            "committed": sum(document["module_sizes"]["polycommit"]),
            "hashed": values,
        }
        said = {
            "system": ("ezkl", circuit.system),
            **said_of(circuit, vk, settings, document, srs_bytes, circuit.version, circuit.bound, circuit.files),
            "rows": (bundle, circuit.rows),
            "outputs": (outputs, circuit.outputs),
            "row_shape": (sizes[inputs], values),
            "inputs_bounded": (circuit.bound in BOUNDS, circuit.inputs_bounded),
        }
        found, _ = said["circuit_id"]
        said["circuit_id"] = circuit_id, circuit.circuit_id
        fixed = args["param_visibility"], args["output_visibility"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise FormatError(f"circuit {circuit_id[:16]}: its settings are not those of a circuit: {error!r}") from error
    if found != circuit_id:
        raise FormatError(f"circuit {circuit_id[:16]}: its keys and settings have the id {found[:16]}")
    compare(f"circuit {circuit_id[:16]}", said)
    if fixed != ("Fixed", "Public"):
        raise FormatError(f"circuit {circuit_id[:16]}: weights are {fixed[0]} and outputs {fixed[1]}, "
                          f"expected Fixed and Public: its proofs do not bind the model")
    check_rest(circuit, srs_bytes)
    text = json.dumps(canonical, sort_keys=True).encode()
    return Statement(circuit, vk, text, srs_bytes)


def said_of(
    one: Circuit | Slice, vk: bytes, settings: bytes, document: Mapping[str, Any], srs_bytes: bytes, version: str, bound: str,
    files: Mapping[str, str],
) -> dict[str, tuple[object, object]]:
    """What key, settings and SRS say of a circuit or a slice, and what its manifest does, by name; for :func:`compare`.

    document: the settings as JSON has them. version, bound: as the id covers them. files: SHA-256 of the three files in the manifest.
    Raises KeyError, TypeError and their like for a document that is no settings.
    """
    digests = {VK: _sha(vk), VERIFIER_SRS: _sha(srs_bytes), SETTINGS: _sha(settings)}
    args = document["run_args"]
    return {
        "circuit_id": (statement.circuit_id(digests, document, version, bound), one.circuit_id),
        "version": (document["version"], version),
        "inputs": (mode_of(args["input_visibility"]), one.inputs),
        "input_scale": (document["model_input_scales"], [one.input_scale]),
        "output_scale": (document["model_output_scales"], [one.output_scale]),
        "logrows": (args["logrows"], one.logrows),
        **{name: (digest, files.get(name)) for name, digest in digests.items()},
    }


def compare(where: str, said: Mapping[str, tuple[object, object]]) -> None:
    """Raise FormatError at the first of ``said`` (what follows, what is claimed) where these differ."""
    for name, (wanted, claimed) in said.items():
        if wanted != claimed:
            raise FormatError(f"{where}: its manifest says {name} {claimed!r}, its settings {wanted!r}")


def check_rest(circuit: Circuit, srs_bytes: bytes) -> None:
    """Raise FormatError for an SRS that is none, or where a manifest says what no circuit's does, of what no settings say."""
    where = f"circuit {circuit.circuit_id[:16]}"
    if len(srs_bytes) != VERIFIER_BYTES or srs_bytes[:4] != bytes(4):
        raise FormatError(f"{where}: its SRS is {len(srs_bytes)} bytes, expected {VERIFIER_BYTES}")
    if type(circuit.proof_bytes) is not int or not (0 < circuit.proof_bytes <= 1 << 24 and circuit.tolerance >= 0):
        raise FormatError(f"{where}: proof_bytes or tolerance out of range")
    if not isinstance(circuit.srs_origin, str) or circuit.srs_origin == "none":  # what a system without an SRS says
        raise FormatError(f"{where}: srs_origin is {circuit.srs_origin!r}: it does not say where its SRS is from")


def input_limit(wanted: Statement) -> float | None:
    """The largest magnitude of an input of a circuit that bounds its inputs; None for one that does not."""
    return limit_of(wanted.circuit, wanted.settings)


def limit_of(circuit: Circuit, settings: bytes) -> float | None:
    """The same, by the canonical settings of the circuit that takes the inputs."""
    if not circuit.inputs_bounded:
        return None
    return largest_input(circuit.bound, json.loads(settings)["run_args"]) * 2.0**-circuit.input_scale


def full_srs(logrows: int, verifier: bytes, given: Path | None, progress: Callable[[str], None] = lambda line: None) -> Path:
    """The whole SRS that commitments of this circuit are made with: ``given``, or this machine's own.

    A larger one is reduced, once on this machine.
    Raises EnvironmentFault where there is none, or where it is another one than the file's, or too small.
    """
    path = given or keys.cache_root() / "srs" / f"own-{logrows}" / "srs"
    if not path.exists():
        raise EnvironmentFault(
            f"{path}: no such SRS; a commitment to the inputs needs the whole SRS of 2^{logrows} rows that the "
            f"aggregator used: give it with --srs"
        )
    if verifier_srs(path) != verifier:
        raise EnvironmentFault(f"{path}: is another SRS than the one that these proofs were made with; give that with --srs")
    return srs.part_of(keys.Cache(), logrows, SrsFile(path, keys.sha256_file(path)), SETUP_S, progress)


class EzklAuditor:
    """See ``auditing.Auditor``."""

    def __init__(self, wanted: Statement, processes: int, whole_srs: Path | None = None) -> None:
        self.statement = wanted
        self._scratch = Scratch()
        self._path = self._written(wanted.vk, wanted.settings, wanted.srs, whole_srs)
        self._pool: Pool[Checked] = Pool(EZKL, processes, 1, ahead=processes)
        self._serial = 0

    def _written(self, vk: bytes, settings: bytes, srs_bytes: bytes, whole_srs: Path | None, prefix: str = "") -> dict[str, str]:
        """Paths of the keys, which are written to the scratch folder."""
        found = {
            name: self._scratch.write(prefix + name, data)
            for name, data in ((VK, vk), (SETTINGS, settings), (VERIFIER_SRS, srs_bytes))
        }
        return found if whole_srs is None else found | {SRS: str(whole_srs)}

    @property
    def outstanding(self) -> int:
        return self._pool.outstanding

    def submit(
        self, task: int, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, nonce: bytes = b"",
        input_key: bytes = b"",
    ) -> None:
        """See ``auditing.Auditor``; an ezkl proof is bound to no nonce."""
        self._serial += 1
        self._pool.submit(self._steps(task, proof, shown, owned, f"{self._serial}-"), ready=True)

    def wait(self, seconds: float) -> None:
        self._pool.wait(seconds)

    def poll(self) -> list[Checked]:
        return self._pool.poll()

    def close(self) -> None:
        self._pool.close()
        self._scratch.close()

    def _steps(self, task: int, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None,
               prefix: str) -> Steps[Checked]:
        started, error = time.monotonic(), ""
        try:
            yield from self._check(proof, shown, owned, prefix)
        except Exception as problem:  # whatever it is, it is no proof
            error = str(problem) or repr(problem)
        finally:
            self._scratch.drop(f"{prefix}felts", f"{prefix}document")
        return Checked(task, error, owned is not None and not error, time.monotonic() - started)

    def _check(self, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, prefix: str) -> Steps[None]:
        circuit = self.statement.circuit
        outputs = statement.check_sections(proof, circuit.inputs, circuit.rows, circuit.outputs, circuit.proof_bytes)
        felts = yield from self._inputs(proof, shown, owned, prefix)
        parts = statement.proof_parts(
            circuit.inputs, proof.computation, outputs, felts=felts, digest=proof.commitment,
            commitment=proof.commitment,
        )
        yield from self._verify(pack(*parts), self._path, prefix)

    def _inputs(self, proof: Proof, shown: np.ndarray | None, owned: np.ndarray | None, prefix: str) -> Steps[bytes]:
        """The public inputs' field elements; what else ties the inputs is compared here. Raises FormatError, ValueError."""
        circuit = self.statement.circuit
        felts = b""
        if circuit.inputs == "public":
            felts = self._felts(shown)
            if owned is not None and self._felts(owned) != felts:
                raise FormatError("its rows are not those of the inputs given")
        elif owned is not None:
            yield from self._tie(proof, owned, prefix)
        if circuit.inputs == "committed" and proof.commitment != proof.computation[: len(proof.commitment)]:
            raise FormatError("its commitment section is not the commitment in the proof")
        if circuit.inputs == "hashed" and int.from_bytes(proof.commitment, "little") >= field.MODULUS:
            raise FormatError("its hash is no canonical field element")
        return felts

    def _verify(self, packed: bytes, path: Mapping[str, str], prefix: str, what: str = "does not verify") -> Steps[None]:
        """Have a proof, packed with its instances, verified by the key at these paths. Raises FormatError."""
        reply: Reply = yield Call(
            "verify_parts",
            {"parts": self._scratch.write(f"{prefix}document", packed), "settings": path[SETTINGS], "vk": path[VK],
             "srs": path[VERIFIER_SRS]},
            TIMEOUT_S,
        )
        if reply.error or reply.value.get("valid") is not True:
            raise FormatError(f"{what}: {reply.error or 'ezkl.verify returned False'}")

    def _felts(self, rows: np.ndarray | None) -> bytes:
        """The instances of the rows, padding included; they are in range, or this raises ValueError."""
        circuit = self.statement.circuit
        if rows is None:
            raise FormatError("its input values are public, and not in the file")
        if rows.shape[1:] != circuit.row_shape or str(rows.dtype) != circuit.dtype:
            raise FormatError(f"rows of {rows.dtype}{rows.shape[1:]}, the circuit takes {circuit.dtype}{circuit.row_shape}")
        return statement.input_felts(rows, circuit.rows, circuit.input_scale)

    def _tie(self, proof: Proof, owned: np.ndarray, prefix: str) -> Steps[None]:
        inputs = self.statement.circuit.inputs
        call = tie_call(inputs, self._felts(owned), self._path, self._scratch, f"{prefix}felts", TIMEOUT_S)
        assert call is not None
        tied: Reply = yield call
        if tied.error:
            raise FormatError(f"{call.name} of the inputs given: {tied.error}")
        if tie_bytes(inputs, tied.value) != proof.commitment:
            what = {"committed": "commitment", "hashed": "hash"}[inputs]
            raise FormatError(f"its {what} is not that of the inputs given")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
