"""The schema's table: complete, consistent with the dataclasses, and printable."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from enclaveml import job
from enclaveml.schema import (
    AUDIT_KEYS,
    BY_PATH,
    FLAX,
    KEYS,
    RANK_KEYS,
    SECTIONS,
    Key,
    Label,
    Range,
    keys_table,
    names,
    nearest,
)

SPECS = {
    "model": job.ModelSpec,
    "input": job.InputSpec,
    "split": job.SplitSpec,
    "proof": job.ProofSpec,
    "combine": job.CombineSpec,
    "cluster": job.ClusterSpec,
    "output": job.OutputSpec,
}


def test_sections_are_those_of_the_job_file() -> None:
    assert SECTIONS == ("job", "model", "input", "split", "proof", "combine", "cluster", "output")


def test_paths_are_unique() -> None:
    assert len(BY_PATH) == len(KEYS)


@pytest.mark.parametrize("section", SPECS)
def test_each_section_has_the_fields_of_its_dataclass(section: str) -> None:
    assert names(section) == tuple(f.name for f in dataclasses.fields(SPECS[section]))


def test_entries_have_the_fields_of_their_dataclass() -> None:
    assert tuple(k.path for k in RANK_KEYS) == tuple(f.name for f in dataclasses.fields(job.RankSpec))
    assert tuple(k.path for k in AUDIT_KEYS) == tuple(f.name for f in dataclasses.fields(job.AuditSpec))


@pytest.mark.parametrize("section", SPECS)
def test_defaults_are_those_of_the_dataclass(section: str) -> None:
    for f in dataclasses.fields(SPECS[section]):
        if (section, f.name) == ("proof", "coverage"):
            assert BY_PATH["proof.coverage"].default is None  # "not given": 1, or what proof.audit needs
        elif f.default is not dataclasses.MISSING:
            assert BY_PATH[f"{section}.{f.name}"].default == f.default, f.name


@pytest.mark.parametrize("key", KEYS + RANK_KEYS + AUDIT_KEYS, ids=lambda k: k.path)
def test_a_default_is_itself_allowed(key: Key) -> None:
    assert key.meaning and key.allowed()
    if key.default is not None and key.choices:
        assert key.default in key.choices
    if key.default is not None and key.check is not None:
        assert key.check.holds(key.default)
    assert not (key.required and (key.default is not None or key.default_words))
    # A reader of the table must see what happens without the key.
    assert key.required or key.default is not None or key.default_words


@pytest.mark.parametrize(
    "rule, words, inside, outside",
    [
        (Range(0, 1), "from 0 to 1", [0, 0.5, 1], [-0.1, 1.01, float("nan")]),
        (Range(0, open=True), "above 0", [1e-9, 1e9], [0, -1, float("nan")]),
        (Range(1), "from 1", [1, 2], [0]),
        (Range(0, 1, open=True), "above 0, up to 1", [0.1, 1], [0, 1.1]),
    ],
)
def test_ranges(rule: Range, words: str, inside: list[float], outside: list[float]) -> None:
    assert str(rule) == words
    assert all(rule.holds(x) for x in inside)
    assert not any(rule.holds(x) for x in outside)


def test_labels_are_counted_in_bytes() -> None:
    assert Label().holds("ä" * 127)
    assert not Label().holds("ä" * 128)
    assert not Label().holds("a\nb")
    assert not Label().holds(" ")


@pytest.mark.parametrize("text", ["m.py:A", "../x/m.py:A", "package.module:Class", "module:f_1"])
def test_flax_names(text: str) -> None:
    assert FLAX.fullmatch(text)


@pytest.mark.parametrize("text", ["m.py", "m.py:", ":A", "a-b:C", "package.:C", "m.py:1A", "p.m:A.B"])
def test_no_flax_names(text: str) -> None:
    assert not FLAX.fullmatch(text)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("by-capacity", "by_capacity"),
        ("Equal", "equal"),
        ("redundent", "redundant"),
        ("zzz", None),
        ("mean", None),
    ],
)
def test_nearest(name: str, meant: str | None) -> None:
    assert nearest(name, BY_PATH["split.strategy"].choices) == meant


@pytest.mark.parametrize("name, meant", [("mean", "average"), ("Median", "median")])
def test_nearest_in_meaning(name: str, meant: str) -> None:
    assert nearest(name, BY_PATH["combine.strategy"].choices) == meant


def test_table_rows() -> None:
    lines = keys_table().splitlines()
    assert lines[0] == "| key | type | default | unit | meaning | allowed |"
    assert len(lines) == 2 + len(KEYS) + len(RANK_KEYS) + len(AUDIT_KEYS) + 1  # and `cluster` itself
    assert (
        "| `proof.timeout_s` | number | `600` | s | longest time for one proof | a number above 0 |" in lines
    )
    assert (
        "| `split.strategy` | text | `by_capacity` |  | equal shards, shards in proportion to capacity, or "
        "each row to "
        "several workers | `equal`, `by_capacity`, `redundant` |"
    ) in lines
    assert all(line.count("|") == 7 for line in lines)


def test_module_prints_the_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "enclaveml.schema"], capture_output=True, text=True, check=True
    )
    assert done.stdout == keys_table()
