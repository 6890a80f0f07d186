"""Where a node keeps copies that a job needs there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def scratch_root(env: Mapping[str, str] = os.environ) -> Path:
    """Node-local space: ENCLAVEML_SCRATCH, else SLURM_TMPDIR, else TMPDIR, else /tmp."""
    for name in ("ENCLAVEML_SCRATCH", "SLURM_TMPDIR", "TMPDIR"):
        if env.get(name):
            return Path(env[name])
    return Path("/tmp")
