"""The programs of the batch system's child processes: one proves, in JAX, the other verifies, in numpy alone."""

from __future__ import annotations

from enclaveml.zk.process import Program

PROVER = Program("enclaveml.zk.batch.child", "the batch prover", ("NPROC",))
VERIFIER = Program("enclaveml.zk.batch.check_child", "the batch verifier", ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))
