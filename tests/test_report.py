"""``enclaveml report``: what it says is in the file, nothing in the file can make it say something else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from enclaveml.errors import EnvironmentFault, FormatError, JobError
from enclaveml.report import report
from enclaveml.report_facts import read_facts
from enclaveml.report_plots import GREY, ORANGE, idle, plots
from enclaveml.report_tables import tables
from enclaveml.report_words import summary
from enclaveml.results import build_results
from enclaveml.results_schema import RowStatus
from tests.results_case import Case

JOB = "combine: {strategy: average, input: logits}\nproof: {coverage: 1.0, inputs: public, strict: true}\nsplit: {strategy: by_capacity}\n"
MANIFEST = {"rows": 4, "tolerance": 0.25, "deviation": 0.125, "agreement": 1.0, "samples": 5, "logrows": 11,
            "system": "ezkl", "version": "23.0.5", "srs_origin": "own", "inputs_bounded": False}
NASTY = "</pre><script>alert(1)</script>|x"


def a_file(folder: Path, name: str = "results.h5", evidence: str = NASTY) -> Path:
    """Five rows by two ranks: four verified, one rejected, with times and labels."""
    case = Case(folder / f"{name}.journal", 5, 3, manifest=MANIFEST, job=JOB)
    case.outputs(1, [0, 1])
    case.outputs(2, [2, 3, 4])
    case.bundle(1, [0, 1], witness_seconds=0.5, prove_seconds=2.0)
    case.bundle(2, [2, 3], witness_seconds=0.5, prove_seconds=4.0)
    case.bundle(2, [4], RowStatus.REJECTED, verdict=evidence)
    case.journal.append("rank", {"rank": 2, "fate": "expelled", "fate_reason": evidence, "fate_time": "2026-01-01T00:00:30Z",
                                 "rejections": 1, "seconds_inferring": 0.01, "seconds_proving": 9.0, "seconds_waiting": 1.0})
    case.journal.append("rank", {"rank": 1, "fate": "ok", "seconds_inferring": 0.01, "seconds_proving": 5.0,
                                 "seconds_waiting": 2.0})
    case.end("complete_unverified", 3)
    # Outputs rise with their index, so every class is D - 1 = 2: three of the four labels are that.
    build_results(folder / f"{name}.journal", folder / name, labels=np.array([2, 2, 1, 2, 2]))
    return folder / name


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return a_file(tmp_path_factory.mktemp("report"))


class _Page(HTMLParser):
    """Elements of a page, the text outside of styles, and whatever would reach out for another file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [f"{name}={value}" for name, value in attributes
                       if name in ("src", "href", "xlink:href", "action", "data") and not (value or "").startswith("#")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_figures_are_those_of_the_file(path):
    document = read_facts(path).document
    assert document["statuses"] == {"verified": 4, "rejected": 1}
    assert document["score"] == {"rows": 4, "right": 3, "accuracy": 0.75}
    assert document["deviation"] == {"largest": 0.125, "median": 0.125}
    assert (document["proofs"], document["proofs_verified"]) == (3, 2)
    assert (document["prove_seconds_total"], document["verify_seconds_total"]) == (6.0, 0.75)
    assert document["wall_seconds"] == 24 * 3600
    assert document["rejections"] == [{"id": 3, "rank": 2, "session": 0, "attempt": 1, "verdict": NASTY,
                                       "status": "rejected", "first_row": 4, "rows": 1}]
    assert [r["fate"] for r in document["ranks"]] == ["", "ok", "expelled"]
    assert read_facts(path).confusion.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 3]]


def test_spans_end_where_the_proof_had_come(path):
    spans = read_facts(path).spans
    assert [(s.rank, s.rejected) for s in spans] == [(1, False), (2, False), (2, True)]
    assert [round(s.end - s.begin, 9) for s in spans[:2]] == [2.5, 4.5]
    assert np.isnan(spans[2].begin), "no seconds were told with the rejected proof"


def test_the_summary_in_words(path):
    assert summary(read_facts(path).document) == (
        "The job ran 5 rows through one model on 2 ranks and asked for a zero-knowledge proof of each. 4 of them are "
        "verified: for each there is a proof, checked by the aggregator (rank 0), that the model, run in fixed point on that "
        "row, gives the stated output, and the float output lies within 0.25 of it. 1 row not verified: the answer's "
        "proof did not hold. The largest deviation between a float and a proved output is 0.12. 1 answer was rejected; see below. "
        "Rank 2 (node-2) was expelled. Against the labels that came with the data, 3 of 4 verified outputs are right "
        "(accuracy 0.7500).")


def test_the_page_stands_alone_and_obeys_nothing_in_the_file(path, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert report([path], out, "html") == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    text = out.read_text(encoding="utf-8")
    page = _Page(text)
    assert page.links == [] and "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "script" not in page.tags and NASTY in "".join(page.words)
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    labels = [ElementTree.fromstring(plot).get("aria-label") for plot in plots]
    assert labels == ["Seconds of each rank by stage", "Proofs of each rank in time", "Seconds to make and to verify a proof",
                      "Deviation between float and proved outputs"]
    assert "4 of them are verified" in "".join(page.words) and "tolerance 0.25" in "".join(page.words)


def test_markdown_and_json_go_to_stdout(path, capsys):
    assert report([path], None, "markdown") == 0
    text = capsys.readouterr().out
    assert text.startswith("# results.h5\n\nThe job ran 5 rows")
    assert "| 2 | 3 | 1 | rejected | 1 from row 4 | &lt;/pre>&lt;script>alert(1)&lt;/script>\\|x |" in text
    assert report([path], None, "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["confusion"] == [[0, 0, 0], [0, 0, 1], [0, 0, 3]] and document["status"] == "complete_unverified"


def test_several_files_are_compared(path, tmp_path):
    other = a_file(tmp_path, "other.h5", "bytes were flipped")
    report([path, other], tmp_path / "both.md", "markdown")
    text = (tmp_path / "both.md").read_text(encoding="utf-8")
    assert "|  | results.h5 | other.h5 |" in text
    assert "| accuracy | 0.7500 of 4 verified rows | 0.7500 of 4 verified rows |" in text


def test_a_changed_file_is_called_changed(path, tmp_path):
    h5py = pytest.importorskip("h5py")
    changed = tmp_path / "changed.h5"
    changed.write_bytes(path.read_bytes())
    with h5py.File(changed, "r+") as file:
        file["row/deviation"][0] = 0.0625
    report([changed], tmp_path / "c.md", "markdown")
    assert "does not agree with its seal: it was changed after it was sealed" in (tmp_path / "c.md").read_text()
    report([path], tmp_path / "p.md", "markdown")
    assert "agrees with its seal, which is not signed" in (tmp_path / "p.md").read_text()


def test_what_cannot_be_reported_is_refused(path, tmp_path):
    with pytest.raises(JobError, match="is a results file; name another file"):
        report([path], path, "html")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        report([path], tmp_path / "nowhere" / "page.html", "markdown")
    (tmp_path / "no.h5").write_bytes(b"not HDF5")
    with pytest.raises((FormatError, EnvironmentFault), match="no.h5"):
        report([tmp_path / "no.h5"], None, "json")


def test_without_matplotlib_the_page_is_refused_and_says_what_helps(path, tmp_path):
    code = ("import sys; sys.modules['matplotlib'] = None\n"
            "from enclaveml.cli import main\n"
            "sys.exit(main(sys.argv[1:]))")
    page = [sys.executable, "-c", code, "report", str(path), "-o", str(tmp_path / "p")]
    failed = subprocess.run(page, capture_output=True, text=True, timeout=60)
    assert failed.returncode == 4
    assert "matplotlib is not installed, and this command needs it: pip install 'enclaveml[report]'" in failed.stderr
    assert subprocess.run([*page, "--markdown"], timeout=60).returncode == 0


def test_the_page_of_several_files_has_plots_of_all_on_one_axis(path, tmp_path):
    other = a_file(tmp_path, "other.h5", "bytes were flipped")
    assert report([path, other], tmp_path / "both.html", "html") == 0
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.tags.count("h1") == 3 and page.links == []
    head = text.partition("<h1>results.h5</h1>")[0]
    assert '<td class="long">0.7500 of 4 verified rows</td>' in head
    plots = [ElementTree.fromstring(plot) for plot in re.findall(r"<svg.*?</svg>", head, re.DOTALL)]
    assert [plot.get("aria-label") for plot in plots] == [
        "time to make one proof (s)", "time to verify one proof (s)", "largest |float - proved| of a row; dashed: tolerance"]
    assert all({"1: results.h5", "2: other.h5"} <= set(plot.itertext()) for plot in plots)


def test_the_timeline_shows_a_rejected_proof_without_seconds_and_who_had_none_in_hand(path):
    """Grey wherever a rank has none, from 0 to the last verdict; an X where a rejected proof came."""
    span = read_facts(path).spans[0]
    run = [replace(span, begin=a, end=b) for a, b in ((4.0, 6.0), (1.0, 2.0), (5.0, 5.5), (6.0, 7.0))]
    assert idle(run, 8.0) == [(0.0, 1.0), (2.0, 2.0), (7.0, 1.0)] and idle(run, 7.0) == [(0.0, 1.0), (2.0, 2.0)]
    facts = read_facts(path)
    came = [replace(s, end=20.0 + i, begin=s.begin if np.isnan(s.begin) else 18.0 + i) for i, s in enumerate(facts.spans)]
    drawn = plots(replace(facts, spans=tuple(came)))["timeline"]
    without = plots(replace(facts, spans=tuple(came[:2])))["timeline"]
    assert ORANGE.lower() in drawn.lower() and ORANGE.lower() not in without.lower()
    assert GREY.lower() in without.lower()


def test_the_jobs_one_answer_is_in_every_kind(tmp_path):
    for strategy, result, more, said in (
            ("average", [0.5], {}, [["strategy", "average of logits"], ["verified rows", "3"], ["result", "0.5"]]),
            ("median", [0.5, -2.0], {}, [["strategy", "median of logits"], ["verified rows", "3"], ["outputs 0 to 1", "0.5, -2"]]),
            ("majority_vote", [1.0], {"votes": np.array([1, 2])}, [
                ["strategy", "majority_vote"], ["verified rows", "3"], ["the class with most votes", "1"],
                ["votes", "1 for 0, 2 for 1"]])):
        name = f"{strategy}.h5"
        case = Case(tmp_path / f"{name}.journal", 3, 2, manifest=MANIFEST, job=JOB.replace("average", strategy))
        case.outputs(1, [0, 1, 2])
        case.bundle(1, [0, 1, 2])
        case.end()
        build_results(tmp_path / f"{name}.journal", tmp_path / name,
                      combined={"result": np.array(result), "count": np.asarray(3), **more})
        table = tables(read_facts(tmp_path / name).document)["combined"]
        assert (table.title, table.rows) == ("The job's one answer: its rows combined", said)
        report([tmp_path / name], tmp_path / "r.md", "markdown")
        assert f"| {said[-1][0]} | {said[-1][1]} |" in (tmp_path / "r.md").read_text()
    report([tmp_path / name], tmp_path / "r.html", "html")
    assert f'<td class="short">{said[-1][0]}</td><td class="short">{said[-1][1]}</td>' in (tmp_path / "r.html").read_text()


def test_the_cells_of_a_confusion_matrix_are_not_widened(path, tmp_path):
    """Only cells of long text have a least width, so that ten classes fit a phone (looked at in a browser)."""
    report([path], tmp_path / "r.html", "html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    matrix = re.search(r'<table class="confusion">.*?</table>', text, re.DOTALL)[0]
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert [line for line in style.splitlines() if "min-width" in line] == ["td.long { min-width: 10rem; }"]
    assert "class=\"long\"" not in matrix and len(re.findall("<td", matrix)) == 9
