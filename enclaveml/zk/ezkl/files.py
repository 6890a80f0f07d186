"""Names of the files of an ezkl circuit's folder."""

from __future__ import annotations

from enclaveml.zk.interface import Circuit

COMPILED, SETTINGS, PK, VK = "model.circuit", "settings.json", "proving.key", "verification.key"
SRS, VERIFIER_SRS = "srs", "verifier.srs"

#: All that a prover needs; ``VERIFIER_SRS`` is what a verifier needs instead of ``SRS``.
FILES = (COMPILED, SETTINGS, PK, VK, SRS, VERIFIER_SRS)


def auditor_files(circuit: Circuit) -> dict[str, bytes]:
    """What someone else needs to verify proofs of this circuit: the contents of vk, settings and srs (388 bytes)."""
    return {name: (circuit.folder / file).read_bytes()
            for name, file in (("vk", VK), ("settings", SETTINGS), ("srs", VERIFIER_SRS))}
