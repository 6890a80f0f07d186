"""What a sample says of the rest: exact bounds, how many to draw, and that cheats are caught as often as it says."""

from __future__ import annotations

import hashlib
from itertools import product
from math import comb, prod

import numpy as np
import pytest

from enclaveml import sampling
from enclaveml.sampling import Stratum


def hidden(population: int, drawn: int, bad: int, unseen: int = 0) -> float:
    """The hypergeometric probability in whole numbers."""
    ways = sum(comb(bad, x) * comb(population - bad, drawn - x) for x in range(unseen + 1))
    return ways / comb(population, drawn)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize(("population", "drawn"), [(10, 5), (22, 11), (360, 18), (100, 1), (50, 50), (40, 0), (1, 1), (4000, 1400)])
def test_bounds_are_the_exact_hypergeometric_ones(population: int, drawn: int, confidence: float) -> None:
    for unseen in {0, min(1, drawn), min(5, drawn)}:
        most = sampling.bad_at_most(population, drawn, confidence, unseen)
        assert hidden(population, drawn, most, unseen) > (1 - confidence) * (1 - 1e-6)
        assert most == population - drawn + unseen or hidden(population, drawn, most + 1, unseen) <= 1 - confidence


@pytest.mark.parametrize("wrong", [(3, 4, 0.99, 0), (3, 2, 1.0, 0), (3, 2, 0.9, 3), (3, -1, 0.9, 0)])
def test_what_cannot_be_is_refused(wrong: tuple) -> None:
    with pytest.raises(ValueError, match="drawn"):
        sampling.bad_at_most(*wrong)


@pytest.mark.parametrize("strata", [[(6, 2), (9, 3)], [(5, 1), (5, 4), (3, 1)], [(4, 0), (7, 3)], [(8, 8), (6, 2)]])
def test_over_several_rounds_the_worst_spread_counts(strata: list[tuple[int, int]]) -> None:
    """Against every spread of the wrong rows over the rounds."""
    for confidence in (0.9, 0.99):
        most = sampling.strata_bad_at_most([Stratum(*s) for s in strata], confidence)
        worst = {}
        for spread in product(*(range(n + 1) for n, _ in strata)):
            p = prod(hidden(n, k, m) for (n, k), m in zip(strata, spread))
            worst[sum(spread)] = max(worst.get(sum(spread), 0.0), p)
        assert worst[most] > 1 - confidence
        assert all(p <= (1 - confidence) * (1 + 1e-9) for bad, p in worst.items() if bad > most)


def test_rows_that_were_drawn_and_not_proved_count_as_wrong() -> None:
    one = sampling.strata_bad_at_most([Stratum(100, 40, 1)])
    assert one > sampling.strata_bad_at_most([Stratum(100, 40)])
    assert sampling.bad_at_most(10, 4, unseen=4) == 10
    several = [Stratum(100, 40, 1), Stratum(100, 40)]
    each = [sampling.bad_at_most(100, 40, 0.995, u) for u in (1, 0)]
    assert sampling.strata_bad_at_most(several) == sum(each)


@pytest.mark.parametrize("undetected", [0, 1, 10])
def test_enough_are_drawn_and_no_more(undetected: int) -> None:
    for population in (1, undetected, undetected + 1, 30, 360, 4000):
        drawn = sampling.enough(population, undetected, 0.99)
        assert sampling.bad_at_most(population, drawn) <= undetected
        assert drawn == 0 or sampling.bad_at_most(population, drawn - 1) > undetected


def test_of_a_small_worker_all_rows_are_drawn() -> None:
    assert [sampling.to_draw(n, 10, 0.99, True) for n in (1, 5, 10, 11, 20, 50, 4000)] == [1, 5, 10, 10, 10, 16, 1367]


@pytest.mark.parametrize("rounds", [[4000], [100] * 40, [1] * 50, [7, 1000, 3, 65536], [12, 12]])
def test_the_bound_holds_over_however_many_rounds(rounds: list[int]) -> None:
    for undetected, confidence in ((10, 0.99), (0, 0.9), (3, 0.999)):
        strata = [Stratum(n, sampling.to_draw(n, undetected, confidence, False)) for n in rounds]
        assert sampling.strata_bad_at_most(strata, confidence) <= undetected


@pytest.mark.parametrize(("population", "undetected", "rounds"), [(200, 10, 1), (250, 0, 1), (60, 5, 1), (200, 10, 4), (300, 3, 10)])
def test_cheats_are_caught_as_often_as_the_bound_says(population: int, undetected: int, rounds: int) -> None:
    """1,000 cheats of one wrong row more than may hide, spread as suits them: at least 99 % are caught (within 4 sigma)."""
    rng = np.random.default_rng([population, undetected, rounds])
    size = population // rounds
    drawn = sampling.to_draw(size, undetected, 0.99, rounds == 1)
    most = sampling.strata_bad_at_most([Stratum(size, drawn)] * rounds)
    assert most <= undetected
    caught = expected = 0
    for cheat in range(1000):
        spread = np.bincount(rng.choice(rounds, most + 1), minlength=rounds)
        expected += 1 - prod(hidden(size, drawn, int(m)) for m in spread)
        picked = [sampling.pick(np.arange(size), drawn, rng.bytes(16).hex()) for m in spread if m]
        caught += any((rows < m).any() for rows, m in zip(picked, spread[spread > 0]))
    sigma = np.sqrt(1000 * 0.99 * 0.01)
    assert caught >= 990 - 4 * sigma
    assert abs(caught - expected) <= 4 * max(1.0, np.sqrt(expected * (1 - expected / 1000)))


def test_a_draw_is_by_the_smallest_digests() -> None:
    rows, seed = np.array([5, 1 << 40, 7, 123, 2]), "00ff"
    digests = [hashlib.sha256(b"\0\xff" + int(row).to_bytes(8, "little")).digest() for row in rows]
    assert sampling.pick(rows, 2, seed).tolist() == sorted(sorted(range(5), key=digests.__getitem__)[:2])
    assert sampling.pick(rows, 0, seed).tolist() == [] and sampling.pick(rows, 5, seed).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError):
        sampling.pick(rows, 2, "no hex")


def test_every_row_is_drawn_as_often() -> None:
    counts = np.zeros(20)
    for i in range(2000):
        counts[sampling.pick(np.arange(20), 5, f"{i:08x}")] += 1
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_in_words() -> None:
    assert sampling.words(4000, sampling.bad_at_most(4000, 1400), "worker-2's") == (
        "at 99 % confidence, fewer than 11 of worker-2's 4,000 rows can be wrong")
    assert sampling.words(7, 7, "worker-2's") == "nothing: all of worker-2's 7 rows can be wrong"
