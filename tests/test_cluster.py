"""Matching ranks to descriptions, who computes, and devices that nothing serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaveml.cluster import computing, device_faults, match_ranks, metal_refusal
from enclaveml.errors import JobError
from enclaveml.job import RankSpec, load_job


def spec(node_id: str, host: str | None = None) -> RankSpec:
    return RankSpec(node_id, host, "cpu", 1.0)


def matched(specs: list[RankSpec], where: list[tuple[str, int]]) -> list[str | None]:
    return [s and s.node_id for s in match_ranks(specs, where)]


def test_no_descriptions() -> None:
    assert match_ranks([], [("a", 0), ("a", 1)]) == (None, None)


def test_without_hosts_in_rank_order() -> None:
    assert matched([spec("x"), spec("y"), spec("z")], [("b", 0), ("a", 0)]) == ["x", "y"]


def test_by_host_and_local_rank_not_rank_order() -> None:
    specs = [spec("a0", "a"), spec("a1", "a"), spec("b0", "b")]
    assert matched(specs, [("b", 0), ("a", 1), ("a", 0)]) == ["b0", "a1", "a0"]


def test_what_is_left_goes_to_entries_without_host() -> None:
    specs = [spec("any0"), spec("b0", "b"), spec("any1")]
    assert matched(specs, [("a", 0), ("b", 0), ("b", 1)]) == ["any0", "b0", "any1"]


@pytest.mark.parametrize(
    "described, actual", [("n1", "n1.x.org"), ("n1.x.org", "n1"), ("N1", "n1"), ("n1.", "n1")]
)
def test_domains_and_case_do_not_count(described: str, actual: str) -> None:
    assert matched([spec("any"), spec("it", described)], [(actual, 0)]) == ["it"]


def test_different_domains_are_different_hosts() -> None:
    assert matched([spec("any"), spec("it", "n1.x.org")], [("n1.y.org", 0)]) == ["any"]


def test_a_rank_without_description() -> None:
    with pytest.raises(JobError) as caught:
        match_ranks([spec("a0", "a"), spec("b0", "b")], [("a", 0), ("a", 1), ("c", 0)], source="c.yaml:3")
    assert [str(f) for f in caught.value.faults] == [
        "c.yaml:3: cluster.ranks: rank 1 (host a, local rank 1) has no description left: 2 ranks are "
        "described, "
        "1 of them for this host; allowed: an entry for each of the 3 ranks, or start fewer",
        "c.yaml:3: cluster.ranks: rank 2 (host c, local rank 0) has no description left: 2 ranks are "
        "described, "
        "0 of them for this host; allowed: an entry for each of the 3 ranks, or start fewer",
    ]


HOSTS = st.sampled_from(["a", "b", "c"])


@given(described=st.lists(st.none() | HOSTS, max_size=8), hosts=st.lists(HOSTS, max_size=8))
def test_matching(described: list[str | None], hosts: list[str]) -> None:
    specs = [spec(str(i), host) for i, host in enumerate(described)]
    where = [(host, hosts[:i].count(host)) for i, host in enumerate(hosts)]
    surplus = sum(max(0, hosts.count(h) - described.count(h)) for h in "abc")
    if described and surplus > described.count(None):
        with pytest.raises(JobError) as caught:
            match_ranks(specs, where)
        assert len(caught.value.faults) == surplus - described.count(None)
        return
    found = match_ranks(specs, where)
    if not described:
        assert found == (None,) * len(where)
        return
    assert len({s.node_id for s in found}) == len(where)  # no description twice
    for s, (host, _) in zip(found, where, strict=True):
        assert s.host in (None, host)


@pytest.mark.parametrize(
    "computes, ranks, expected",
    [
        (None, 1, (True,)),
        (None, 3, (False, True, True)),
        (True, 2, (True, True)),
        (False, 2, (False, True)),
        (False, 1, (False,)),
    ],
)
def test_computing(computes: bool | None, ranks: int, expected: tuple[bool, ...]) -> None:
    assert computing(computes, ranks) == expected


@pytest.mark.parametrize(
    "versions, reason",
    [
        ({}, "JAX is not installed"),
        (
            {"jax": "0.10.2", "jax-metal": "0.1.1"},
            "no Metal plugin serves JAX 0.10.2: jax-metal ended at JAX 0.5",
        ),
        ({"jax": "0.6.0"}, "no Metal plugin serves JAX 0.6.0: jax-metal ended at JAX 0.5"),
        ({"jax": "0.5.0"}, "jax-metal is not installed"),
        ({"jax": "0.5.3", "jax-metal": "0.1.1"}, ""),
        ({"jax": "0.4.34", "jax-metal": "0.1.1"}, ""),
    ],
)
def test_metal_refusal(versions: dict[str, str], reason: str) -> None:
    assert metal_refusal(versions) == reason


def test_device_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("class Net: ...\n")
    (tmp_path / "x.npy").write_bytes(b"")
    (tmp_path / "job.yaml").write_text(
        "model: {flax: net.py:Net}\ninput: {path: x.npy}\ncluster:\n  ranks:\n"
        "    - {node_id: a, memory_gb: 1}\n    - node_id: mac\n      memory_gb: 1\n      device: metal\n"
    )
    job = load_job("job.yaml")
    assert [str(f) for f in device_faults(job, {"jax": "0.10.2"})] == [
        "job.yaml:8: cluster.ranks.1.device: found 'metal' for 'mac'; no Metal plugin serves JAX 0.10.2: "
        "jax-metal ended at JAX 0.5; allowed here: cpu, cuda"
    ]
    assert device_faults(job, {"jax": "0.5.0", "jax-metal": "0.1.1"}) == ()
    assert device_faults(load_job("job.yaml", ["cluster.ranks.1.device=cpu"])) == ()
