"""EnclaveML: batch inference over MPI ranks, every row with a zero-knowledge proof."""

__version__ = "0.1.0"
