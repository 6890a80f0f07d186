"""load_job: what a job means, every fault's text, and that any text raises JobError only."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclaveml.errors import JobError
from enclaveml.job import AuditSpec, ClusterSpec, JobSpec, RankSpec, check_output, load_job
from enclaveml.yaml_lines import Scalar

SMALLEST = "model:\n  flax: net.py:Net\ninput:\n  path: data.npz\n"
ALLOWED_SECTIONS = "job, model, input, split, proof, combine, cluster, output"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is `digits/..`; messages then show relative paths."""
    inside = tmp_path / "digits"
    inside.mkdir()
    (inside / "net.py").write_text("class Net:\n    pass\n\nclass Wide(Net):\n    pass\n")
    (inside / "data.npz").write_bytes(b"")
    (inside / "digits.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return inside


def faults(text: str | bytes, *overrides: str, output: str | None = None) -> list[str]:
    job = Path("digits/job.yaml")
    job.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(JobError) as caught:
        load_job(job, overrides, None if output is None else Path(output))
    assert caught.value.exit_code == 2
    return [str(f) for f in caught.value.faults]


def load(text: str, *overrides: str, **more: Path) -> JobSpec:
    job = Path("digits/job.yaml")
    job.write_text(text)
    return load_job(job, overrides, **more)


# --- what a job means ---


def test_smallest_job(folder: Path) -> None:
    job = load(SMALLEST)
    assert job.name == "digits"
    assert job.model.flax == "net.py:Net" and job.model.args == {} and job.model.weights is None
    assert job.input.path == folder / "data.npz" and job.input.key is None and job.input.labels is None
    assert job.output.path == folder / "results.h5"
    assert (job.split.strategy, job.split.replicas, job.split.reassign) == ("by_capacity", 2, True)
    assert (job.proof.coverage, job.proof.inputs, job.proof.tolerance) == (1.0, "public", None)
    assert (job.combine.strategy, job.combine.input) == ("average", "logits")
    assert job.cluster == ClusterSpec(None, ())
    assert job.given == SMALLEST


def test_the_issues_example(folder: Path) -> None:
    job = load(
        "job:\n  name: digits\nmodel:\n  flax: net.py:Net   # a comment\n  weights: digits.safetensors\n"
        "input:\n  path: data.npz\n  key: x\n  labels: y\nsplit:\n  strategy: by_capacity\n"
        "proof:\n  inputs: public\noutput:\n  path: results.h5\n"
    )
    assert job.model.weights == folder / "digits.safetensors"
    assert (job.input.key, job.input.labels) == ("x", "y")


def test_texts_are_what_is_written_whatever_yaml_1_1_says(folder: Path) -> None:
    job = load(SMALLEST + "  key: no\n  labels: 2024-01-01\njob: {name: 010}\n")
    assert (job.input.key, job.input.labels, job.name) == ("no", "2024-01-01", "010")


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "0.001", ".001", "1.e-3", "+0.001", "1.0e-3"])
def test_numbers(folder: Path, written: str) -> None:
    assert load(SMALLEST + f"proof: {{tolerance: {written}}}").proof.tolerance == 0.001


@pytest.mark.parametrize("written, value", [("yes", True), ("Off", False), ("true", True), ("FALSE", False)])
def test_flags(folder: Path, written: str, value: bool) -> None:
    assert load(SMALLEST + f"proof: {{strict: {written}}}").proof.strict is value


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_nothing_is_the_default(folder: Path, nothing: str) -> None:
    job = load(SMALLEST + f"proof:\n  timeout_s: {nothing}\nsplit: {nothing}\n")
    assert job.proof.timeout_s == 600.0 and job.split.strategy == "by_capacity"


def test_several_keys(folder: Path) -> None:
    assert load(SMALLEST + "  key: [a, b]\n").input.key == ("a", "b")


def test_args_follow_yaml_1_2(folder: Path) -> None:
    job = load(
        "model: {flax: net.py:Net, args: {a: 1e-3, b: [1, true, ~], c: 'no', d: {e: relu, f: 1_000}}}\n"
        "input: {path: data.npz}"
    )
    assert job.model.args == {"a": 0.001, "b": [1, True, None], "c": "no", "d": {"e": "relu", "f": 1000}}


def test_cluster_file_is_relative_to_the_job(folder: Path) -> None:
    (folder.parent / "c.yaml").write_text("ranks:\n  - {node_id: a, memory_gb: 4}\n")
    job = load(SMALLEST + "cluster: ../c.yaml\n")
    assert job.cluster == ClusterSpec(None, (RankSpec("a", None, "cpu", 4.0),))
    assert job.where("cluster.ranks.0.memory_gb") == "c.yaml:2"


def test_set_replaces_in_order_and_the_faulty_value_is_not_seen(folder: Path) -> None:
    job = load(
        SMALLEST + "split: {strategy: nonsense}",
        "split.strategy=equal",
        "split.strategy=redundant",
        "model.args.hidden=32",
        "proof.tolerance=1e-2",
        "combine={strategy: median}",
    )
    assert job.split.strategy == "redundant"
    assert job.model.args == {"hidden": 32}
    assert job.proof.tolerance == 0.01
    assert job.combine.strategy == "median"
    assert job.where("split.strategy") == "--set split.strategy=redundant"
    assert job.overrides[0] == "split.strategy=equal"


def test_set_reaches_into_the_cluster_file(folder: Path) -> None:
    Path("c.yaml").write_text(
        "ranks:\n  - {node_id: a, memory_gb: 4, device: metal}\n  - {node_id: b, memory_gb: 2}\n"
    )
    job = load(SMALLEST, "cluster=c.yaml", "cluster.ranks.0.device=cpu", "cluster.aggregator_computes=true")
    assert [r.device for r in job.cluster.ranks] == ["cpu", "cpu"]
    assert job.cluster.aggregator_computes is True
    job = load(SMALLEST, "cluster=c.yaml", "cluster.ranks.*.device=cuda")
    assert [r.device for r in job.cluster.ranks] == ["cuda", "cuda"]


def test_paths_of_the_command_line_are_relative_to_the_current_folder(folder: Path) -> None:
    Path("other.npz").write_bytes(b"")
    job = load(
        SMALLEST,
        "input.path=other.npz",
        "model={flax: digits/net.py:Net, weights: digits/digits.safetensors}",
        output=Path("out.h5"),
    )
    assert job.input.path == folder.parent / "other.npz"
    assert job.output.path == folder.parent / "out.h5"
    assert job.resolved()["model"] == {
        "flax": "net.py:Net",
        "args": {},
        "weights": "digits.safetensors",
        "hash": None,
        "preprocess": None,
        "preprocess_proved": True,
    }


def test_input_stands_beside_the_jobs_own(folder: Path) -> None:
    Path("sample.json").write_text("{}")
    job = load(SMALLEST, input=Path("sample.json"))
    assert job.sample == folder.parent / "sample.json"
    assert job.input.path == folder / "data.npz"
    assert load(SMALLEST).sample is None


def test_input_that_is_not_there(folder: Path) -> None:
    Path("sample.json").write_text("{}")
    with pytest.raises(JobError) as caught:
        load(SMALLEST, input=Path("samples.json"))
    assert str(caught.value) == "--input samples.json: no such file in '.'; did you mean 'sample.json'?"


def test_resolved_says_the_same_job_again(folder: Path) -> None:
    Path("c.yaml").write_text("ranks:\n  - {node_id: 'on', memory_gb: 4, host: n1}\n")
    job = load(
        SMALLEST + "  key: ['no', '1']\nproof: {tolerance: 1e-7}\njob: {name: 'été: 1'}",
        "cluster=c.yaml",
        "model.args={a: 'yes', b: 1.5}",
    )
    again = load(job.resolved_yaml())
    assert json.loads(json.dumps(job.resolved())) == job.resolved() == again.resolved()
    for part in ("name", "model", "input", "split", "proof", "combine", "output", "cluster"):
        assert getattr(again, part) == getattr(job, part)


def test_a_bound_stands_for_a_coverage(folder: Path) -> None:
    job = load(SMALLEST + "proof: {beacon: b.txt, recheck: 0.25}\n", "proof.audit.undetected_bad_rows=10")
    assert job.proof.audit == AuditSpec(10, 0.99) and job.proof.recheck == 0.25
    assert abs(job.proof.coverage - 0.342067) < 1e-6  # 1 - 0.01^(1/11)
    assert job.proof.beacon == folder / "b.txt" and job.proof.beacon_wait_s == 3600
    assert job.resolved()["proof"]["coverage"] is None
    assert load(job.resolved_yaml()).proof == job.proof
    assert load(SMALLEST).resolved()["proof"]["coverage"] == 1.0


def test_resolved_is_a_copy(folder: Path) -> None:
    job = load(SMALLEST)
    job.resolved()["model"]["args"]["x"] = 1
    assert job.resolved()["model"]["args"] == {} and job.model.args == {}


def test_a_job_can_be_sent(folder: Path) -> None:
    job = load(SMALLEST)
    assert pickle.loads(pickle.dumps(job)) == job


# --- one fault each, word for word ---

STRATEGIES = "equal, by_capacity, redundant"
NOT_YAML = "not YAML: "


@pytest.mark.parametrize(
    "line, fault",
    [
        ("splt: {}", f"5: splt: unknown section; allowed: {ALLOWED_SECTIONS}; did you mean 'split'?"),
        (
            "replicas: 2",
            f"5: replicas: unknown section; allowed: {ALLOWED_SECTIONS}; did you mean 'split.replicas'?",
        ),
        ("zz: 2", f"5: zz: unknown section; allowed: {ALLOWED_SECTIONS}"),
        (
            "split: {stratgy: equal}",
            "5: split.stratgy: unknown key; allowed in split: strategy, replicas, capacity, reassign; did you mean "
            "'strategy'?",
        ),
        (
            "split: {coverage: 1}",
            "5: split.coverage: unknown key; allowed in split: strategy, replicas, capacity, reassign; did you mean "
            "'proof.coverage'?",
        ),
        ("split: {zz: 1}", "5: split.zz: unknown key; allowed in split: strategy, replicas, capacity, reassign"),
        (
            "split: equal",
            "5: split: found 'equal'; allowed: a mapping with the keys strategy, replicas, capacity, reassign",
        ),
        (
            "split: [equal]",
            "5: split: found a list; allowed: a mapping with the keys strategy, replicas, capacity, reassign",
        ),
        (
            "split: {strategy: by-capacity}",
            f"5: split.strategy: found 'by-capacity'; allowed: {STRATEGIES}; did you mean 'by_capacity'?",
        ),
        ("split: {strategy: 3}", f"5: split.strategy: found 3; allowed: {STRATEGIES}"),
        ("split: {strategy: {a: b}}", f"5: split.strategy: found a mapping; allowed: {STRATEGIES}"),
        ("split: {replicas: 0}", "5: split.replicas: found 0; allowed: a whole number from 1"),
        ("split: {replicas: 2.0}", "5: split.replicas: found 2.0; allowed: a whole number from 1"),
        ("split: {replicas: '2'}", "5: split.replicas: found '2'; allowed: a whole number from 1"),
        ("split: {replicas: 010}", "5: split.replicas: found 010; allowed: a whole number from 1"),
        (
            "split: {capacity: speed}",
            "5: split.capacity: found 'speed'; allowed: memory, declared, throughput",
        ),
        (
            "split: {capacity: declared}",
            "5: split.capacity: found 'declared', and no rank is described; allowed: cluster.ranks with it, or memory "
            "or throughput",
        ),
        (
            "split: {strategy: equal, capacity: throughput}",
            "5: split.capacity: found 'throughput', and split.strategy equal weighs no rank; allowed: split.strategy "
            "by_capacity or redundant with it",
        ),
        ("split: {reassign: maybe}", "5: split.reassign: found 'maybe'; allowed: true or false"),
        ("split: {reassign: 'true'}", "5: split.reassign: found 'true'; allowed: true or false"),
        ("split: {reassign: 1}", "5: split.reassign: found 1; allowed: true or false"),
        ("proof: {coverage: 1.5}", "5: proof.coverage: found 1.5; allowed: a number from 0 to 1"),
        ("proof: {coverage: 100%}", "5: proof.coverage: found '100%'; allowed: a number from 0 to 1"),
        ("proof: {coverage: .nan}", "5: proof.coverage: found '.nan'; allowed: a number from 0 to 1"),
        ("proof: {coverage: true}", "5: proof.coverage: found true; allowed: a number from 0 to 1"),
        (
            "proof: {coverage: 0.5, audit: {undetected_bad_rows: 1}}",
            "5: proof.audit: found beside proof.coverage (digits/job.yaml:5); allowed: one of them, since each says how "
            "many rows are proved",
        ),
        ("proof: {audit: 3}", "5: proof.audit: found 3; allowed: a mapping with undetected_bad_rows and confidence"),
        ("proof: {audit: {}}", "5: proof.audit.undetected_bad_rows: missing; allowed: a whole number from 0"),
        (
            "proof: {audit: {undetected_bad_rows: 1, confidence: 1}}",
            "5: proof.audit.confidence: found 1; allowed: a number from 0.5 to 0.999999",
        ),
        (
            "proof: {audit: {undetected_rows: 1, undetected_bad_rows: 1}}",
            "5: proof.audit.undetected_rows: unknown key; allowed in proof.audit: undetected_bad_rows, confidence; did "
            "you mean 'undetected_bad_rows'?",
        ),
        (
            "proof: {beacon: b.txt}",
            "5: proof.beacon: found, and nothing is drawn; allowed: with proof.audit, or proof.coverage between 0 and 1",
        ),
        (
            "proof: {recheck: 0.01}",
            "5: proof.recheck: found 0.01, and all rows are proved; allowed: with proof.audit, or proof.coverage below 1",
        ),
        ("proof: {tolerance: 0}", "5: proof.tolerance: found 0; allowed: a number above 0"),
        ("proof: {tolerance: 1e999}", "5: proof.tolerance: found 1e999; allowed: a number above 0"),
        ("proof: {timeout_s: 10:00}", "5: proof.timeout_s: found '10:00'; allowed: a number above 0"),
        ("proof: {timeout_s: 0600}", "5: proof.timeout_s: found 0600; allowed: a number above 0"),
        ("proof: {max_rejections: 0}", "5: proof.max_rejections: found 0; allowed: a whole number from 1"),
        (
            "proof: {rows_per_proof: 1}",
            "5: proof.rows_per_proof: found 1; allowed: a whole number from 2 to 65536",
        ),
        ("proof: {slices: 0}", "5: proof.slices: found 0; allowed: auto, or a whole number from 1 to 64"),
        ("proof: {slices: 65}", "5: proof.slices: found 65; allowed: auto, or a whole number from 1 to 64"),
        ("proof: {scale: 31}", "5: proof.scale: found 31; allowed: a whole number from 1 to 30"),
        ("proof: {inputs: private}", "5: proof.inputs: found 'private'; allowed: public, committed, hashed"),
        (
            "combine: {strategy: mean}",
            "5: combine.strategy: found 'mean'; allowed: average, weighted_average, majority_vote, "
            "soft_vote, median; "
            "did you mean 'average'?",
        ),
        (
            "combine: {input: logit}",
            "5: combine.input: found 'logit'; allowed: logits, probabilities; did you mean 'logits'?",
        ),
        ("job: {name: ''}", "5: job.name: found ''; allowed: printable text of 1 to 255 bytes"),
        ('job: {name: "a\\tb"}', "5: job.name: found 'a\\tb'; allowed: printable text of 1 to 255 bytes"),
        ("output: {path: .}", "5: output.path: found '.'; a folder; allowed: a file's path"),
        (
            "output: {path: out/r.h5}",
            "5: output.path: found 'out/r.h5'; the folder 'digits/out' does not exist",
        ),
        (
            "output: {path: data.npz}",
            "5: output.path: found 'data.npz'; that is input.path, and would be overwritten",
        ),
        (
            "output: {path: job.yaml}",
            "5: output.path: found 'job.yaml'; that is the job file, and would be overwritten",
        ),
        (
            "cluster: {ranks: 4}",
            "5: cluster.ranks: found 4; allowed: a list of mappings, each with node_id, host, device, "
            "memory_gb",
        ),
        (
            "cluster: {ranks: [a]}",
            "5: cluster.ranks.0: found 'a'; allowed: a mapping with the keys node_id, host, device, "
            "memory_gb",
        ),
        (
            "cluster: {ranks: [{node_id: a, memory_gb: 0}]}",
            "5: cluster.ranks.0.memory_gb: found 0; allowed: a number above 0",
        ),
        (
            "cluster: {ranks: [{node_id: a, memory_gb: 1, device: gpu}]}",
            "5: cluster.ranks.0.device: found 'gpu'; allowed: cpu, cuda, metal; did you mean 'cuda'?",
        ),
        (
            "cluster: {ranks: [{node_id: a, memory: 1, memory_gb: 1}]}",
            "5: cluster.ranks.0.memory: unknown key; allowed in cluster.ranks.0: node_id, host, device, "
            "memory_gb; "
            "did you mean 'memory_gb'?",
        ),
        (
            "cluster: {ranks: [{node_id: a}]}",
            "5: cluster.ranks.0.memory_gb: missing; allowed: a number above 0",
        ),
        (
            "cluster: {ranks: [{node_id: a, memory_gb: 1}, {node_id: a, memory_gb: 1}]}",
            "5: cluster.ranks.1.node_id: found 'a', as at digits/job.yaml:5; allowed: a name of its own",
        ),
        (
            "cluster: {aggregator_computes: false, ranks: [{node_id: a, memory_gb: 1}]}",
            "5: cluster.aggregator_computes: found false with one rank described, so no rank computes; "
            "allowed: true, or more ranks",
        ),
        (
            "split: {strategy: redundant, replicas: 2}\n"
            "cluster: {ranks: [{node_id: a, memory_gb: 1}, {node_id: b, memory_gb: 1}]}",
            "5: split.replicas: found 2; allowed: 1 to 1, the workers that cluster.ranks describes",
        ),
        (
            "cluster: clusters.yaml",
            "5: cluster: found 'clusters.yaml'; no such file in 'digits'; did you mean 'cluster.yaml'?",
        ),
        (
            "cluster: no/where.yaml",
            "5: cluster: found 'no/where.yaml'; no such file: the folder 'digits/no' does not exist",
        ),
        ("  key: []", "5: input.key: found an empty list; allowed: text, or a list of texts"),
        ("  key: [a, {b: c}]", "5: input.key.1: found a mapping; allowed: text, or a list of texts"),
        # YAML itself
        ("split: {}\nsplit: {}", "6: split: given twice, first at digits/job.yaml:5; keep one"),
        (
            "split:\n  replicas: 1\n  replicas: 2",
            "7: split.replicas: given twice, first at digits/job.yaml:6; keep one",
        ),
        ("split:\n\treplicas: 1", "6: " + NOT_YAML + "a tab in the indentation; allowed: spaces"),
        (
            "split: [",
            "6: "
            + NOT_YAML
            + "expected the node content, but found '<stream end>', while parsing a flow node",
        ),
        ("split: a: b", "5: " + NOT_YAML + "mapping values are not allowed here"),
        ("split: *all", "5: split: an alias, *all; write the value out"),
        ("split: &all {}", "5: split: an anchor, &all; write the value out where it is used"),
        ("split: {replicas: !!int 2}", "5: split.replicas: a tag, tag:yaml.org,2002:int; leave it out"),
        ("? [a]\n: b", "5: ?: a list or mapping as a key; allowed: text"),
        ("---\nsplit: {}", "5: a second document begins here; allowed: one"),
        ('job: {name: "\\ud800"}', "5: job.name: half of a surrogate pair; allowed: text"),
        ('job: {name: "\\UFFFFFFFF"}', None),
    ],
)
def test_one_fault(folder: Path, line: str, fault: str | None) -> None:
    (folder / "cluster.yaml").write_text("{}")
    found = faults(SMALLEST + line + "\n")
    if fault is None:
        assert len(found) == 1 and found[0].startswith("digits/job.yaml:1: not YAML: ")
    else:
        assert found == ["digits/job.yaml:" + fault]


@pytest.mark.parametrize(
    "model, fault",
    [
        ("{}", "model.flax: missing; allowed: package.module:Class or file.py:Class"),
        ("{flax: net.py}", "model.flax: found 'net.py'; allowed: package.module:Class or file.py:Class"),
        (
            "{flax: nett.py:Net}",
            "model.flax: found 'nett.py:Net'; no such file in 'digits'; did you mean 'net.py'?",
        ),
        (
            "{flax: net.py:Wid}",
            "model.flax: found 'net.py:Wid'; net.py defines no 'Wid'; classes there: Net, Wide; did you "
            "mean 'Wide'?",
        ),
        ("{flax: bad.py:A}", "model.flax: found 'bad.py:A'; bad.py, line 2: '(' was never closed"),
        ("{flax: none.py:A}", "model.flax: found 'none.py:A'; none.py defines no 'A'; classes there: none"),
        (
            "{flax: net.py:Net, weights: digit.safetensors}",
            "model.weights: found 'digit.safetensors'; no such file in 'digits'; did you mean "
            "'digits.safetensors'?",
        ),
        (
            "{flax: net.py:Net, weights: ../digits}",
            "model.weights: found '../digits'; a folder; allowed: a file, or an Orbax checkpoint's folder",
        ),
        ("{flax: net.py:Net, hash: abc}", "model.hash: found 'abc'; allowed: 64 hexadecimal digits"),
        (
            "{flax: net.py:Net, args: [1]}",
            "model.args: found a list; allowed: a mapping of keyword arguments",
        ),
        (
            "{flax: net.py:Net, args: {a-b: 1}}",
            "model.args.a-b: found 'a-b'; allowed: the name of an argument",
        ),
        (
            "{flax: net.py:Net, args: {a: no}}",
            "model.args.a: found no, which YAML's versions read differently; "
            "allowed: true, false, a decimal number, or text in quotes",
        ),
        (
            "{flax: net.py:Net, args: {a: [010]}}",
            "model.args.a.0: found 010, which YAML's versions read differently; "
            "allowed: true, false, a decimal number, or text in quotes",
        ),
        (
            "{flax: net.py:Net, args: {a: -.inf}}",
            "model.args.a: found -.inf; allowed: a finite number, or text in quotes",
        ),
    ],
)
def test_model_faults(folder: Path, model: str, fault: str) -> None:
    (folder / "bad.py").write_text("x = 1\nclass A(\n")
    (folder / "none.py").write_text("import os\n")
    assert faults(f"input: {{path: data.npz}}\nmodel: {model}\n") == [f"digits/job.yaml:2: {fault}"]


def test_names_that_a_file_imports_or_assigns_count(folder: Path) -> None:
    (folder / "made.py").write_text("from x import Y as A\nB = A\ndef C(): ...\n")
    for name in "ABC":
        assert load(SMALLEST, f"model.flax=digits/made.py:{name}").model.flax == f"made.py:{name}"


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "digits/job.yaml:1: an empty file; the smallest job gives model.flax and input.path"),
        ("# nothing\n", "digits/job.yaml:1: an empty file; the smallest job gives model.flax and input.path"),
        ("- a", f"digits/job.yaml:1: found a list; allowed: a mapping with the sections {ALLOWED_SECTIONS}"),
        (
            "hello",
            f"digits/job.yaml:1: found 'hello'; allowed: a mapping with the sections {ALLOWED_SECTIONS}",
        ),
        (b"job:\n  name: \xff\n", "digits/job.yaml:2: not UTF-8: byte 0xff"),
        (b"job:\n  name: \x01\n", "digits/job.yaml:2: not YAML: the character U+0001 is not allowed"),
        (b"#" * (1 << 20) + b"\n", "digits/job.yaml: larger than 1 MiB (1048577 bytes); is it a job file?"),
        ("{a: " * 21 + "}" * 21, None),
    ],
)
def test_whole_file_faults(folder: Path, text: str | bytes, fault: str | None) -> None:
    found = faults(text)
    if fault is None:
        assert "digits/job.yaml:1: " + ".".join(["a"] * 20) + ": nested more than 20 deep" in found
    else:
        assert found == [fault]


def test_required_keys_are_missed_where_their_section_stands(folder: Path) -> None:
    assert faults("job: {name: x}\nmodel:\n  args: {}\n") == [
        "digits/job.yaml:1: input.path: missing; allowed: a path",
        "digits/job.yaml:2: model.flax: missing; allowed: package.module:Class or file.py:Class",
    ]


@pytest.mark.parametrize(
    "path, fault",
    [
        ("digits/jop.yaml", "digits/jop.yaml: no such file in 'digits'; did you mean 'job.yaml'?"),
        ("digits", "digits: a folder; allowed: a file; did you mean 'digits/job.yaml'?"),
        ("digit/job.yaml", "digit/job.yaml: no such file: the folder 'digit' does not exist"),
    ],
)
def test_no_job_file(folder: Path, path: str, fault: str) -> None:
    (folder / "job.yaml").write_text(SMALLEST)
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(caught.value) == fault


def test_an_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "job.yaml").write_text(SMALLEST)

    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # file modes do not stop root
    with pytest.raises(JobError) as caught:
        load_job("digits/job.yaml")
    assert str(caught.value) == "digits/job.yaml: cannot be read: Permission denied"


def test_all_faults_at_once_in_order_of_file_and_line(folder: Path) -> None:
    Path("c.yaml").write_text("ranks:\n  - node_id: a\n    memory_gb: lots\nrank: 1\n")
    found = faults(
        "cluster: ../c.yaml\nproof:\n  coverage: 2\nmodel: {flax: net.py:Nett}\nsplit:\n  replicas: 1\n  "
        "replicas: 1\n",
        "combine.strategy=mode",
        "nonsense",
    )
    assert found == [
        "--set combine.strategy=mode: combine.strategy: found 'mode'; "
        "allowed: average, weighted_average, majority_vote, soft_vote, median",
        "--set nonsense: allowed: SECTION.KEY=VALUE, as in split.strategy=equal",
        "c.yaml:3: cluster.ranks.0.memory_gb: found 'lots'; allowed: a number above 0",
        "c.yaml:4: cluster.rank: unknown key; allowed in cluster: aggregator_computes, ranks; did you mean "
        "'ranks'?",
        "digits/job.yaml:1: input.path: missing; allowed: a path",
        "digits/job.yaml:3: proof.coverage: found 2; allowed: a number from 0 to 1",
        "digits/job.yaml:4: model.flax: found 'net.py:Nett'; net.py defines no 'Nett'; "
        "classes there: Net, Wide; did you mean 'Net'?",
        "digits/job.yaml:7: split.replicas: given twice, first at digits/job.yaml:6; keep one",
    ]


@pytest.mark.parametrize(
    "option, fault",
    [
        ("split", "--set split: allowed: SECTION.KEY=VALUE, as in split.strategy=equal"),
        ("split..a=1", "--set split..a=1: allowed: SECTION.KEY=VALUE, as in split.strategy=equal"),
        (
            "split=equal",
            "--set split=equal: split: found 'equal'; allowed: a mapping with the keys strategy, replicas, "
            "capacity, reassign",
        ),
        (
            "split.stratgy=equal",
            "--set split.stratgy=equal: split.stratgy: unknown key; allowed in split: strategy, replicas, "
            "capacity, reassign; "
            "did you mean 'strategy'?",
        ),
        (
            "proof.coverage=lots",
            "--set proof.coverage=lots: proof.coverage: found 'lots'; allowed: a number from 0 to 1",
        ),
        (
            "proof.coverage=[",
            "--set proof.coverage=[: proof.coverage: not YAML: expected the node content, "
            "but found '<stream end>', while parsing a flow node",
        ),
        ("input.path=", "--set input.path=: input.path: missing; allowed: a path"),
        (
            "input.path.x=1",
            "--set input.path.x=1: input.path.x: input.path is 'data.npz' at digits/job.yaml:4, so nothing "
            "can be set below it",
        ),
        (
            "cluster.ranks.2.device=cpu",
            "--set cluster.ranks.2.device=cpu: cluster.ranks: found entry '2'; allowed: an entry's number, "
            "0 to 0, or * for all",
        ),
        (
            "cluster.ranks.x.device=cpu",
            "--set cluster.ranks.x.device=cpu: cluster.ranks: found entry 'x'; allowed: an entry's number, "
            "0 to 0, or * for all",
        ),
        (
            "input.path=digits/dat.npz",
            "--set input.path=digits/dat.npz: input.path: found 'dat.npz'; no such file in 'digits'; did "
            "you mean 'data.npz'?",
        ),
    ],
)
def test_set_faults(folder: Path, option: str, fault: str) -> None:
    assert faults(SMALLEST + "cluster: {ranks: [{node_id: a, memory_gb: 1}]}\n", option) == [fault]


def test_output_faults_name_the_option(folder: Path) -> None:
    assert faults(SMALLEST, output="no/r.h5") == [
        f"-o no/r.h5: output.path: found '{folder.parent}/no/r.h5'; the folder '{folder.parent}/no' does "
        "not exist"
    ]


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "c.yaml:1: cluster: an empty file; allowed: a mapping with the keys aggregator_computes, ranks"),
        (
            "- a",
            "c.yaml:1: cluster: found a list; allowed: a mapping with the keys aggregator_computes, ranks",
        ),
        (
            "ranks: [",
            "c.yaml:1: cluster: not YAML: expected the node content, but found '<stream end>', "
            "while parsing a flow node",
        ),
        ("ranks: []\nranks: []", "c.yaml:2: cluster.ranks: given twice, first at c.yaml:1; keep one"),
    ],
)
def test_cluster_file_faults(folder: Path, text: str, fault: str) -> None:
    Path("c.yaml").write_text(text)
    assert faults(SMALLEST + "cluster: ../c.yaml\n") == [fault]


# --- output ---


def test_check_output(folder: Path) -> None:
    job = load(SMALLEST)
    check_output(job, resume=False, force=False)
    check_output(job, resume=True, force=False)
    (folder / "results.h5.journal").write_bytes(b"")
    with pytest.raises(JobError) as caught:
        check_output(job, resume=False, force=False)
    assert str(caught.value) == (
        "digits/job.yaml:1: output.path: digits/results.h5.journal exists; "
        "--resume goes on with it, --force replaces it, -o writes elsewhere"
    )
    (folder / "results.h5").write_bytes(b"")
    with pytest.raises(JobError, match="digits/results.h5 exists"):
        check_output(load(SMALLEST, "output.path=digits/results.h5"), resume=False, force=False)
    check_output(job, resume=True, force=False)
    check_output(job, resume=False, force=True)
    with pytest.raises(JobError) as caught:
        check_output(job, resume=True, force=True)
    assert (
        str(caught.value)
        == "--resume and --force exclude each other: go on with the results, or replace them"
    )


# --- any text ---

PIECES = st.sampled_from(
    [
        "job",
        "model",
        "input",
        "split",
        "cluster",
        "ranks",
        "strategy",
        ":",
        ": ",
        "- ",
        "\n",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        '"',
        "#",
        "&a",
        "*a",
        "!!int",
        "|",
        ">",
        "?",
        "---",
        "...",
        "%YAML 1.1",
        "\t",
        "\\",
        "\\ud800",
        "~",
        "0x1",
        "1e9",
        "no",
        "node_id",
        "memory_gb",
        "é",
        "\u2028",
        "\x00",
        "\x85",
        "%TAG ! x",
        "<<",
    ]
)
ANY_YAML = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join))
ANY_TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["job", "model", "split", "cluster", "ranks", "args", "path", "flax", "name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _only_job_error(data: bytes, *overrides: str) -> None:
    job = Path("digits/job.yaml")
    job.write_bytes(data)
    try:
        spec = load_job(job, overrides)
    except JobError as error:
        assert error.faults and all(str(f) for f in error.faults)
    else:
        json.dumps(spec.resolved(), allow_nan=False)


@BOUNDED
@given(text=ANY_YAML)
def test_any_text_raises_only_job_error(folder: Path, text: str) -> None:
    _only_job_error(text.encode("utf-8", "surrogatepass"))
    _only_job_error((SMALLEST + text).encode("utf-8", "surrogatepass"))


@BOUNDED
@given(data=st.binary(max_size=60))
def test_any_bytes_raise_only_job_error(folder: Path, data: bytes) -> None:
    _only_job_error(data)


@BOUNDED
@given(
    tree=ANY_TREE,
    option=st.one_of(ANY_YAML, ANY_YAML.map(lambda t: "cluster.ranks=" + t), ANY_YAML.map("job.".__add__)),
)
def test_any_tree_and_override_raise_only_job_error(folder: Path, tree: object, option: str) -> None:
    _only_job_error(yaml.safe_dump(tree).encode(), option)


@BOUNDED
@given(
    name=st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Cf", "Cn", "Co", "Zl", "Zp", "Zs"]),
        min_size=1,
        max_size=40,
    ),
    tolerance=st.floats(1e-12, 1e6),
    args=st.dictionaries(
        st.from_regex(r"[a-z]{1,5}", fullmatch=True),
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        max_size=4,
    ),
)
def test_what_pyyaml_dumps_is_read_as_meant(folder: Path, name: str, tolerance: float, args: dict) -> None:
    # PyYAML writes the text 1e3 plain, since YAML 1.1 calls it no number. Here it is one (yaml_lines.py).
    args = {key: value for key, value in args.items() if not (
        isinstance(value, str) and yaml.safe_dump(value)[0] not in "'\"" and Scalar(value, True, "").number() is not None)}
    text = yaml.safe_dump(
        {
            "job": {"name": name},
            "model": {"flax": "net.py:Net", "args": args},
            "input": {"path": "data.npz"},
            "proof": {"tolerance": tolerance},
        },
    )
    Path("digits/job.yaml").write_text(text, encoding="utf-8")
    job = load_job("digits/job.yaml")
    assert (job.name, job.model.args, job.proof.tolerance) == (name, args, tolerance)


def test_the_input_may_be_a_folder_of_bytes_with_a_scale(folder: Path) -> None:
    (folder / "images").mkdir()
    job = load("model: {flax: net.py:Net}\ninput: {path: images, scale: 0.5}\n")
    assert job.input.path == folder / "images" and job.input.scale == 0.5
    assert load("model: {flax: net.py:Net}\ninput: {path: images}\n").input.scale is None
    assert faults("model: {flax: net.py:Net}\ninput: {path: images, scale: 0}\noutput: {path: images/r.h5}\n") == [
        "digits/job.yaml:2: input.scale: found 0; allowed: a number above 0",
        "digits/job.yaml:3: output.path: found 'images/r.h5'; in the folder of the data, of which it would become a "
        "part"]
