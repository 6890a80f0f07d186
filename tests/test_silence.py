"""silence.py: whose silence counts, from when, and how much of it."""

from __future__ import annotations

from enclaveml.silence import GRACE_S, LONGEST_STEP_S, Silence, limit_s


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(silence: Silence, clock: Clock, seconds: float, limits: dict[int, float]) -> dict[int, float]:
    """Steps of half a second."""
    found: dict[int, float] = {}
    for _ in range(round(2 * seconds)):
        clock.now += 0.5
        found = silence.step(limits)
    return found


def test_a_rank_is_silent_from_when_it_owes_an_answer() -> None:
    clock = Clock()
    silence = Silence(clock)
    assert run(silence, clock, 50, {}) == {}
    assert run(silence, clock, 10.5, {1: 10, 2: 20}) == {}  # the first step only notes that they owe
    assert run(silence, clock, 0.5, {1: 10, 2: 20}) == {1: 10.5}
    assert run(silence, clock, 9.5, {1: 10, 2: 20}) == {1: 20.0}
    assert run(silence, clock, 0.5, {1: 10, 2: 20}) == {1: 20.5, 2: 20.5}


def test_an_answer_or_owing_nothing_starts_anew() -> None:
    clock = Clock()
    silence = Silence(clock)
    run(silence, clock, 10, {1: 10, 2: 10})
    silence.heard(1)
    silence.heard(7)
    assert run(silence, clock, 1, {1: 10, 2: 10}) == {2: 10.5}
    run(silence, clock, 0.5, {1: 10})
    assert run(silence, clock, 10.5, {1: 10, 2: 10}) == {1: 11.5}


def test_time_in_which_nobody_was_heard_counts_as_one_long_step() -> None:
    clock = Clock()
    silence = Silence(clock)
    silence.step({1: 10})
    clock.now += 3600
    assert silence.step({1: 0.5}) == {1: LONGEST_STEP_S}
    clock.now -= 50  # a clock that was set back
    assert silence.step({1: 0.5}) == {1: LONGEST_STEP_S}


def test_the_limit_covers_a_proof_and_a_hash() -> None:
    assert limit_s(600) == 1200 + GRACE_S
