"""What a soak does to its jobs: a schedule that follows from its seed alone.

Moments are not seconds, which mean nothing on a shared machine: a fault strikes some tenths of a second
after all ranks are up, or after so many bundles were judged.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# Attacks of tests/attacks/liar.py that need nothing from an earlier run and make no keys of their own.
ATTACKS = (
    "other_weights", "wrong_input", "another_bundle", "outputs_beyond_tolerance", "argmax_flipped", "nan", "infinity",
    "proved_outputs_altered", "all_outputs_altered", "extra_instance", "extra_proved_row", "extra_output",
    "row_left_out", "bundle_sent_twice", "rows_not_given", "report_claims_a_gigabyte",
    "report_of_an_endless_number", "report_that_is_no_json", "key_appended", "outputs_altered_in_the_envelope",
    "outputs_within_tolerance", "argmax_flipped_within_tolerance", "mutations=empty", "mutations=truncated,half",
)
#: These change only what a worker may choose: nothing is wrong with the rows, and nobody is to be expelled.
HARMLESS = ("outputs_within_tolerance", "argmax_flipped_within_tolerance")

BUNDLE = 4
MOST_WORKERS = 4


@dataclass(frozen=True)
class Event:
    """Once ``bundles`` were judged in this session (-1: once all ranks are up), and ``delay_s`` later:
    ``action`` on ``rank``: kill, freeze, slow (stopped and continued), nice, kill-job or kill-launcher."""

    action: str
    rank: int
    bundles: int
    delay_s: float


@dataclass(frozen=True)
class Session:
    """One start of a job, with the faults that are to strike it; ``liars``: rank to attack."""

    workers: int
    ulfm: bool
    liars: dict[int, str]
    events: tuple[Event, ...]


@dataclass(frozen=True)
class JobPlan:
    """A job and its sessions; each after the first is a --resume, for as long as the job is not finished."""

    rows: int
    inputs: str
    strategy: str
    coverage: float
    max_rejections: int
    sessions: tuple[Session, ...]


def plan(seed: int, number: int) -> JobPlan:
    """The job of that number in the soak of that seed."""
    rng = random.Random(f"{seed}/{number}")
    workers = rng.choice([3, MOST_WORKERS, MOST_WORKERS])
    bundles = rng.randint(20, 36)
    strategy = rng.choice(["equal", "equal", "by_capacity", "redundant"])
    liars = {r: rng.choice(ATTACKS) for r in rng.sample(range(1, workers + 1), rng.choice([0, 1, 1, 2, workers - 1]))}
    sessions = []
    for turn in range(3):
        ulfm = rng.random() < 0.75
        events = [_event(rng, workers, bundles) for _ in range(rng.randint(10, 14) if turn == 0 else rng.randint(4, 6))]
        if turn == 0 and rng.random() < 0.5:
            events.append(Event(rng.choice(["kill-job", "kill-job", "kill-launcher"]), 0,
                                rng.randint(1, max(1, bundles - 3)), rng.random()))
        sessions.append(Session(workers, ulfm, liars, tuple(events)))
    sessions.append(Session(2, False, {}, ()))
    return JobPlan(rows=bundles * BUNDLE - rng.randint(0, 3), inputs=rng.choice(["public", "public", "committed"]),
                   strategy=strategy, coverage=rng.choice([1.0, 1.0, 1.0, 0.5]), max_rejections=rng.choice([1, 2, 4]),
                   sessions=tuple(sessions))


def _event(rng: random.Random, workers: int, bundles: int) -> Event:
    action = rng.choice(["kill", "kill", "freeze", "slow", "slow", "slow", "nice"])
    rank = 0 if rng.random() < 0.05 else rng.randint(1, workers)
    # Under ULFM too a death before the first round ends the job: the more of them, the less is seen of the rest.
    early = rng.random() < (0.04 if action in ("kill", "freeze") else 0.2)
    return Event(action, rank, -1 if early else rng.randint(0, max(1, bundles - 2)),
                 rng.uniform(0, 6) if early else rng.uniform(0, 1.5))
