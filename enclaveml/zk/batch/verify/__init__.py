"""The batch protocol's verifier (``PROTOCOL.md``): numpy and hashlib alone, no code of the prover but the format."""
