"""The one owner of mpi4py: the ranks of a job and the few collectives that they take part in.

Every call here is non-blocking inside and polled with short sleeps, because a rank
that waits in a blocking collective spins on a core that its neighbours' provers need
(measured: 1.2 to 1.3 times slower). Every wait has a bound; past it, ``CommTimeout``.

Letters: P ranks that are alive, n rows. Rank ids are those of the job's start: a rank
keeps its id when others are lost, and ``World.ids`` lists the ids that are alive in
the order of the communicator. Id 0 is the aggregator, the root of every collective.

Losing a rank needs ULFM (``mpirun --with-ft ulfm`` of Open MPI 5): a collective then
raises ``RankLost``, and ``recover`` gives the survivors a working communicator.

References: MPI 4.1, chapters 6 (collectives) and 9 (error handling); ULFM,
https://fault-tolerance.org.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from enclaveml.errors import EnvironmentFault
from enclaveml.launcher import launched_size, mpi_settings

os.environ.update(mpi_settings(os.environ))
from mpi4py import MPI  # noqa: E402  MPI begins here, with these settings

# MPI 3.1 counts are 32-bit: what may be longer is sent in pieces of this many bytes.
CHUNK_BYTES = 1 << 26

# A rank with nothing else to do looks at its request at least this often, in seconds.
# Long transfers move only when the library is called, hence the shorter one.
POLL_MAX_S = 5e-3
POLL_BULK_S = 2e-4
BULK_BYTES = 1 << 20

# Before it sleeps for the first time, a rank looks again and again for as long as the bytes take at this rate
# (bytes a second, about a quarter of what shared memory gives), for so many of them at least so many seconds: a
# transfer that is under way moves only so, and the shortest sleep takes longer than a small one.
SPIN_RATE, SPIN_BYTES, SPIN_LEAST_S = 1e9, 1 << 16, 1e-3

# A rank that has waited this many seconds for others, who are at work then, does work of its own until they come. Not while many
# bytes move: they move only when the library is called.
SPARE_S = 2e-3

# A peer that does not come to a collective within this many seconds is taken for stuck.
# Ranks come by every fraction of a second unless they compile or prepare keys.
PATIENCE_S = 3600.0

# Bound on revoke, shrink and leave, in seconds: what passes it dies loudly. Another rank may be
# frozen meanwhile, and is only killed after watchdog.STOPPED_S.
RECOVERY_S = 150.0


class RankLost(Exception):
    """A rank of the communicator has died; call ``World.recover`` and do the step again."""


class CommTimeout(EnvironmentFault):
    """A collective did not complete within its bound."""


_LOST = tuple(
    getattr(MPI, name)
    for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
    if hasattr(MPI, name)
)


def node_name(env: Mapping[str, str] = os.environ) -> str:
    """The node's identity: Slurm's name for it, else the host's name.

    ``SLURMD_NODENAME`` comes first, since several Slurm nodes may share a host.
    """
    return env.get("SLURMD_NODENAME") or socket.gethostname()


def _vendor() -> str:
    name, version = MPI.get_vendor()
    return f"{name} {'.'.join(map(str, version))}"


def refuse_separate_programs(size: int, env: Mapping[str, str] = os.environ) -> None:
    """Refuse N programs of one rank each where one program of N ranks was meant.

    ``srun`` without a PMIx that this MPI knows starts every task as a world of its
    own, and so does the mpirun of another MPI than mpi4py's; each would silently compute
    the whole job.

    Raises:
        EnvironmentFault: this is one of several processes that were started together, alone in its world.
    """
    tasks = int(env.get("SLURM_STEP_NUM_TASKS") or 1) if "SLURM_PROCID" in env else 1
    # A launcher inside the step may mean one rank. `srun --mpi=pmi2` says PMI_SIZE too, but all tasks,
    # and Open MPI 5 does not listen to it: measured under Slurm 22.05.
    launched = "OMPI_COMM_WORLD_SIZE" in env or env.get("PMI_SIZE") == "1"
    if size == 1 and tasks > 1 and not launched:
        raise EnvironmentFault(
            f"srun started {tasks} tasks, but each is an MPI world of one rank: they would run the same job "
            f"{tasks} times. Use `srun --mpi=pmix` (see `srun --mpi=list`), or inside the batch script "
            f"`mpirun --bind-to none -np {tasks} enclaveml-run JOB`"
        )
    ranks = launched_size(env)
    if size == 1 and ranks > 1 and tasks <= 1:
        raise EnvironmentFault(
            f"mpirun started {ranks} processes, but each is an MPI world of one rank: this mpirun belongs to another MPI "
            f"than the one that mpi4py uses ({_vendor()}). Use that one's mpirun: the one beside this Python, or the "
            "module's that mpi4py was built with (`enclaveml doctor` says which is which)"
        )


class World:
    """The ranks of one job. Made once in a process, by ``World.start``."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()
        self.ids: tuple[int, ...] = tuple(range(self.size))
        self.host = node_name()
        self.patience_s = PATIENCE_S
        self.idle: Callable[[], None] = lambda: None
        #: Some work that this rank may do meanwhile, as long as it takes; whether there was any.
        self.spare: Callable[[], bool] = lambda: False
        # Buffers of requests that a lost rank left behind: MPI may still write into them.
        self._orphans: list[object] = []
        self.hosts = self._gather_hosts()
        same = [r for r in range(self.size) if self.hosts[r] == self.host]
        self.local_rank = same.index(self.rank)
        self.ranks_on_node = len(same)

    @classmethod
    def start(cls) -> World:
        """Join the world of this process (MPI is initialised by importing mpi4py).

        Raises:
            EnvironmentFault: several programs of one rank each were started by mistake.
        """
        comm = MPI.COMM_WORLD.Dup()
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        refuse_separate_programs(comm.Get_size())
        return cls(comm)

    @property
    def is_root(self) -> bool:
        """Whether this is the aggregator."""
        return self.rank == 0

    @property
    def library(self) -> str:
        """The MPI library's own version line."""
        return MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\x00 ")

    @property
    def vendor(self) -> str:
        """The MPI and its version, as mpi4py knows them: "Open MPI 5.0.11"."""
        return _vendor()

    @property
    def ulfm(self) -> bool:
        """Whether this MPI can survive a lost rank at all, asked for or not."""
        return bool(_LOST) and hasattr(self.comm, "Shrink")

    @property
    def fault_tolerant(self) -> bool:
        """Whether a lost rank can be survived: ULFM is there and was asked for."""
        # `mpirun --with-ft ulfm` of Open MPI 5 sets this for its ranks (seen in 5.0.11).
        asked = os.environ.get("OMPI_MCA_mpi_ft_enable", "0").lower() not in ("0", "", "false", "none")
        return bool(_LOST) and hasattr(self.comm, "Shrink") and asked

    # -- waiting -----------------------------------------------------------------

    def wait(self, request: MPI.Request, what: str, keep: object, size: int = 0,
             limit_s: float | None = None) -> None:
        """Poll ``request``, which moves ``size`` bytes, to its end; ``keep`` holds the buffers that it uses.

        limit_s: longest wait for others, ``patience_s`` by default; what this rank spends on ``spare`` work meanwhile
        does not count. Raises CommTimeout past it, RankLost where another rank has died.
        """
        began = time.monotonic()
        bulk = size > BULK_BYTES
        spin = began + max(size / SPIN_RATE, SPIN_LEAST_S if size >= SPIN_BYTES else 0.0)
        limit = self.patience_s if limit_s is None else limit_s
        longest = POLL_BULK_S if bulk else POLL_MAX_S
        delay = 5e-5
        try:
            while not request.Test():
                if size and time.monotonic() < spin:
                    os.sched_yield()
                    continue
                self.idle()
                now = time.monotonic()
                if not bulk and now - began > SPARE_S and self.spare():
                    limit += time.monotonic() - now  # its own work is no waiting for others
                    delay = 5e-5
                    continue
                time.sleep(delay)
                delay = min(delay * 1.5, longest)
                if time.monotonic() - began > limit:
                    self._orphans.append((request, keep))  # MPI may still write there
                    raise CommTimeout(
                        f"rank {self.rank} ({self.host}) waited {limit:.0f} s in {what} for the other ranks "
                        f"{[i for i in self.ids if i != self.rank]}: one of them is stuck. The job can be resumed"
                    )
        except MPI.Exception as error:
            raise self.broken(error, request, keep) from error

    def broken(self, error: MPI.Exception, request: MPI.Request, keep: object) -> Exception:
        """What to raise for a request that failed; the buffers that it uses are kept, for MPI may still write into them."""
        self._orphans.append((request, keep))
        return self._translate(error)

    def _translate(self, error: MPI.Exception) -> Exception:
        return RankLost(str(error)) if error.Get_error_class() in _LOST else error

    def _start(self, call: Callable[..., MPI.Request], *args: object, **kwargs: object) -> MPI.Request:
        try:
            return call(*args, **kwargs)
        except MPI.Exception as error:
            raise self._translate(error) from error

    # -- collectives, all rooted at the aggregator ------------------------------

    def allgather_array(self, mine: np.ndarray, what: str) -> np.ndarray:
        """Everybody's ``mine`` (m,), of one dtype and length: (P, m)."""
        mine = np.ascontiguousarray(mine)
        out = np.empty((len(self.ids), mine.size), mine.dtype)
        request = self._start(self.comm.Iallgather, mine, out)
        self.wait(request, what, (mine, out))
        return out

    def bcast_array(self, array: np.ndarray, what: str) -> np.ndarray:
        """The root's ``array`` written into everybody's, of the same shape and dtype, at most CHUNK_BYTES."""
        request = self._start(self.comm.Ibcast, array, root=0)
        self.wait(request, what, array, array.nbytes)
        return array

    def bcast_bytes(self, data: bytes | None, what: str) -> bytes:
        """The root's ``data`` on every rank, of any length, sent in chunks."""
        length = np.array([len(data) if data is not None else 0], np.int64)
        self.bcast_array(length, f"{what} (length)")
        out = np.empty(int(length[0]), np.uint8)
        if self.is_root:
            out[:] = np.frombuffer(data or b"", np.uint8)
        for begin in range(0, out.size, CHUNK_BYTES):
            self.bcast_array(out[begin: begin + CHUNK_BYTES], what)
        return out.tobytes()

    def scatter_rows(self, rows: np.ndarray | None, counts: Sequence[int], row_shape: tuple[int, ...],
                     dtype: np.dtype, what: str) -> np.ndarray:
        """Scatterv of rows: (sum counts, *row_shape) on the root to (counts[p], *row_shape) on the p-th alive rank.

        Counted in rows, with an MPI datatype of one row, so that more than 2^31
        elements go in one call. A count may be 0. ``rows`` is read on the root only;
        what the root gets are those very rows, no copy.
        """
        return self.start_scatter(rows, counts, row_shape, dtype, what).wait()

    def start_scatter(self, rows: np.ndarray | None, counts: Sequence[int], row_shape: tuple[int, ...],
                      dtype: np.dtype, what: str) -> Transfer:
        """``scatter_rows``, only begun: the rows travel while this rank does other things, and now and then calls
        the transfer's ``test``. ``rows`` must not change meanwhile."""
        here = self.ids.index(self.rank)
        counts = [int(c) for c in counts]
        displs = [0, *np.cumsum(counts[:-1], dtype=np.int64).tolist()]
        row = _row_type(row_shape, dtype)
        if self.is_root:
            whole = np.ascontiguousarray(rows, dtype)
            send, receive = [whole, counts, displs, row], MPI.IN_PLACE
            mine = whole[displs[here]: displs[here] + counts[here]]
        else:
            mine = np.empty((counts[here], *row_shape), dtype)
            send, receive = None, [mine, counts[here], row]
        request = self._start(self.comm.Iscatterv, send, receive, root=0)
        return Transfer(self, request, row, (send, mine), mine, sum(counts) * row.Get_size(), what)

    def gather_rows(self, mine: np.ndarray, counts: Sequence[int], what: str) -> np.ndarray | None:
        """Gatherv of rows: (counts[p], *row_shape) of the p-th alive rank to (sum counts, *row_shape) on the root."""
        mine = np.ascontiguousarray(mine)
        row = _row_type(mine.shape[1:], mine.dtype)
        try:
            counts = [int(c) for c in counts]
            displs = [0, *np.cumsum(counts[:-1], dtype=np.int64).tolist()]
            out = np.empty((sum(counts), *mine.shape[1:]), mine.dtype) if self.is_root else None
            receive = [out, counts, displs, row] if self.is_root else None
            request = self._start(self.comm.Igatherv, [mine, len(mine), row], receive, root=0)
            self.wait(request, what, (mine, receive), sum(counts) * row.Get_size())
        finally:
            row.Free()
        return out

    def gather_bytes(self, data: bytes, what: str) -> list[bytes]:
        """Counts, then bytes: everybody's ``data`` on the root in the order of ``ids``, [] elsewhere."""
        counts = self.allgather_array(np.array([len(data)], np.int64), f"{what} (counts)")[:, 0]
        mine = np.frombuffer(data, np.uint8).reshape(-1, 1)
        out = self.gather_rows(mine, counts, what)
        if out is None:
            return []
        flat = out.reshape(-1)
        ends = np.cumsum(counts)
        return [flat[end - n: end].tobytes() for end, n in zip(ends, counts, strict=True)]

    def node_leaders(self) -> tuple[int, ...]:
        """The lowest id on each node, in the order of ids. The aggregator leads its own."""
        return tuple(dict((self.hosts[r], r) for r in reversed(range(self.size))).values())[::-1]

    def _gather_hosts(self) -> tuple[str, ...]:
        field = np.zeros(256, np.uint8)
        name = self.host.encode()[:256]
        field[: len(name)] = np.frombuffer(name, np.uint8)
        return tuple(bytes(row).rstrip(b"\0").decode(errors="replace")
                     for row in self.allgather_array(field, "the exchange of host names"))

    # -- failure and the end -----------------------------------------------------

    def recover(self) -> tuple[int, ...]:
        """After ``RankLost``: a communicator of the survivors. Returns the ids that were lost.

        Collective over the survivors; each gets here because the first to see the
        failure revokes the communicator. Whoever is stuck in here past RECOVERY_S is
        ended by the watchdog of the caller.
        """
        before = self.ids
        while True:
            try:
                self.comm.Revoke()
                self.comm = self.comm.Shrink()
                self.comm.Set_errhandler(MPI.ERRORS_RETURN)
                mine = np.array([self.rank], np.int64)
                out = np.empty(self.comm.Get_size(), np.int64)
                # Blocking and upper-case on purpose: short, right after a shrink, and
                # lower-case calls were seen to deadlock here.
                self.comm.Allgather(mine, out)
            except MPI.Exception as error:
                if error.Get_error_class() not in _LOST:
                    raise
                continue
            self.ids = tuple(out.tolist())
            return tuple(i for i in before if i not in self.ids)

    def abort(self, code: int) -> None:
        """End every rank of the job now, with this exit status."""
        MPI.COMM_WORLD.Abort(code)

    def finalize(self) -> None:
        """End MPI in good order. Not to be called after a rank was lost: it was seen to hang."""
        barrier = self._start(self.comm.Ibarrier)
        self.wait(barrier, "the last barrier", None, limit_s=RECOVERY_S)
        MPI.Finalize()


class Transfer:
    """Rows on their way to every rank, made by ``World.start_scatter``."""

    def __init__(self, world: World, request: MPI.Request, row: MPI.Datatype, keep: object, mine: np.ndarray,
                 size: int, what: str) -> None:
        self._world, self._request, self._row, self._keep = world, request, row, keep
        self._mine, self._size, self._what = mine, size, what
        self.done = False

    def test(self) -> bool:
        """Move the rows on, without waiting: MPI does so only when it is called. Whether this rank has its own.

        Raises:
            RankLost: a rank died meanwhile.
        """
        try:
            if not self.done and self._request.Test():
                self._end()
        except MPI.Exception as error:
            raise self._world.broken(error, self._request, self._keep) from error
        return self.done

    def wait(self) -> np.ndarray:
        """This rank's rows, when they are here. Raises RankLost, and CommTimeout as every wait here does."""
        if not self.done:
            self._world.wait(self._request, self._what, self._keep, self._size)
            self._end()
        return self._mine

    def _end(self) -> None:
        self.done = True
        self._row.Free()
        self._keep = None


def _row_type(row_shape: tuple[int, ...], dtype: np.dtype) -> MPI.Datatype:
    """A committed MPI datatype of one row, in bytes. The caller frees it."""
    size = int(np.prod(row_shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return MPI.BYTE.Create_contiguous(size).Commit()
