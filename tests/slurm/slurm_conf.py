"""The configuration of a test cluster: its nodes, and the files that tell Slurm of them.

References: slurm.conf(5), gres.conf(5), of Slurm 22.05.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONF = """\
ClusterName=enclaveml
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Short-lived credentials: a job goes back to the queue only when they have run out.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# Nodes say that they have more CPUs and memory than this host.
SlurmdParameters=config_overrides
ReturnToService=2
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=5
CompleteWait=0
MinJobAge=3600
InactiveLimit=0
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Node:
    """A node as Slurm is told that it is. ``memory_gb`` in GiB."""

    name: str
    cpus: int
    memory_gb: int
    gpus: int = 0


def write(folder: Path, nodes: Sequence[Node], named: bool) -> Path:
    """Write slurm.conf, gres.conf and the GPUs into ``folder``; the path of slurm.conf.

    ``named``: each node's host name is its own name, not this host's.
    """
    host = socket.gethostname().partition(".")[0]
    ports = _free_ports(1 + len(nodes))
    lines, gres = [], []
    for node, port in zip(nodes, ports[1:], strict=True):
        (folder / f"spool.{node.name}").mkdir()
        gpus = f" Gres=gpu:{node.gpus}" if node.gpus else ""
        own = node.name if named else host
        lines.append(
            f"NodeName={node.name} NodeHostname={own} NodeAddr=127.0.0.1 Port={port} CPUs={node.cpus} "
            f"RealMemory={node.memory_gb * 1024}{gpus} Weight={1 + node.gpus} State=UNKNOWN"
        )
        for number in range(node.gpus):
            device = folder / f"{node.name}-gpu{number}"
            os.mknod(device, 0o20666, os.makedev(1, 3))  # the null device
            gres.append(f"NodeName={node.name} Name=gpu File={device}")
    (folder / "state").mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, ctld_port=ports[0], folder=folder, nodes="\n".join(lines)))
    (folder / "gres.conf").write_text("\n".join(gres) + "\n")
    return conf


def _free_ports(n: int) -> list[int]:
    """Ports that nobody listens on now. They are taken at once by the daemons."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
