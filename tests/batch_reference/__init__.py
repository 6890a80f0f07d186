"""A slow prover of the batch protocol in Python integers, written from PROTOCOL.md alone.

It shares nothing with the package's prover and verifier but format.py. Proofs are deterministic, so that it says, byte
by byte, what the prover in JAX must give; and every message passes through a hook, so that tests can be dishonest.
"""
