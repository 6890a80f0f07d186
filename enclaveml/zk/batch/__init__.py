"""A transparent proof system for whole batches of rows (``PROTOCOL.md``): format, prover, verifier."""
