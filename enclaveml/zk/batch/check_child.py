"""The child process that verifies: numpy and hashlib, nothing of the prover."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from enclaveml.zk import serve
from enclaveml.zk.batch.format import VerificationKey
from enclaveml.zk.batch.verify.api import KnownInputs, verify, verify_masked, verify_weights


class Calls:
    """The commands; a proof that does not hold raises ``Rejected``, whose text is the reply's error."""

    def verify(self, key: str, inputs: str, outputs: str, proof: str, nonce: str) -> tuple[dict, bytes]:
        """Check a proof about inputs int16 (N, K) and outputs int32 (N, D), all in files."""
        known = VerificationKey.from_bytes(Path(key).read_bytes())
        x = np.fromfile(inputs, "<i2").reshape(known.rows, known.width)
        y = np.fromfile(outputs, "<i4").reshape(known.rows, known.outputs)
        verify(known, bytes.fromhex(nonce), x, y, Path(proof).read_bytes())
        return {"valid": True}, b""

    def verify_masked(self, key: str, outputs: str, proof: str, nonce: str, inputs: str = "", input_key: str = "") -> tuple[dict, bytes]:
        """The same of a proof with mask rows, N without them: of these inputs (``input_key`` in hex), or of any."""
        known = VerificationKey.from_bytes(Path(key).read_bytes())
        y = np.fromfile(outputs, "<i4").reshape(known.real_rows, known.outputs)
        given = None
        if inputs:
            given = KnownInputs(np.fromfile(inputs, "<i2").reshape(known.real_rows, known.width), bytes.fromhex(input_key))
        verify_masked(known, bytes.fromhex(nonce), y, Path(proof).read_bytes(), given)
        return {"valid": True}, b""

    def verify_weights(self, key: str, proof: str) -> tuple[dict, bytes]:
        """Check that the weights under a key's roots are int8."""
        verify_weights(VerificationKey.from_bytes(Path(key).read_bytes()), Path(proof).read_bytes())
        return {"valid": True}, b""


if __name__ == "__main__":
    serve.serve(sys.argv, Calls)
