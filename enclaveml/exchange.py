"""One tick: the collective step in which rank 0 and the workers trade what is ready.

Every rank comes by every fraction of a second, and nothing waits for a rank's work:
a worker brings what it has finished since (outputs, envelopes, failures), rank 0 hands
out what it has decided since (rows to infer, bundles to prove). In a tick:

1. Allgather of headers (what each rank brings, how far it has read its orders);
2. Gatherv of outputs, a record of (row id, D float32) each;
3. Gatherv of reports: a JSON list and the envelopes' bytes;
4. Bcast of rank 0's header (what goes to each rank, how far its reports were read);
5. Scatterv of row ids, Scatterv of orders (JSON), Scatterv of rows.

A step whose total is zero is left out by everybody, since everybody has the headers.

Many rows are not waited for: their Scatterv is begun, the ranks go on with what they have, and its
orders are carried out when the rows are there (``arrived``), or else the next tick begins by waiting
for them.

A tick that a lost rank broke is done again by the survivors. What was under way is
therefore kept in an ``Outbox`` until the other side says that it has read it, and is
numbered, so that it is taken in once.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

import numpy as np

from enclaveml.comm import RankLost, Transfer, World
from enclaveml.errors import EnclaveError
from enclaveml.exchange_items import (
    Order,
    Outbox,
    Report,
    joined,
    pack_orders,
    pack_reports,
    records_of,
    unpack_orders,
    unpack_reports,
)

# What a worker may bring in one tick: rank 0 allocates by these headers, so they are
# bounded whatever a worker says. Honest workers keep the rest for the next tick.
MAX_REPORT_BYTES = 1 << 28
MAX_OUTPUT_BYTES = 1 << 28

# More bytes of rows than this travel while the ranks compute; fewer are here sooner than a rank could turn to others.
LATER_BYTES = 1 << 20

# The columns of a rank's statistics, in seconds but for the last three.
STATS = ("infer_s", "witness_s", "prove_s", "wait_s", "proofs", "rows_inferred", "failures")


class ProtocolError(EnclaveError):
    """A rank sent what no honest rank sends; ``rank`` is MPI's word for who it was."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank


@dataclass(frozen=True)
class _Coming:
    """Orders of a tick whose rows are on their way: their ids (n,) int64, and the packed orders."""

    transfer: Transfer
    ids: np.ndarray
    blob: bytes

    def orders(self) -> list[tuple[int, Order]]:
        """The numbered orders, when the rows are here. Raises RankLost, CommTimeout."""
        return unpack_orders(self.blob, self.ids, self.transfer.wait())

    @property
    def stops(self) -> bool:
        """Whether the ranks are told to stop: all have to hear that in the same tick."""
        return bool(self.blob) and any(item["kind"] == "stop" for item in json.loads(self.blob))


class Exchange:
    """Both ends of the ticks on one rank.

    Attributes:
        outbox: this rank's reports for rank 0.
        order_boxes: on rank 0, the orders for each rank id.
        moved: whether anything was traded in the last tick, between any ranks.
    """

    def __init__(self, world: World, row_shape: tuple[int, ...], dtype: np.dtype, outputs: int) -> None:
        self._world = world
        self._row_shape, self._dtype = row_shape, np.dtype(dtype)
        self.outputs = outputs
        self._record = np.dtype([("row", "<i8"), ("output", "<f4", (outputs,))])
        self.outbox = Outbox()
        self.order_boxes = {i: Outbox() for i in world.ids} if world.is_root else {}
        self.moved = True
        self._read_orders = 0
        self._here: list[Order] = []  # read, and not yet returned: a tick that is broken off keeps them
        self._coming: _Coming | None = None
        self._broken: RankLost | None = None
        self._read_reports = dict.fromkeys(world.ids, 0)
        self.stats: dict[int, np.ndarray] = {i: np.zeros(len(STATS)) for i in world.ids}

    @property
    def most_rows(self) -> int:
        """The most outputs that one report may bring, so that it fits in a tick."""
        return max(1, MAX_OUTPUT_BYTES // self._record.itemsize)

    def tick(self, stats: np.ndarray) -> tuple[list[Order], list[tuple[int, Report]]]:
        """Trade once. Returns the orders for this rank, and on rank 0 everybody's new reports.

        ``stats`` (len(STATS),) float64 are this rank's running totals.

        Raises:
            RankLost: a rank died; the survivors recover and tick again, nothing is lost.
            ProtocolError: on every rank, for a rank whose header is out of bounds.
        """
        self._here += self._receive()
        reports = self._gather_reports(stats)
        self._here += self._scatter_orders()
        orders, self._here = self._here, []
        return orders, reports

    def nudge(self) -> bool:
        """Move on rows that are on their way, without waiting. Whether there are any that are here now."""
        if self._coming is None or self._broken is not None:
            return False
        try:
            return self._coming.transfer.test()
        except RankLost as error:
            self._broken = error  # the next tick raises it, where all ranks recover
            return False
        except BaseException:
            self._coming = None  # its rows never came
            raise

    def arrived(self) -> list[Order]:
        """The orders for this rank whose rows have come since the tick; [] as long as they have not."""
        return self._receive() if self.nudge() else []

    def _receive(self) -> list[Order]:
        """The orders that came with rows which were still on their way, if there are any; waits for the rows."""
        coming, broken = self._coming, self._broken
        self._coming = self._broken = None
        if broken is not None:
            raise broken
        return [] if coming is None else self._fresh(coming.orders())

    # -- worker to rank 0 --------------------------------------------------------

    def _gather_reports(self, stats: np.ndarray) -> list[tuple[int, Report]]:
        world = self._world
        items = self._take_what_fits()
        records = [records_of(self._record, r.rows, r.outputs) for _, r in items if r.kind == "outputs"]
        record = np.concatenate(records) if records else np.empty(0, self._record)
        blob = pack_reports(items) if items else b""
        header = np.array([len(record), len(blob), self._read_orders], np.int64)
        mine = np.concatenate([header.view(np.float64), np.asarray(stats, np.float64)])
        everybody = world.allgather_array(mine, "a tick's headers")
        headers = np.ascontiguousarray(everybody[:, :3]).view(np.int64)
        self._check_headers(headers)
        self.moved = bool(headers[:, :2].any())
        self.stats.update(zip(world.ids, _counts(everybody[:, 3:]), strict=True))
        outputs = world.gather_rows(record, headers[:, 0], "Gatherv of outputs") if headers[:, 0].any() else None
        blobs = (
            world.gather_rows(np.frombuffer(blob, np.uint8).reshape(-1, 1), headers[:, 1], "Gatherv of reports")
            if headers[:, 1].any() else None
        )
        if not world.is_root:
            return []
        for rank, read in zip(world.ids, headers[:, 2].tolist(), strict=True):
            self.order_boxes[rank].read_up_to(read)
        return self._unpack(headers, outputs, blobs)

    def _take_what_fits(self) -> list[tuple[int, Report]]:
        """The oldest pending reports that fit in a tick, one at least."""
        taken, size, rows = [], 0, 0
        for number, report in self.outbox.pending():
            size += len(report.blob) + len(json.dumps(dict(report.meta))) + 64
            rows += 0 if report.rows is None else len(report.rows)
            if taken and (size > MAX_REPORT_BYTES or rows * self._record.itemsize > MAX_OUTPUT_BYTES):
                break
            taken.append((number, report))
        return taken

    def _check_headers(self, headers: np.ndarray) -> None:
        most = (MAX_OUTPUT_BYTES // self._record.itemsize + 1, MAX_REPORT_BYTES + (1 << 20))
        wrong = np.flatnonzero(((headers[:, :2] < 0) | (headers[:, :2] > most)).any(axis=1))
        for i in wrong[:1].tolist():
            raise ProtocolError(self._world.ids[i], f"announced {headers[i, 0]} outputs and {headers[i, 1]} bytes of "
                                f"reports in one tick; at most {most[0]} and {most[1]} are allowed")

    def _unpack(self, headers: np.ndarray, outputs: np.ndarray | None,
                blobs: np.ndarray | None) -> list[tuple[int, Report]]:
        reports: list[tuple[int, Report]] = []
        row_end, blob_end = np.cumsum(headers[:, 0]), np.cumsum(headers[:, 1])
        for i in np.flatnonzero(headers[:, 1]).tolist():
            rank, n_rows, n_bytes = self._world.ids[i], int(headers[i, 0]), int(headers[i, 1])
            blob = blobs[blob_end[i] - n_bytes: blob_end[i], 0].tobytes()
            mine = outputs[row_end[i] - n_rows: row_end[i]] if n_rows else np.empty(0, self._record)
            try:
                for number, report in unpack_reports(blob, mine):
                    if number > self._read_reports[rank]:
                        self._read_reports[rank] = number
                        reports.append((rank, report))
            except (ValueError, KeyError, TypeError, OverflowError, struct.error, RecursionError) as error:
                reports.append((rank, Report("garbled", {"text": f"a report that cannot be read: {error!r}"})))
        return reports

    # -- rank 0 to workers -------------------------------------------------------

    def _scatter_orders(self) -> list[Order]:
        world = self._world
        header = np.zeros((len(world.ids), 3), np.int64)
        ids = data = blobs = None
        if world.is_root:
            header[:, 2] = [self._read_reports[rank] for rank in world.ids]
            flat: list[Order] = []
            packed: list[bytes] = []
            # A thousand ranks tick ten times a second: only those that are sent something are looked at.
            for i, rank in enumerate(world.ids):
                if not self.order_boxes[rank]:
                    continue
                pending = self.order_boxes[rank].pending()
                packed.append(pack_orders(pending))
                with_data = [o for _, o in pending if o.data is not None]
                header[i, :2] = sum(len(o.data) for o in with_data), len(packed[-1])
                flat += with_data
            ids = joined([o.rows for o in flat], (), np.dtype(np.int64))
            data = joined([o.data for o in flat], self._row_shape, self._dtype)
            blobs = np.frombuffer(b"".join(packed), np.uint8).reshape(-1, 1)
        world.bcast_array(header, "a tick's answer")
        self.moved |= bool(header[:, :2].any())
        here = world.ids.index(world.rank)
        my_ids, my_blob = np.empty(0, np.int64), b""
        if header[:, 0].any():
            my_ids = world.scatter_rows(ids, header[:, 0], (), np.dtype(np.int64), "Scatterv of row ids")
        if header[:, 1].any():
            my_blob = world.scatter_rows(blobs, header[:, 1], (1,), np.dtype(np.uint8), "Scatterv of orders").tobytes()
        coming = None
        if header[:, 0].any():
            transfer = world.start_scatter(data, header[:, 0], self._row_shape, self._dtype, "Scatterv of rows")
            coming = _Coming(transfer, my_ids, my_blob)
        self.outbox.read_up_to(int(header[here, 2]))
        if coming is None:
            return self._fresh(unpack_orders(my_blob, my_ids, np.empty((0, *self._row_shape), self._dtype)))
        row_bytes = int(np.prod(self._row_shape, dtype=np.int64)) * self._dtype.itemsize
        # Whoever is told to stop waits for its rows now: after this tick it is in other collectives than a tick's.
        if int(header[:, 0].sum()) * row_bytes > LATER_BYTES and not coming.stops:
            self._coming = coming
            return []
        return self._fresh(coming.orders())

    def _fresh(self, orders: list[tuple[int, Order]]) -> list[Order]:
        """Those that this rank has not had before: a tick that was done again brings them twice."""
        fresh = []
        for number, order in orders:
            if number > self._read_orders:
                self._read_orders = number
                fresh.append(order)
        return fresh


def _counts(stats: np.ndarray) -> np.ndarray:
    """A rank's statistics as it told them, 0 where that is no number or none that could be: they end in the file."""
    return np.where((stats >= 0) & (stats <= 2.0**53), stats, 0.0)  # NaN compares false
