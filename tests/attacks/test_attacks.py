"""Every attack of ``soundness.md`` by a real rank beside honest ones: found out, named, and made good by others.

Several liars share a run, each with its own shard; each test is about one of them. Rank 0 aggregates,
ranks 1, 2, ... lie as their cast says, the rest is honest.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from conftest import Cast, Played, verified_rows_are_true
from mutations import MUTATIONS
from small_job import BUNDLE, TOLERANCE, floats

from enclaveml.envelope import decode
from enclaveml.circuits import SAMPLE_ROWS
from enclaveml.results_reader import StoredProof

pytestmark = [pytest.mark.mpi, pytest.mark.ezkl]

Stage = Callable[..., Played]

NOT_THE_MODELS = r"the float output of row \d+ \(\d+ rows in all\) is neither the model's nor the proof's: "
NO_PROOF = r"(verification: |computation proof is \d+ bytes, a proof of this circuit is \d+)"

#: Attack to what the file says of why its rank was expelled, by cast. All of a cast run at once.
CAUGHT: dict[str, dict[str, str]] = {
    "models": {
        "other_weights": NOT_THE_MODELS,
        "own_circuit": NO_PROOF,
        "own_circuit_and_labels": "envelope: model_hash is [0-9a-f]{64}, ordered was [0-9a-f]{64}",
        "own_circuit_key_sent_along": NO_PROOF,
    },
    "statements": {
        "wrong_input": "verification: ",
        "another_bundle": "verification: ",
        "proved_outputs_altered": "verification: ",
        "all_outputs_altered": "verification: ",
    },
    "outputs": {
        "outputs_beyond_tolerance": NOT_THE_MODELS,
        "argmax_flipped": NOT_THE_MODELS,
        "nan": NOT_THE_MODELS,
        "infinity": NOT_THE_MODELS,
    },
    "shapes": {
        "extra_instance": "verification: ",
        "extra_proved_row": r"envelope: .*consistency: number of rows: 5 found; 1 to 4 allowed",
        "extra_output": r"envelope: .*number of outputs: 4 found; 1 to 3 allowed",
        "row_left_out": r"envelope: rows is \[\d+, \d+, \d+\], ordered was \[\d+, \d+, \d+, \d+\]",
    },
    "reports": {
        "bundle_sent_twice": r"an envelope of bundle \d+, which rank 1 was not given or has answered",
        "rows_not_given": r"row \d+ was not given to rank 2",
        "report_claims_a_gigabyte": r"a report that cannot be read: .*claims 0 rows and 1073741824 bytes that are not",
        "report_that_is_no_json": "a report that cannot be read: ",
    },
    "numbers": {
        "report_of_an_endless_number": "a report that cannot be read: ",
        "report_numbered_beyond_all": "a report that cannot be read: ",
        "outputs_altered_in_the_envelope": "envelope: outputs differ from those that the rank sent before proving",
        "key_appended": r"envelope: .*end: \d+ bytes more found; none allowed",
    },
    "fallback": {
        "overflow_claimed_of_false_outputs": NOT_THE_MODELS,
        "other_circuit": r"envelope: .*length of computation: \d+ found; at most \d+ allowed",
    },
    "committed": {
        "wrong_input": "the input's commit is not that of these rows",
        "wrong_input_right_commitment": "verification: ",
        "another_bundle": "the input's commit is not that of these rows",
        "own_circuit": NO_PROOF,
    },
}


def cast_of(name: str) -> Cast:
    if name == "fallback":  # more rows than are sampled, or there would be none
        return Cast((*CAUGHT[name], "overflow_claimed"), {"rows_per_proof": 65}, SAMPLE_ROWS + 4)
    return Cast(tuple(CAUGHT[name]), {"inputs": "committed"} if name == "committed" else {})


def line_of(played: Played, rank: int) -> dict:
    """A rank's line in the file's table."""
    with played.open() as results:
        return next(line for line in results.ranks if line["rank"] == rank)


def proofs_of(played: Played, rank: int) -> list[StoredProof]:
    """The envelopes of a rank in the order in which it sent them."""
    with played.open() as results:
        proofs = [results.proof(i) for i in range(results.n_proofs)]
    return sorted((p for p in proofs if p.rank == rank), key=lambda p: p.id)


@pytest.mark.parametrize("cast", CAUGHT)
def test_the_job_ends_well_and_no_bad_row_is_verified(stage: Stage, cast: str) -> None:
    played = stage(cast, cast_of(cast))
    assert played.code == 0, played.log
    assert f"complete (exit status 0): {len(played.job.rows)} of {len(played.job.rows)} rows verified" in played.log
    verified_rows_are_true(played, floats(played.job.rows), TOLERANCE)
    with played.open() as results:
        assert results.status.value == "complete"
        # What combining used is what was proved.
        assert np.allclose(results.combined["result"], floats(played.job.rows).mean(axis=0), atol=TOLERANCE / 5)
    for rank in range(len(CAUGHT[cast]) + 1, played.cast.ranks):
        line = line_of(played, rank)
        assert (line["fate"], line["rejections"], line["fate_reason"]) == ("ok", 0, "")
        assert line["rows_verified"] > 0
        assert "REJECTED" not in "".join(re.findall(rf".*of rank {rank} .*", played.log))


@pytest.mark.parametrize(("cast", "attack"), [(c, a) for c, attacks in CAUGHT.items() for a in attacks])
def test_the_liar_is_named_with_its_evidence(stage: Stage, cast: str, attack: str) -> None:
    played = stage(cast, cast_of(cast))
    rank, reason = played.cast.rank_of(attack), CAUGHT[cast][attack]
    line = line_of(played, rank)
    assert (line["fate"], line["node_id"]) == ("expelled", f"node-{rank}"), played.log
    assert line["rejections"] >= 1
    assert re.match(rf"\d+ rejected; last: {reason}", line["fate_reason"]), line["fate_reason"]
    assert line["fate_time"]
    assert re.search(rf"REJECTED: .* of rank {rank} \(node-{rank} on .*\): .*{reason}", played.log)
    assert re.search(rf"rank {rank} \(node-{rank} on .*\) is expelled; \d+ rows that it still had go to other ranks",
                     played.log)
    # Whatever of its rows is verified was verified with its own, true proof.
    with played.open() as results:
        mine = (results.row("rank") == rank) & (results.row("status") == 1)
        assert line["rows_verified"] == mine.sum()


@pytest.mark.parametrize(("cast", "attack"), [
    (c, a) for c in ("models", "statements", "outputs", "shapes", "numbers", "committed") for a in CAUGHT[c]
    if not a.startswith("report_")])
def test_the_envelope_and_its_verdict_are_kept(stage: Stage, cast: str, attack: str) -> None:
    played = stage(cast, cast_of(cast))
    kept = proofs_of(played, played.cast.rank_of(attack))
    bad = [p for p in kept if (p.status != 1).all() and p.verdict]
    assert bad and bad[0].envelope
    reason = CAUGHT[cast][attack]
    if reason != NOT_THE_MODELS:
        assert re.match(reason, bad[0].verdict)
        assert (bad[0].status == 2).all()
    else:
        assert re.match(r"4 of 4 rows out of tolerance 0.05, row \d of the bundle deviates by ", bad[0].verdict)
        assert (bad[0].status == 3).all()


def test_a_rank_that_claims_that_good_rows_overflow_gains_nothing(stage: Stage) -> None:
    """It has proved them at the fallback, and is neither blamed nor believed more than others."""
    played = stage("fallback", cast_of("fallback"))
    rank = played.cast.rank_of("overflow_claimed")
    line = line_of(played, rank)
    assert (line["fate"], line["rejections"]) == ("ok", 0) and line["rows_verified"] > 0
    with played.open() as results:
        roles = {each: results.circuit(each).manifest["role"] for each in results.circuit_ids}
        names, bundle = results.proofs("circuit_id"), results.row("bundle")
        assert {roles[names[i]] for i in bundle[results.row("rank") == rank].tolist()} == {"fallback"}
        assert {roles[names[i]] for i in bundle[results.row("rank") == played.cast.ranks - 1].tolist()} == {"primary"}


@pytest.mark.parametrize(("cast", "attack"), [("statements", "another_bundle"), ("committed", "another_bundle"),
                                              ("reports", "bundle_sent_twice")])
def test_what_was_true_before_the_lie_stays_verified(stage: Stage, cast: str, attack: str) -> None:
    played = stage(cast, cast_of(cast))
    assert line_of(played, played.cast.rank_of(attack))["rows_verified"] == BUNDLE


# -- lies that are none ----------------------------------------------------------

TRUE = Cast(("outputs_within_tolerance", "argmax_flipped_within_tolerance", "late=4", "statistics_that_are_no_numbers",
             "replay={earlier}"), honest=0)


@pytest.fixture(scope="module")
def true(stage: Stage) -> Played:
    earlier = stage("outputs", cast_of("outputs"))
    return stage("true", TRUE, {"earlier": str(earlier.job.results)})


def test_true_statements_are_verified_whoever_makes_them(true: Played) -> None:
    assert true.code == 0, true.log
    verified_rows_are_true(true, floats(true.job.rows), TOLERANCE)
    for rank in range(1, 6):
        line = line_of(true, rank)
        assert (line["fate"], line["rejections"], line["rows_verified"]) == ("ok", 0, 8), true.log


def near_ties(played: Played) -> np.ndarray:
    """(N,) bool: the two largest outputs are closer than half the tolerance, as liar.py has it."""
    ordered = np.sort(floats(played.job.rows), axis=1)
    return ordered[:, -1] - ordered[:, -2] < TOLERANCE / 2


@pytest.mark.parametrize("attack", ["outputs_within_tolerance", "argmax_flipped_within_tolerance"])
def test_nothing_within_the_tolerance_can_be_steered(stage: Stage, true: Played, attack: str) -> None:
    """Outputs moved within the tolerance pass; what is kept and combined is the proved output, to the last bit."""
    rank = true.cast.rank_of(attack)
    with true.open() as here, stage("outputs", cast_of("outputs")).open() as there:
        rows = np.flatnonzero(here.row("rank") == rank)
        moved = np.abs(here.outputs() - floats(true.job.rows))[rows].max(axis=1)
        assert (here.proved_outputs() == there.proved_outputs()).all()
        assert (here.combined["result"] == there.combined["result"]).all()
    assert len(rows) == 8
    expected = np.arange(8) if attack == "outputs_within_tolerance" else np.flatnonzero(near_ties(true)[rows])
    assert len(expected) and np.flatnonzero(moved > 0.3 * TOLERANCE - 1e-3).tolist() == expected.tolist()


def test_an_argmax_flipped_within_the_tolerance_is_flagged(true: Played) -> None:
    with true.open() as results:
        flagged = np.flatnonzero(results.row("argmax_differs"))
        said, proved = results.outputs()[flagged], results.proved_outputs()[flagged]
        rank = true.cast.rank_of("argmax_flipped_within_tolerance")
        assert flagged.tolist() == np.flatnonzero(near_ties(true) & (results.row("rank") == rank)).tolist() != []
    truth = np.argmax(floats(true.job.rows)[flagged], axis=1)
    assert (np.argmax(proved, axis=1) == truth).all() and (np.argmax(said, axis=1) != truth).all()
    assert f"{len(flagged)} rows whose argmax differs between float and proof" in true.log


def test_an_earlier_runs_proof_is_still_a_true_statement(stage: Stage, true: Played) -> None:
    """Labels bind nothing: a proof says that this function of this input is this output, not who proved it or when."""
    rank = true.cast.rank_of("replay")
    here = [decode(p.envelope) for p in proofs_of(true, rank)]
    there = [decode(p.envelope) for p in proofs_of(stage("outputs", cast_of("outputs")), rank)]
    assert line_of(true, rank)["seconds_proving"] == 0
    assert len(here) == 2
    assert {e.computation for e in here} <= {e.computation for e in there}
    assert {e.job_id for e in here}.isdisjoint(e.job_id for e in there)


# -- bytes -----------------------------------------------------------------------

REJECTED = [name for name, (_, verdict) in MUTATIONS.items() if verdict]
ACCEPTED = [name for name, (_, verdict) in MUTATIONS.items() if not verdict]
#: Each of four ranks spoils as many envelopes as it takes to be expelled; the accepted ones come first.
EACH = -(-len(REJECTED) // 4)
PLANS = [[*(ACCEPTED if i == 0 else []), *REJECTED[i * EACH: (i + 1) * EACH]] for i in range(4)]
SPOILT = Cast(tuple(f"mutations={','.join(plan)}" for plan in PLANS), {"inputs": "committed", "max_rejections": EACH},
              5 * (EACH + 1) * BUNDLE)


@pytest.fixture(scope="module")
def spoilt(stage: Stage) -> Played:
    return stage("spoilt", SPOILT)


def test_spoilt_envelopes_cost_their_senders_everything(spoilt: Played) -> None:
    assert spoilt.code == 0, spoilt.log
    verified_rows_are_true(spoilt, floats(spoilt.job.rows), TOLERANCE)
    for rank in (1, 2, 3, 4):
        line = line_of(spoilt, rank)
        assert (line["fate"], line["rejections"]) == ("expelled", EACH), spoilt.log
        assert line["rows_verified"] == (BUNDLE * len(ACCEPTED) if rank == 1 else 0)
    honest = line_of(spoilt, 5)
    assert (honest["fate"], honest["rejections"]) == ("ok", 0)
    assert honest["rows_verified"] == len(spoilt.job.rows) - BUNDLE * len(ACCEPTED)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_spoilt_envelope(spoilt: Played, name: str) -> None:
    at = next(i for i, plan in enumerate(PLANS) if name in plan)
    kept = proofs_of(spoilt, 1 + at)[PLANS[at].index(name)]
    verdict = MUTATIONS[name][1]
    if verdict:
        assert kept.verdict.startswith(verdict), kept.verdict
        assert (kept.status == 2).all()
        assert f"REJECTED: bundle {kept.id} (4 rows from row {kept.rows[0]}) of rank {1 + at} (node-{1 + at} on " \
            in spoilt.log
    else:  # the sender's own reckoning of the deviation: rank 0 makes its own
        assert (kept.verdict, (kept.status == 1).all()) == ("", True)


def test_every_field_of_the_format_is_spoilt(spoilt: Played) -> None:
    from mutations import layout

    honest = proofs_of(spoilt, 5)[0].envelope
    assert set(layout(honest)) <= set(MUTATIONS)


# -- silence ---------------------------------------------------------------------

SILENT = Cast(("bundle_missing", "outputs_missing", "late_for_good"), {"timeout_s": 10}, rows=32, shares=True)


@pytest.fixture(scope="module")
def silent(stage: Stage) -> Played:
    return stage("silent", SILENT)


def test_silence_holds_nothing_up(silent: Played) -> None:
    assert silent.code == 0, silent.log
    verified_rows_are_true(silent, floats(silent.job.rows), TOLERANCE)
    line = line_of(silent, 4)
    assert (line["fate"], line["rejections"], line["rows_verified"]) == ("ok", 0, 32)


@pytest.mark.parametrize("attack", SILENT.attacks)
def test_a_rank_that_never_answers_loses_its_rows(silent: Played, attack: str) -> None:
    """To idle ranks as a straggler, or to all when it is lost; it is no liar, and what it sends then is not read."""
    rank = silent.cast.rank_of(attack)
    line = line_of(silent, rank)
    assert (line["rejections"], line["rows_verified"]) == (0, 0), silent.log
    assert proofs_of(silent, rank) == []
    if attack != "outputs_missing":  # what it has said of its rows lets others prove them at once
        own = 8 + line["rows_moved_in"] + BUNDLE * line["copies"]  # and what it took over while it was idle
        lost = line["rows_moved_out"] + BUNDLE * line["discarded"] - own  # what the lost rank still had, 8 rows, is shared out as well
        assert line["discarded"] and 0 <= lost <= 8, (line, silent.log)
        return
    assert line["fate"] == "lost"
    assert re.match(r"has not answered for \d+ s, with 0 bundles to prove and 8 rows to infer in hand", line["fate_reason"])
    assert re.search(rf"rank {rank} \(node-{rank} on .*\) is lost; 8 rows that it still had go to other ranks", silent.log)


# -- what no rank 0 can go on after ----------------------------------------------

def test_a_header_that_would_allocate_a_terabyte_ends_the_job(stage: Stage) -> None:
    """Ranks that disagree about a collective's counts have no more collectives: the job ends at once, resumable."""
    played = stage("header", Cast(("header_of_a_terabyte",), {"coverage": 0}))
    assert played.code == 75, played.log
    assert "rank 1 broke the protocol: announced 0 outputs and 1099511627776 bytes of reports in one tick; at most " \
        in played.log
