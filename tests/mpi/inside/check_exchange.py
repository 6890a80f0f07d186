"""A tick carries outputs, envelopes and orders, each once, however often a tick is repeated."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from checks import main

from enclaveml import exchange as module
from enclaveml.comm import RankLost, World
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


def send(x: Exchange, rows: int, *kinds: str) -> None:
    """Rank 0 orders every rank to infer so many rows, and the rest."""
    if world.is_root:
        whole = np.repeat(np.arange(P, dtype=np.float32), rows).repeat(4).reshape(-1, 2, 2)
        for rank in world.ids:
            mine = slice(rank * rows, (rank + 1) * rows)
            x.order_boxes[rank].put(Order("infer", {"round": 1}, np.arange(rows) + rank, whole[mine]))
            for kind in kinds:
                x.order_boxes[rank].put(Order(kind))


def wait(x: Exchange) -> list[Order]:
    until = time.monotonic() + 60
    while not (orders := x.arrived()):
        assert time.monotonic() < until, "the rows never came"
    return orders


MANY = module.LATER_BYTES // 16


def check_many_rows_travel_while_the_ranks_do_other_things() -> None:
    x = fresh()
    send(x, MANY + 1, "forget")
    assert x.tick(ZERO)[0] == []
    first, second = wait(x)
    assert first.kind == "infer" and first.data.shape == (MANY + 1, 2, 2) and (first.data == world.rank).all()
    assert first.rows.tolist() == list(range(world.rank, world.rank + MANY + 1)) and second.kind == "forget"
    assert x.arrived() == [] and x.tick(ZERO)[0] == []
    if world.is_root:
        assert all(len(box) == 0 for box in x.order_boxes.values())


def check_a_rank_that_is_sent_nothing_goes_on_beside_many_rows_of_others() -> None:
    x = fresh()
    if world.is_root:
        x.order_boxes[P - 1].put(Order("infer", {}, np.arange(MANY + 1), np.ones((MANY + 1, 2, 2), np.float32)))
    assert x.tick(ZERO)[0] == []
    assert len(wait(x)) == 1 if world.rank == P - 1 else x.arrived() == []
    assert x.tick(ZERO)[0] == []


def check_the_next_tick_waits_for_rows_that_are_still_on_their_way() -> None:
    x = fresh()
    send(x, MANY + 1)
    assert x.tick(ZERO)[0] == []
    send(x, 1)
    assert [len(order.data) for order in x.tick(ZERO)[0]] == [MANY + 1, 1]


def check_a_rank_that_is_told_to_stop_waits_for_its_rows_in_that_tick() -> None:
    """It ticks no more: rows that were still on their way then would never come."""
    x = fresh()
    send(x, MANY + 1, "stop")
    infer, stop = x.tick(ZERO)[0]
    assert (infer.kind, stop.kind) == ("infer", "stop")
    assert infer.data.shape == (MANY + 1, 2, 2) and (infer.data == world.rank).all()
    assert x.arrived() == []


def check_rows_that_came_before_a_broken_tick_are_kept_for_the_next() -> None:
    x = fresh()
    send(x, MANY + 1)
    assert x.tick(ZERO)[0] == []
    gather, x._gather_reports = x._gather_reports, lambda stats: (_ for _ in ()).throw(RankLost("as if one had died"))
    try:
        x.tick(ZERO)
        raise AssertionError("not raised")
    except RankLost:
        x._gather_reports = gather
    assert [len(order.data) for order in x.tick(ZERO)[0]] == [MANY + 1]
    if world.is_root:
        assert all(len(box) == 0 for box in x.order_boxes.values())


def check_a_rank_that_dies_while_rows_travel_is_told_by_the_tick_and_they_are_sent_again() -> None:
    x = fresh()
    send(x, MANY + 1)
    assert x.tick(ZERO)[0] == []
    transfer = x._coming.transfer
    transfer.wait()
    x._coming = replace(x._coming, transfer=Broken())
    assert not x.nudge() and x.arrived() == []
    try:
        x.tick(ZERO)
        raise AssertionError("not raised")
    except RankLost:
        pass
    assert x.tick(ZERO)[0] == []
    assert [len(order.data) for order in wait(x)] == [MANY + 1]


class Broken:
    """A transfer of a communicator of which a rank is gone."""

    def test(self) -> bool:
        raise RankLost("as if one had died")


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
        good = module.pack_reports
        module.pack_reports = lambda items: b"\xff" * 40
        x.outbox.put(Report("envelope", {"bundle": 1}, blob=b"e"))
    _, reports = x.tick(ZERO)
    if world.rank == P - 1:
        module.pack_reports = good
    if world.is_root:
        assert [(r, m.kind) for r, m in reports] == [(P - 1, "garbled")]


def check_outbox_numbers() -> None:
    box = Outbox()
    box.put("a"), box.put("b")
    box.read_up_to(1)
    assert box.pending() == [(2, "b")]


main(globals())
