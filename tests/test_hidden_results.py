"""What audit, report and reader say of results whose circuit hides its weights: to whom `verified` is what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hidden_results import INPUT_KEY, circuit, proved, without_weights, write

from enclaveml.audit import AuditOptions, audit
from enclaveml.errors import FormatError
from enclaveml.report import report
from enclaveml.report_facts import read_facts
from enclaveml.report_words import caution, kind_of
from enclaveml.zk.interface import circuit_from_manifest

CAUTION = "inputs and weights hidden: some network of these shapes, unless its circuit's id is tied to a model"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hidden") / "results.h5")


def test_a_manifest_says_that_weights_are_hidden_and_another_is_as_it_was() -> None:
    made, _ = circuit()
    document = made.manifest()
    assert document["weights"] == "hidden" and "hides_weights" not in document and made.caution == CAUTION
    assert circuit_from_manifest(document, Path()) == made
    shown = without_weights(made)
    assert "weights" not in shown.manifest() and circuit_from_manifest(shown.manifest(), Path()) == shown
    assert shown.caution == "inputs hidden, weights not"
    for wrong in ({"weights": "shown"}, {"weights": None}, {"system": "ezkl"}, {"hides_weights": True}):
        with pytest.raises(FormatError, match="not a circuit manifest"):
            circuit_from_manifest(document | wrong, Path())


def test_an_audit_without_the_circuits_id_speaks_of_some_network(results: Path) -> None:
    found = audit(AuditOptions(results, processes=1))
    name = circuit()[0].circuit_id
    assert found.failures == [] and (found.rows_checked, found.proofs_checked) == (256, 1)
    assert found.verdict == ("256 of 256 rows proved, 1 of 1 proofs checked: consistent; some network of these shapes gave these outputs, and there "
                             "may be one for any (inputs and weights hidden)")
    assert found.limits[0] == ("which model this is: the weights are hidden, and there may be a network of these shapes for any outputs. Somebody whom "
                               f"you believe, and who has the model and the job's registration, can say whether it is circuit {name} (`enclaveml hash "
                               "--circuit --registration`); give that with --circuit-id")
    assert found.limits[1] == ("that the weights stay hidden from who knows the inputs: the outputs are exact, and a network can be fitted to "
                               "enough of them")
    assert found.document()["circuit_id"] == name and f"  circuit id: {name}\n" in found.text()
    assert "weights_hidden" not in found.text() and "weights hidden: True" not in found.text()
    assert found.circuits[0]["system"] == "batch enclaveml-batch-1, weights hidden"


def test_an_audit_with_the_id_says_whose_word_that_is(results: Path, tmp_path: Path) -> None:
    name = circuit()[0].circuit_id
    data, key = tmp_path / "rows.npy", tmp_path / "key"
    np.save(data, proved()[0])
    key.write_text(INPUT_KEY.hex() + "\n")
    found = audit(AuditOptions(results, (name,), inputs=data, input_key=key, processes=1))
    assert found.failures == [] and found.facts["inputs"] == "1 of 1 proofs checked are about the data given"
    assert found.verdict == "256 of 256 rows proved, 1 of 1 proofs checked: of the circuit given (inputs and weights hidden)"
    assert found.limits[0] == (f"which model circuit {name[:16]} is of: its weights are hidden, and that is the word of who gave the id; it was "
                               "made when the job began, so nothing shows that the model was there before the data, and another job of the same model "
                               "has another id")
    other = audit(AuditOptions(results, ("0" * 64,), sample=1, processes=1))
    assert other.exit_code == 3 and f"is circuit {name}, the one given is {'0' * 64}: its proofs bind these rows to no model" in other.failures[0].text


def test_a_file_that_says_otherwise_of_its_weights_than_its_key_fails(tmp_path: Path) -> None:
    found = audit(AuditOptions(write(tmp_path / "shown.h5", without_weights), processes=1))
    assert found.exit_code == 3
    assert "hides_weights is False, where its key and settings give True" in found.failures[0].text


def test_a_report_says_it_too(results: Path, tmp_path: Path) -> None:
    facts = read_facts(results)
    document = facts.document
    assert document["circuits"][0]["hides_weights"] is True and kind_of(document) == f"proof ({CAUTION})"
    assert caution(document).endswith(" The weights are hidden: to whoever cannot tie the circuit's id, stated below, to a model, the proofs say that "
                                      "some network of these shapes gave these outputs, and there may be one for any.")
    assert document["message"] == f"stopped early ({CAUTION})"
    page = tmp_path / "page.md"
    assert report([results], page, "markdown") == 0
    text = page.read_text()
    assert "model hash, mixed with a secret" in text and "batch enclaveml-batch-1, weights hidden" in text and circuit()[0].circuit_id in text
