"""The batch protocol's verifier (``PROTOCOL.md``): numpy and hashlib, and the format."""
