"""Put the circuit's files within reach of every rank: once a node, in chunks, checked by digest.

Rank 0 has them in its cache. A node that reads the same files there (one machine, or a
home folder that nodes share) needs no copy; every other node's leader receives them by
Bcast and writes them to node-local scratch, for this user alone (one may be what hides weights). Every rank then checks the SHA-256 of each
file against the manifest that rank 0 sent, so that a bad copy on one node is that
node's fault and not its ranks' lie.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enclaveml.comm import CHUNK_BYTES, World
from enclaveml.errors import EnvironmentFault
from enclaveml.node_scratch import scratch_root
from enclaveml.together import together
from enclaveml.zk.interface import MANIFEST, Circuit, circuit_from_manifest
from enclaveml.zk.scratch import private


class LocalCircuit:
    """The circuit as this rank reads it; ``close`` removes what was copied for this job."""

    def __init__(self, circuit: Circuit, copied: Path | None) -> None:
        self.circuit, self._copied = circuit, copied

    def close(self) -> None:
        """Remove this node's copy (by its leader, when all ranks have ended)."""
        if self._copied is not None:
            shutil.rmtree(self._copied, ignore_errors=True)


def _digests_hold(circuit: Circuit) -> bool:
    try:
        circuit.check_files()
    except EnvironmentFault:
        return False
    return True


def distribute_all(world: World, circuits: Sequence[Circuit]) -> tuple[LocalCircuit, ...]:
    """Collective. ``circuits`` are rank 0's own and empty elsewhere; returns each rank's, in that order.

    Raises:
        EnvironmentFault, RemoteFailure: a node cannot store or read the files.
    """
    count = np.array([len(circuits)], np.int64)
    world.bcast_array(count, "Bcast of the number of circuits")
    return tuple(distribute(world, circuits[i] if world.is_root else None) for i in range(int(count[0])))


def distribute(world: World, circuit: Circuit | None) -> LocalCircuit:
    """Collective. ``circuit`` is rank 0's own and None elsewhere; returns each rank's.

    Raises:
        EnvironmentFault, RemoteFailure: a node cannot store or read the files.
    """
    text = json.dumps({"manifest": circuit.manifest(), "folder": str(circuit.folder)}) if circuit else None
    sent = json.loads(world.bcast_bytes(text.encode() if text else None, "Bcast of the circuit's manifest"))
    there = circuit_from_manifest(sent["manifest"], Path(sent["folder"]))
    leader = world.rank in world.node_leaders()
    missing = leader and world.rank != 0 and not _digests_hold(there)
    wanted = world.allgather_array(np.array([missing], np.int64), "the search for the circuit's files")[:, 0]
    copied: Path | None = None
    if wanted.any():
        with together(world, "making node-local scratch"):
            if missing:
                root = scratch_root()
                root.mkdir(parents=True, exist_ok=True)
                copied = Path(tempfile.mkdtemp(prefix="enclaveml-circuit-", dir=root))
        for name in sorted(there.files):
            _send_file(world, there.folder / name, copied / name if copied else None)
        with together(world, "writing the circuit's manifest to node-local scratch"):
            if copied:
                with open(copied / MANIFEST, "x", encoding="utf-8", opener=private) as handle:
                    handle.write(json.dumps(sent["manifest"]))
    place = _tell_node(world, str(copied or there.folder) if leader else "")
    mine = circuit_from_manifest(sent["manifest"], Path(place))
    with together(world, "checking the circuit's files"):
        mine.check_files()
    return LocalCircuit(mine, copied)


def _send_file(world: World, source: Path, target: Path | None) -> None:
    """Bcast one file from rank 0 in chunks; written where ``target`` is given, dropped elsewhere."""
    size = np.array([source.stat().st_size if world.is_root else 0], np.int64)
    world.bcast_array(size, "Bcast of a file's size")
    failure: OSError | None = None
    buffer = np.empty(CHUNK_BYTES, np.uint8)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open(source, "rb")) if world.is_root else None
        writer = None
        for begin in range(0, int(size[0]), CHUNK_BYTES):
            part = buffer[: min(CHUNK_BYTES, int(size[0]) - begin)]
            if reader:
                reader.readinto(part)
            world.bcast_array(part, f"Bcast of {source.name}")
            try:
                # A node that cannot write goes on receiving: the others are in the same Bcast.
                if target and failure is None:
                    writer = writer or stack.enter_context(open(target, "xb", buffering=0, opener=private))
                    writer.write(part)
            except OSError as error:
                failure = error
    with together(world, f"writing {source.name} to node-local scratch"):
        if failure is not None:
            raise EnvironmentFault(
                f"{target}: {failure.strerror}; point ENCLAVEML_SCRATCH to a folder on this node with room for "
                f"{int(size[0]) / 1e9:.2f} GB"
            )


def _tell_node(world: World, place: str) -> str:
    """Each node's leader tells the others on its node where the files are."""
    field = np.zeros(4096, np.uint8)
    raw = place.encode()
    field[: len(raw)] = np.frombuffer(raw, np.uint8)
    places = world.allgather_array(field, "the circuit's place on each node")
    first = next(r for r in range(world.size) if world.hosts[r] == world.host)
    return bytes(places[first]).rstrip(b"\0").decode()
