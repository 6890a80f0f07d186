"""``python -m benchmarks``: turns, checks, reports, and what it calls a change."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.busy import Moment, others, tree_cpu
from benchmarks.common import WrongResult
from benchmarks.suite import Case, Contender, Timing, run_suite
from benchmarks.suite_cases import CASES
from benchmarks.suite_compare import DRIFT, Verdict, compare, judge
from benchmarks.suite_figures import Figure, case_figures
from benchmarks.suite_report import read, write

VALUES = st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=7)


def figure(rounds: Sequence[float], unstable: tuple[str, ...] = ()) -> Figure:
    return Figure("case", "contender", "s a row", tuple(rounds), unstable)


@given(VALUES)
def test_a_figure_has_not_changed_from_itself(rounds):
    assert judge(figure(rounds), figure(rounds)).verdict is Verdict.SAME


@given(VALUES, VALUES, st.floats(1e-3, 1e3))
def test_the_rule(one, other, scale):
    """Changed only where the ranges lie apart by the drift; the other way round it is the other way round; units don't count."""
    verdict = judge(figure(one), figure(other)).verdict
    mirror = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER, Verdict.SAME: Verdict.SAME}
    assert judge(figure(other), figure(one)).verdict is mirror[verdict]
    gap = max(min(other) / max(one), min(one) / max(other))
    edge = (1 + DRIFT) / (1 - DRIFT)
    if not math.isclose(gap, edge, rel_tol=1e-9):  # at the edge itself rounding decides
        assert (verdict is not Verdict.SAME) == (gap > edge)
        assert judge(figure([v * scale for v in one]), figure([v * scale for v in other])).verdict is verdict
    if verdict is Verdict.WORSE:
        assert min(other) > max(one)


@given(VALUES, VALUES)
def test_nothing_is_claimed_of_an_unstable_figure_or_of_few_rounds(one, other):
    claims = {Verdict.BETTER, Verdict.WORSE}
    assert judge(figure(one, ("others on 1.0 processors",)), figure(other)).verdict not in claims
    assert judge(figure(one), figure(other, ("rounds 40 % apart",))).verdict not in claims
    assert judge(figure(one[:2]), figure(other)).verdict is judge(figure(one), figure(other[:2])).verdict is Verdict.FEW


@pytest.mark.parametrize(("n", "m"), [(3, 3), (3, 4), (4, 4)])
def test_the_chance_is_that_of_all_orders(n, m):
    """Runs that are alike: every way of dealing the same n + m values to them is as likely as any other."""
    values = [2.0**i for i in range(n + m)]  # far enough apart that the drift never matters
    dealt = list(itertools.combinations(values, n))
    claimed = [judge(figure(one), figure([v for v in values if v not in one])).verdict is not Verdict.SAME for one in dealt]
    assert sum(claimed) / len(dealt) == pytest.approx(judge(figure(values[:n]), figure(values[n:])).chance)


DATA = np.arange(200_000)


def summing(slower: int = 1, wrong_in: int | None = None) -> Case:
    """A real, tiny benchmark: a sum by numpy and by Python, each ``slower`` times over."""
    def turn(add) -> object:
        def timed(number: int) -> Timing:
            began, used = time.perf_counter(), time.process_time()
            found = [int(add(DATA)) for _ in range(slower)]
            seconds, cpu = time.perf_counter() - began, time.process_time() - used
            if number == wrong_in or set(found) != {len(DATA) * (len(DATA) - 1) // 2}:
                raise WrongResult(f"the sum is {found[0]}")
            return Timing(len(DATA) / 1e6, seconds, cpu)

        return timed

    @contextmanager
    def opened(setting: str, folder: Path):
        assert setting == "quick" and list(folder.iterdir()) == []
        yield [Contender("numpy", turn(np.sum), "vectors"), Contender("<Python> | sum", turn(sum))]

    return Case("summing", "Sums of whole numbers; each is compared with the formula.", "million", opened)


def ran(*cases: Case, rounds: int = 3) -> tuple[dict, list[str], list[dict]]:
    said, kept = [], []
    return run_suite(cases, "quick", rounds, "python -m benchmarks --quick", kept.append, said.append), said, kept


def test_a_run_its_turns_and_its_report(tmp_path):
    document, said, kept = ran(summing(), replace(summing(wrong_in=1), name="mistaken"), replace(summing(), name="third"))
    order = [re.sub(r"(: \S+)? s a million.*", "", line) for line in said if line.startswith("[1/3]")]
    assert order == ["[1/3] summing: preparing", *(
        f"[1/3] summing: round {i}/3: {name}" for i, names in enumerate(
            (("numpy", "<Python> | sum"), ("<Python> | sum", "numpy"), ("numpy", "<Python> | sum")), 1) for name in names)]
    assert [(c["name"], c["error"], c["wrong"]) for c in document["cases"]] == [
        ("summing", "", False), ("mistaken", f"WrongResult: the sum is {DATA.sum()}", True), ("third", "", False)]
    assert [len(made["cases"]) for made in kept] == [3, 3, 3]  # the same list, which grew
    assert document["cases"][0]["command"] == "python -m benchmarks --quick --rounds 3 --only summing"
    metrics = [(f.contender, f.metric) for f in case_figures(document["cases"][0])]
    assert metrics == [("numpy", "s a million"), ("numpy", "CPU s a million"), ("<Python> | sum", "s a million"),
                       ("<Python> | sum", "CPU s a million"), ("<Python> | sum", "time in that of numpy")]
    assert case_figures(document["cases"][1]) == []

    paths = write(document, tmp_path / "reports", "suite-quick")
    assert read(paths[0]) == json.loads(json.dumps(document))
    page, text = (path.read_text(encoding="utf-8") for path in paths[1:])
    assert page.count("<svg") == 2 and "&lt;Python&gt; | sum" in page and "<Python>" not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page) and "@import" not in page
    assert "&lt;Python> \\| sum" in text and f"**Failed:** WrongResult: the sum is {DATA.sum()}" in text
    assert "python -m benchmarks --quick, " in text and " Failed: mistaken." in text

    same = compare(document, document)
    assert same.changed == () and len(same.changes) == 10
    assert same.differs == (f"mistaken failed in the first run: WrongResult: the sum is {DATA.sum()}",
                            f"mistaken failed in the second run: WrongResult: the sum is {DATA.sum()}")


def changed(document: dict, factor: float, **machine: object) -> dict:
    """The same run with the last contender's times multiplied, all rounds alike and nobody else at work."""
    made = json.loads(json.dumps(document))
    made["machine"] |= machine
    for case in made["cases"]:
        case["others"] = 0.0
        for contender in case["contenders"]:
            for turn in contender["turns"]:
                turn |= {"seconds": turn["units"], "cpu_seconds": turn["units"], "others": None}
        for turn in case["contenders"][-1]["turns"]:
            turn["seconds"] *= factor
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """One run that is real, with its times then set to even ones, as files."""
    folder = tmp_path_factory.mktemp("runs")
    document, _, _ = ran(summing())
    made = {"real": document, "even": changed(document, 1.0), "slow": changed(document, 1.25),
            "other": changed(document, 1.25, cpu="another one")}
    return {name: write(each, folder, name)[0] for name, each in made.items()}


def test_a_comparison_in_words(runs, capsys):
    assert main(["compare", str(runs["even"]), str(runs["even"]), "--fail-worse"]) == 0
    assert capsys.readouterr().out.endswith("no change beyond noise in 5 figures\n")
    assert main(["compare", str(runs["even"]), str(runs["slow"])]) == 0
    said = capsys.readouterr().out
    assert said.endswith("2 worse and 0 better of 5 figures, beyond noise; by chance at most 0.5 would be\n")
    assert re.search(r"<Python> \| sum +s a million .*1\.25 +worse", said)
    assert main(["compare", str(runs["even"]), str(runs["slow"]), "--fail-worse"]) == 1
    assert main(["compare", str(runs["slow"]), str(runs["even"]), "--fail-worse"]) == 0
    assert "0 worse and 2 better" in capsys.readouterr().out


def test_of_two_machines_only_the_ratios_are_compared(runs, capsys):
    assert main(["compare", str(runs["even"]), str(runs["other"])]) == 0
    said = capsys.readouterr().out
    assert said.endswith("1 worse and 0 better of 1 figures, beyond noise; by chance at most 0.1 would be\n")
    assert "the machines differ: only ratios between contenders of the same run are compared" in said
    assert re.search(r"cpu: .+ and another one", said)


@pytest.mark.parametrize(("ending", "begins"), [(".html", "<!DOCTYPE html>"), (".md", "# even and slow compared"), (".json", "{")])
def test_a_comparison_as_a_file(runs, tmp_path, ending, begins):
    out = tmp_path / f"compared{ending}"
    assert main(["compare", str(runs["even"]), str(runs["slow"]), "-o", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.startswith(begins) and "2 worse and 0 better of 5 figures" in text
    assert "worse" in text and (ending == ".json" or "<Python>" not in text)


def test_the_documented_case_runs_and_reports(tmp_path, capsys):
    """A case of the suite itself, from the command line to the files."""
    assert main(["--quick", "--rounds", "3", "--only", "hdf5", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"suite-quick-hdf5.{e}" for e in ("html", "json", "md")]
    assert "[1/1] hdf5: round 3/3: " in said and said.endswith(f"report: {tmp_path / 'suite-quick-hdf5.md'}\n")
    document = read(tmp_path / "suite-quick-hdf5.json")
    assert document["command"] == f"python -m benchmarks --quick --rounds 3 --only hdf5 -o {tmp_path}"
    assert [len(c["turns"]) for c in document["cases"][0]["contenders"]] == [3, 3]


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--only", "digts"], 2, "--only digts: no such case with --quick; allowed: digits, "),
    (["--only", "cancer"], 2, "--only cancer: no such case with --quick; allowed: digits, "),
    (["--rounds", "0"], 2, "--rounds 0: allowed: 1 or more; comparing takes 3"),
    (["compare", "none.json", "none.json"], 4, "none.json: cannot be read: No such file or directory"),
])
def test_wrong_command_lines(arguments, code, words, capsys):
    assert main(arguments) == code
    assert f"benchmarks: {words}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "cases": [{"name": "x"}]}'])
def test_files_that_are_no_report(tmp_path, text, runs, capsys):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert main(["compare", str(runs["even"]), str(path)]) == 4
    assert f"benchmarks: {path}: is no " in capsys.readouterr().err


def test_an_output_of_another_kind(runs, tmp_path, capsys):
    assert main(["compare", str(runs["even"]), str(runs["slow"]), "-o", str(tmp_path / "x.pdf")]) == 2
    assert "allowed: a name that ends with .html, .md or .json" in capsys.readouterr().err


def test_cases_are_listed_and_described(capsys):
    assert main(["--full", "--list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [case.name for case in CASES]
    readme = (Path(__file__).parents[1] / "benchmarks/README.md").read_text(encoding="utf-8")
    for case in CASES:
        assert f"| `{case.name}` | {' and '.join(case.settings)} |" in readme


BURN = "import time\nwhile time.process_time() < 0.4: pass\nprint('burnt', flush=True)\ninput()"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NOT TESTED, WHO KEEPS THE MACHINE BUSY: /proc is Linux's")
def test_what_our_own_processes_use_is_not_that_of_others():
    before = Moment.now()
    child = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "burnt\n"
    running, during = tree_cpu(os.getpid()), Moment.now()
    child.communicate("\n")
    assert running - before.own > 0.35  # while it runs
    assert Moment.now().own - before.own > 0.35  # and when it has ended
    assert others(before, before) is None  # no time in between
    made = replace(during, clock=before.clock + 10, machine=(before.machine or 0) + during.own - before.own + 5)
    assert others(replace(before, machine=before.machine or 0), made) == pytest.approx(0.5)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    """Benchmarks run seldom: a name that was moved under them is to be found before, in their functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("enclaveml", "benchmarks"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
