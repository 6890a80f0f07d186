"""A job's rounds, simulated event by event: provers that share cores, ticks, rank 0's own work, failures.

Pure: costs and target come in as numbers (``forecast_costs``). What is simulated is what ``loop``, ``bundles``
and ``worker`` do: rows are split over ranks in rounds, of which two are open at most; a rank has a few bundles in
hand beside those in its children; an idle rank gets what waits for the slowest; whatever is finished travels in
the next tick; rank 0's one thread reads and writes it, its verifiers check it.

Letters: P ranks, B rows per bundle.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

#: As in ``loop`` and ``bundles``: a tick comes this often, and a rank has so much in hand beside its children's.
TICK_S, ANSWER_S, MOST_AHEAD = 0.1, 0.5, 8.0


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds of one core of the target.

    prove: one bundle; infer: one bundle's rows on a rank's device; verify: one bundle in a verifier.
    root_tick: rank 0's thread for a tick, root_rank: more for each rank, root_bundle: for each bundle that is
    ordered, read, recorded; envelope_bytes and order_bytes: what travels for one.
    """

    prove: float
    infer: float
    verify: float
    root_tick: float
    root_rank: float
    root_bundle: float
    envelope_bytes: float
    order_bytes: float


@dataclass(frozen=True)
class Plant:
    """The ranks: ``node_cores`` shared by the provers of ``ranks_per_node`` ranks, ``children`` of them a rank.

    first: the first rank that computes (1, or 0 where rank 0 does). verifiers: processes on rank 0's node.
    root_cores: of a node that rank 0 has to itself; 0 where it shares one like all others.
    latency, link: of the network, s and bytes/s. jitter: relative spread of ranks' speeds; slow: the share of
    ranks at half speed; failures: lost ranks per rank and second, each of which takes ``recovery`` s.
    """

    ranks: int
    first: int
    ranks_per_node: int
    node_cores: float
    children: int
    verifiers: int
    latency: float
    link: float
    jitter: float = 0.03
    slow: float = 0.0
    failures: float = 0.0
    recovery: float = 1.0
    root_cores: float = 0.0

    def node_of(self, ids: np.ndarray) -> np.ndarray:
        """The numbers of the ranks' nodes; rank 0's is 0."""
        if not self.root_cores:
            return ids // self.ranks_per_node
        return 1 + (ids - 1) // self.ranks_per_node


@dataclass
class Outcome:
    """What came of it. Seconds by the clock, but for the ``*_busy`` shares of the time.

    seconds: of all rounds. bundles: proofs verified. root_busy: rank 0's thread; verify_busy: its verifiers;
    prove_busy: the children of ranks that are there, having a proof to make; starved: the share of time in which
    children had none although bundles were left; lost: ranks that died; queue: most envelopes that waited for a
    verifier; half: when half of the bundles were verified.
    """

    seconds: float = 0.0
    bundles: int = 0
    root_busy: float = 0.0
    verify_busy: float = 0.0
    prove_busy: float = 0.0
    starved: float = 0.0
    lost: int = 0
    stolen: int = 0
    queue: int = 0
    ticks: int = 0
    half: float = 0.0


class _Node:
    """Processes that share cores evenly: work is counted in virtual time, which passes at the share of one."""

    def __init__(self, cores: float) -> None:
        self.cores, self.virtual, self.then = cores, 0.0, 0.0
        self.heap: list[tuple[float, int, object]] = []
        self.serial = self.version = 0

    def rate(self) -> float:
        return min(1.0, self.cores / len(self.heap)) if self.heap else 1.0

    def pass_time(self, now: float) -> None:
        self.virtual += (now - self.then) * self.rate()
        self.then = now

    def add(self, now: float, work: float, what: object) -> None:
        self.pass_time(now)
        self.serial += 1
        heapq.heappush(self.heap, (self.virtual + work, self.serial, what))
        self.version += 1

    def next_end(self) -> float:
        return self.then + (self.heap[0][0] - self.virtual) / self.rate()

    def pop(self, now: float) -> object:
        self.pass_time(now)
        self.version += 1
        return heapq.heappop(self.heap)[2]


def simulate(bundles: int, round_bundles: int, costs: Costs, plant: Plant, seed: int = 0) -> Outcome:
    """Prove and verify ``bundles`` bundles, ``round_bundles`` a round. The same seed gives the same outcome."""
    return _Simulation(bundles, round_bundles, costs, plant, seed).run()


class _Simulation:
    def __init__(self, bundles: int, round_bundles: int, costs: Costs, plant: Plant, seed: int) -> None:
        self.total, self.round_bundles, self.costs, self.plant = bundles, max(1, round_bundles), costs, plant
        self.random = np.random.default_rng(seed)
        ids = np.arange(plant.first, plant.ranks)
        self.workers = len(ids)
        speed = np.exp(self.random.normal(0.0, plant.jitter, self.workers)) if plant.jitter else np.ones(self.workers)
        self.speed = np.where(self.random.random(self.workers) < plant.slow, 0.5 * speed, speed)
        self.node_of = plant.node_of(ids)
        last = int(plant.node_of(np.array([plant.ranks - 1]))[0])
        self.nodes = [_Node(plant.root_cores or plant.node_cores), *(_Node(plant.node_cores) for _ in range(last))]
        self.alive = np.ones(self.workers, bool)
        self.backlog = np.zeros(self.workers, np.int64)  # inferred or to be, held at rank 0
        self.hand = np.zeros(self.workers, np.int64)  # ordered and not answered
        self.waiting: list[deque[float]] = [deque() for _ in ids]  # in hand, for a child
        self.busy = np.zeros(self.workers, np.int64)
        self.events: list[tuple[float, int, int, int]] = []  # time, serial, node, its version
        self.serial = 0
        self.done = self.opened = self.open_left = 0
        self.rounds: deque[int] = deque()  # bundles that each open round still has
        self.ready: list[int] = []  # ranks whose proof waits for a tick
        self.verdicts = 0
        self.checking = 0
        self.check_queue = 0
        self.out = Outcome(bundles=bundles)
        self.starved_s = self.prove_s = self.verify_s = self.root_s = 0.0

    def run(self) -> Outcome:
        now = 0.0
        deaths = self._deaths()
        while self.done < self.total:
            before, quiet = now, not self.ready and not self.verdicts
            now = self._tick(now)
            while deaths and deaths[0][0] <= now and self.alive.sum() > 1:
                now = self._lose(heapq.heappop(deaths)[1], now)
            until = now + TICK_S
            if quiet and self.events and self.events[0][0] > until:
                until = self._skip(until, now - before)
            self._advance(now, until)
            now = until
        self.out.seconds = now
        if now > 0:
            children = max(1, self.workers * self.plant.children)
            self.out.root_busy = self.root_s / now
            self.out.verify_busy = self.verify_s / now / max(1, self.plant.verifiers)
            self.out.prove_busy = min(1.0, self.prove_s / now / min(children, self._cores()))
            self.out.starved = self.starved_s / now
        return self.out

    def _skip(self, until: float, tick_s: float) -> float:
        """Pass over ticks in which nothing comes: they cost rank 0 what the last one did. Returns the last one's end."""
        period = TICK_S + tick_s
        ticks = math.floor((self.events[0][0] - until) / period)
        self.out.ticks += ticks
        self.root_s += ticks * (self.costs.root_tick + self.costs.root_rank * self.plant.ranks)
        return until + ticks * period

    def _cores(self) -> float:
        return max(1.0, sum(self.nodes[i].cores for i in np.unique(self.node_of).tolist()))

    def _deaths(self) -> list[tuple[float, int]]:
        if not self.plant.failures:
            return []
        when = self.random.exponential(1 / self.plant.failures, self.workers)
        found = [(float(t), p) for p, t in enumerate(when)]
        heapq.heapify(found)
        return found

    def _tick(self, now: float) -> float:
        """Rank 0 takes in what is ready and gives out what is due. Returns when the tick is over."""
        plant, costs = self.plant, self.costs
        arrived = self.ready
        self.ready = []
        for rank in arrived:
            self.hand[rank] -= 1
        self.check_queue += len(arrived)
        verdicts, self.verdicts = self.verdicts, 0
        self.done += verdicts
        if not self.out.half and self.done >= self.total / 2:
            self.out.half = now
        left = verdicts
        while left and self.rounds:
            taken = min(left, self.rounds[0])
            self.rounds[0] -= taken
            left -= taken
            if not self.rounds[0]:
                self.rounds.popleft()
        while self.opened < self.total and len(self.rounds) < 2:
            self._open()
        ordered = self._order(now)
        items = len(arrived) + verdicts + ordered
        depth = math.ceil(math.log2(max(2, plant.ranks)))
        network = 4 * depth * plant.latency
        network += (len(arrived) * costs.envelope_bytes + ordered * costs.order_bytes) / plant.link
        mine = costs.root_tick + costs.root_rank * plant.ranks + costs.root_bundle * items / 3
        self.root_s += mine
        self.out.ticks += 1
        self.out.queue = max(self.out.queue, self.check_queue)
        after = now + mine + network
        self._start_checks(now)
        return after

    def _open(self) -> None:
        """A round's bundles, in proportion to capacity: ranks are alike, so evenly, the rest one each."""
        count = min(self.round_bundles, self.total - self.opened)
        able = np.flatnonzero(self.alive)
        share, rest = divmod(count, len(able))
        self.backlog[able] += share
        self.backlog[able[:rest]] += 1
        self.opened += count
        self.rounds.append(count)

    def _order(self, now: float) -> int:
        """Give ranks what they have room for, their own first, then what waits for the slowest."""
        children = self.plant.children
        seconds = (self.costs.prove / self.speed) * self._crowding()
        ahead = np.maximum(1, np.ceil(children * np.minimum(MOST_AHEAD, ANSWER_S / np.maximum(seconds, 1e-9))))
        room = np.where(self.alive, np.maximum(0, children + ahead.astype(np.int64) - self.hand), 0)
        give = np.minimum(room, self.backlog)
        self.backlog -= give
        idle = np.flatnonzero(self.alive & (self.hand + give < children) & (self.backlog == 0))
        if len(idle) and self.backlog.any():
            donors = deque(np.argsort(-self.backlog / self.speed)[: np.count_nonzero(self.backlog)].tolist())
            for rank in idle.tolist():
                want = int(children - self.hand[rank] - give[rank])
                while want > 0 and donors:
                    taken = min(want, int(self.backlog[donors[0]]))
                    self.backlog[donors[0]] -= taken
                    give[rank] += taken
                    self.out.stolen += taken
                    want -= taken
                    if not self.backlog[donors[0]]:
                        donors.popleft()
        for rank in np.flatnonzero(give).tolist():
            self.hand[rank] += give[rank]
            self.waiting[rank].extend([now] * int(give[rank]))
            self._feed(rank, now)
        return int(give.sum())

    def _crowding(self) -> float:
        plant = self.plant
        return max(1.0, plant.children * min(plant.ranks_per_node, self.workers) / plant.node_cores)

    def _feed(self, rank: int, now: float) -> None:
        node = int(self.node_of[rank])
        while self.waiting[rank] and self.busy[rank] < self.plant.children and self.alive[rank]:
            self.waiting[rank].popleft()
            self.busy[rank] += 1
            noise = math.exp(self.random.normal(0.0, self.plant.jitter)) if self.plant.jitter else 1.0
            work = (self.costs.prove + self.costs.infer) * noise / self.speed[rank]
            self.prove_s += work
            self.nodes[node].add(now, work, rank)
            self._schedule(node)

    def _start_checks(self, now: float) -> None:
        while self.check_queue and self.checking < self.plant.verifiers:
            self.check_queue -= 1
            self.checking += 1
            self.verify_s += self.costs.verify
            self.nodes[0].add(now, self.costs.verify, -1)
            self._schedule(0)

    def _schedule(self, node: int) -> None:
        self.serial += 1
        heapq.heappush(self.events, (self.nodes[node].next_end(), self.serial, node, self.nodes[node].version))

    def _advance(self, now: float, until: float) -> None:
        """Let processes work up to ``until``."""
        if self.opened < self.total or self.backlog.any():
            free = int((self.plant.children - self.busy[self.alive]).sum())
            self.starved_s += (until - now) * free / max(1, self.workers * self.plant.children)
        while self.events and self.events[0][0] <= until:
            when, _, number, version = heapq.heappop(self.events)
            node = self.nodes[number]
            if version != node.version or not node.heap:
                continue
            when = max(when, node.then)
            rank = node.pop(when)
            if rank == -1:
                self.checking -= 1
                self.verdicts += 1
                self._start_checks(when)
            elif self.alive[rank]:
                self.busy[rank] -= 1
                self.ready.append(rank)
                self._feed(rank, when)
            if node.heap:
                self._schedule(number)

    def _lose(self, rank: int, now: float) -> float:
        """A rank dies: what it had goes to the others, who wait while the communicator shrinks."""
        self.alive[rank] = False
        self.out.lost += 1
        gone = int(self.hand[rank] + self.backlog[rank]) - self.ready.count(rank)
        self.hand[rank] = self.backlog[rank] = self.busy[rank] = 0
        self.waiting[rank].clear()
        self.hand[rank] = self.ready.count(rank)
        able = np.flatnonzero(self.alive)
        share, rest = divmod(max(0, gone), len(able))
        self.backlog[able] += share
        self.backlog[able[:rest]] += 1
        return now + self.plant.recovery


def without(plant: Plant) -> Plant:
    """The same ranks with nothing that goes wrong: equal speeds, no failures."""
    return replace(plant, jitter=0.0, slow=0.0, failures=0.0)
