"""Names of the files of an ezkl circuit's folder."""

COMPILED, SETTINGS, PK, VK = "model.circuit", "settings.json", "proving.key", "verification.key"
SRS, VERIFIER_SRS = "srs", "verifier.srs"

#: All that a prover needs; ``VERIFIER_SRS`` is what a verifier needs instead of ``SRS``.
FILES = (COMPILED, SETTINGS, PK, VK, SRS, VERIFIER_SRS)
