"""The program of ezkl's child processes."""

from __future__ import annotations

from enclaveml.zk.process import Program

EZKL = Program("enclaveml.zk.ezkl.child", "ezkl", ("RAYON_NUM_THREADS",))
