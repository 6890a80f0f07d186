"""The batch prover (PROTOCOL.md): jitted JAX, imported by the proving child process alone."""
