"""The one module that imports ezkl: a process that runs one ezkl call at a time (``zk/serve.py`` is its loop).

ezkl holds the GIL through every call, some of its calls never return, and its Rust
panics are no ``Exception``: so it lives here, where it can be killed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from enclaveml.zk import serve
from enclaveml.zk.ezkl import document


def _json(path: str) -> Any:
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def _felts(columns: list[list[str]]) -> bytes:
    """Columns of little-endian hex field elements, row-major, as 32 bytes each."""
    return bytes.fromhex("".join("".join(column) for column in columns))


class Calls:
    """The commands. Each takes JSON arguments and returns (JSON object, block of bytes)."""

    def __init__(self, ezkl: Any) -> None:
        self.ezkl = ezkl

    def version(self) -> tuple[dict, bytes]:
        return {"version": self.ezkl.__version__}, b""

    def settings(self, model: str, output: str, run_args: dict) -> tuple[dict, bytes]:
        args = self.ezkl.PyRunArgs()
        for name, value in run_args.items():
            setattr(args, name, tuple(value) if isinstance(value, list) else value)
        if not self.ezkl.gen_settings(model, output, args):
            raise RuntimeError("gen_settings returned False")
        return {"settings": _json(output)}, b""

    def compile(self, model: str, circuit: str, settings: str) -> tuple[dict, bytes]:
        if not self.ezkl.compile_circuit(model, circuit, settings):
            raise RuntimeError("compile_circuit returned False")
        return {"settings": _json(settings)}, b""

    def srs(self, path: str, logrows: int) -> tuple[dict, bytes]:
        self.ezkl.gen_srs(path, logrows)
        return {}, b""

    def setup(self, circuit: str, vk: str, pk: str, srs: str) -> tuple[dict, bytes]:
        if not self.ezkl.setup(circuit, vk, pk, srs):
            raise RuntimeError("setup returned False")
        return {}, b""

    def witness(self, data: str, circuit: str, output: str) -> tuple[dict, bytes]:
        """Outputs as 32-byte field elements in the block."""
        found = self.ezkl.gen_witness(data, circuit, output)
        header = {
            "min_lookup": int(found["min_lookup_inputs"]),
            "max_lookup": int(found["max_lookup_inputs"]),
            "max_range": int(found["max_range_size"]),
            "counts": [len(column) for column in found["outputs"]],
        }
        return header, _felts(found["outputs"])

    def prove(self, witness: str, circuit: str, pk: str, srs: str, proof: str) -> tuple[dict, bytes]:
        """The proof's bytes in the block; the proof document is removed."""
        self.ezkl.prove(witness, circuit, pk, proof, srs)
        document = _json(proof)
        os.unlink(proof)
        return {"instances": [len(column) for column in document["instances"]]}, bytes(document["proof"])

    def verify(self, proof: str, settings: str, vk: str, srs: str) -> tuple[dict, bytes]:
        return {"valid": self.ezkl.verify(proof, settings, vk, srs, False) is True}, b""

    def verify_parts(self, parts: str, settings: str, vk: str, srs: str) -> tuple[dict, bytes]:
        """Verify a proof whose document is made here, of what ``document.pack`` put into the file ``parts``."""
        return self._verify_text(document.text(*document.unpack(Path(parts).read_bytes())), parts, settings, vk, srs)

    def verify_rows(self, parts: str, of: dict[str, Any], settings: str, vk: str, srs: str) -> tuple[dict, bytes]:
        """Verify a proof about rows, from what ``statement.pack_rows`` put into the file ``parts``; ``of`` says how many.

        ``unfit`` is the reason why there is no statement about these rows, else "".
        """
        from enclaveml.zk.ezkl import statement  # numpy, which provers do without

        try:
            found = statement.parts_of_rows(Path(parts).read_bytes(), **of)
        except ValueError as error:
            return {"valid": False, "unfit": str(error)}, b""
        answer, block = self._verify_text(document.text(*found), parts, settings, vk, srs)
        return answer | {"unfit": ""}, block

    def _verify_text(self, text: str, beside: str, settings: str, vk: str, srs: str) -> tuple[dict, bytes]:
        path = Path(beside + ".json")
        try:
            path.write_text(text, encoding="ascii")
            return self.verify(str(path), settings, vk, srs)
        finally:
            path.unlink(missing_ok=True)

    def commit(self, message: str, vk: str, settings: str, srs: str) -> tuple[dict, bytes]:
        """KZG commitment of the field elements in the file ``message``: x and y, little-endian hex."""
        felts = Path(message).read_text(encoding="ascii").split()
        points = self.ezkl.kzg_commit(felts, vk, settings, srs)
        return {"points": [[point.x, point.y] for point in points]}, b""

    def poseidon(self, message: str) -> tuple[dict, bytes]:
        felts = Path(message).read_text(encoding="ascii").split()
        return {"hash": list(self.ezkl.poseidon_hash(felts))}, b""

    def quantise(self, values: list[float], scale: int) -> tuple[dict, bytes]:
        """ezkl's own quantisation, for tests: field elements as 32 bytes each."""
        kind = self.ezkl.PyInputType.F64
        return {}, _felts([[self.ezkl.float_to_felt(value, scale, kind) for value in values]])


def _calls() -> Calls:
    import ezkl

    return Calls(ezkl)


if __name__ == "__main__":
    serve.serve(sys.argv, _calls)
