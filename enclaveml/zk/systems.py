"""The proof systems by their names in a job and in a circuit's manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclaveml.errors import FormatError
from enclaveml.zk.interface import SLICED, SYSTEMS

if TYPE_CHECKING:
    from enclaveml.zk.auditing import AuditSystem
    from enclaveml.zk.interface import ProofSystem


def system_of(name: str) -> ProofSystem:
    """The system of that name (``proof.system`` of a job, ``Circuit.system``). Raises FormatError for another name."""
    if name == "ezkl":
        from enclaveml.zk.ezkl.system import EzklSystem

        return EzklSystem()
    if name == SLICED:
        from enclaveml.zk.ezkl.slices.system import SlicesSystem

        return SlicesSystem()
    if name == "batch":
        from enclaveml.zk.batch.system import BatchSystem

        return BatchSystem()
    raise FormatError(f"proof system {name!r}; allowed: {', '.join(SYSTEMS)}")


def audit_system(name: object) -> AuditSystem:
    """The audit of the system that a manifest names. Raises FormatError for another name."""
    if name == "ezkl":
        from enclaveml.zk.ezkl.audit import EzklAudit

        return EzklAudit()
    if name == SLICED:
        from enclaveml.zk.ezkl.slices.audit import SlicesAudit

        return SlicesAudit()
    if name == "batch":
        from enclaveml.zk.batch.audit import BatchAudit

        return BatchAudit()
    raise FormatError(f"its manifest says system {str(name)[:40]!r}; ezkl, ezkl-slices and batch are known")
