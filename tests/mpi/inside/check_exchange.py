"""A tick carries outputs, envelopes and orders, each once, however often a tick is repeated."""

from __future__ import annotations

import numpy as np
from checks import main

from enclaveml import exchange as module
from enclaveml.comm import World
from enclaveml.exchange import STATS, Exchange, Order, Outbox, Report

world = World.start()
P, D = world.size, 3
ZERO = np.zeros(len(STATS))


def fresh() -> Exchange:
    return Exchange(world, (2, 2), np.dtype(np.float32), D)


def check_an_idle_tick_brings_nothing() -> None:
    assert fresh().tick(ZERO) == ([], [])


def check_reports_and_orders_arrive_whole_and_in_order() -> None:
    x = fresh()
    for n in range(world.rank):  # rank 0 brings nothing, the others more and more
        rows = np.array([10 * world.rank + n, 5])
        x.outbox.put(Report("outputs", {}, rows, np.full((2, D), world.rank + n, np.float32)))
        x.outbox.put(Report("envelope", {"bundle": n}, blob=bytes([n]) * (n + 1)))
    if world.is_root:
        for rank in world.ids:
            rows = np.arange(rank)
            x.order_boxes[rank].put(Order("infer", {"round": 1}, rows, np.full((rank, 2, 2), rank, np.float32)))
            x.order_boxes[rank].put(Order("prove", {"bundle": 7}, np.arange(3)))
            x.order_boxes[rank].put(Order("drain"))
    orders, reports = x.tick(ZERO + world.rank)
    assert [o.kind for o in orders] == ["infer", "prove", "drain"]
    assert orders[0].rows.tolist() == list(range(world.rank)) and orders[1].rows.tolist() == [0, 1, 2]
    if world.rank:
        assert orders[0].data.shape == (world.rank, 2, 2) and (orders[0].data == world.rank).all()
    if world.is_root:
        assert [(r, m.kind) for r, m in reports] == [(r, k) for r in range(P) for _ in range(r)
                                                     for k in ("outputs", "envelope")]
        for rank, report in reports:
            if report.kind == "outputs":
                assert report.rows[1] == 5 and report.outputs.shape == (2, D) and report.outputs.dtype == np.float32
            else:
                n = report.meta["bundle"]
                assert report.blob == bytes([n]) * (n + 1)
        assert all((x.stats[r] == r).all() for r in world.ids)
    assert len(x.outbox) == 0
    assert x.tick(ZERO) == ([], [])
    if world.is_root:
        assert all(len(box) == 0 for box in x.order_boxes.values())


def check_what_was_sent_in_a_broken_tick_is_taken_once() -> None:
    x = fresh()
    x.outbox.put(Report("envelope", {"bundle": world.rank}, blob=b"e"))
    first = x.outbox.pending()
    _, reports = x.tick(ZERO)
    assert len(reports) == (P if world.is_root else 0)
    x.outbox._items = first  # as if the answer of that tick had been lost
    assert x.tick(ZERO)[1] == []
    assert len(x.outbox) == 0


def check_a_tick_takes_no_more_than_fits_and_leaves_the_rest() -> None:
    x = fresh()
    before, module.MAX_REPORT_BYTES = module.MAX_REPORT_BYTES, 1000
    try:
        for n in range(5):
            x.outbox.put(Report("envelope", {"bundle": n}, blob=bytes(400)))
        got = []
        for _ in range(5):
            got += [m.meta["bundle"] for r, m in x.tick(ZERO)[1] if r == P - 1]
        assert got == ([0, 1, 2, 3, 4] if world.is_root else [])
    finally:
        module.MAX_REPORT_BYTES = before


def check_the_longest_report_that_a_worker_makes_fits_in_a_tick() -> None:
    x = fresh()
    before, module.MAX_OUTPUT_BYTES = module.MAX_OUTPUT_BYTES, 70
    try:
        n = x.most_rows
        assert n == 70 // (8 + 4 * D)
        for k in range(3):
            x.outbox.put(Report("outputs", {}, np.arange(n) + n * k, np.zeros((n, D), np.float32)))
        got = [m.rows.tolist() for _ in range(3) for r, m in x.tick(ZERO)[1] if r == P - 1]
        assert got == ([list(range(n * k, n * k + n)) for k in range(3)] if world.is_root else [])
    finally:
        module.MAX_OUTPUT_BYTES = before


def check_a_garbled_report_is_that_ranks_and_stops_nobody() -> None:
    x = fresh()
    if world.rank == P - 1:
        good = module._pack_reports
        module._pack_reports = lambda items: b"\xff" * 40
        x.outbox.put(Report("envelope", {"bundle": 1}, blob=b"e"))
    _, reports = x.tick(ZERO)
    if world.rank == P - 1:
        module._pack_reports = good
    if world.is_root:
        assert [(r, m.kind) for r, m in reports] == [(P - 1, "garbled")]


def check_outbox_numbers() -> None:
    box = Outbox()
    box.put("a"), box.put("b")
    box.read_up_to(1)
    assert box.pending() == [(2, "b")]


main(globals())
