"""The paragraph at the head of a report: what was asked, what was verified, what was not, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enclaveml.zk.interface import caution_of

_NOT = {
    "pending": "not answered",
    "rejected": "the answer's proof did not hold",
    "inconsistent": "the proof is valid, but the float output is beyond the tolerance",
    "unproved": "computed, and not drawn for proving",
    "suspect": "computed by a rank that was caught, and not proved",
    "lost": "no rank was left that could compute or prove it",
}


def summary(document: Mapping[str, Any]) -> str:
    """Sentences for people who did not run the job. ``document`` is ``report_facts.Facts.document``."""
    rows, statuses = document["rows"], document["statuses"]
    verified = statuses.get("verified", 0)
    parts = [sum(r["rows"] > 0 for r in document["ranks"] if r["session"] == i) for i in range(len(document["sessions"]))]
    ranks = counted(max(parts, default=0), "rank")
    if len(parts) > 1:
        ranks = f"up to {ranks}, in {len(parts)} parts,"
    ran = "ran" if document["status"].startswith("complete") else "was to run"
    said = [f"The job {ran} {counted(rows, 'row')} through one model on {ranks} and asked for a "
            f"{kind_of(document)} of {_asked(document)}."]
    if verified == rows:
        said.append(f"All {rows:,} rows are verified: for each there is a proof, checked by the aggregator (rank 0), that "
                    "the model, run in fixed point on that row, gives the stated output, and the float output lies "
                    f"within {_tolerance(document)} of it.")
    else:
        said.append(f"{verified:,} of them {'is' if verified == 1 else 'are'} verified: for each there is a proof, checked "
                    "by the aggregator (rank 0), that the model, run in fixed point on that row, gives the stated output, "
                    f"and the float output lies within {_tolerance(document)} of it." if verified else "None is verified.")
        said += [f"{counted(n, 'row')} not verified: {_NOT[name]}." for name, n in statuses.items() if name != "verified"]
    before = document["preprocess"]
    if before and before["proved"]:
        said.append(f"The model includes the preprocessing {before['function']}.")
    elif before:
        said.append(f"Outside of the proof the aggregator preprocessed the rows with {before['function']}: what is verified speaks "
                    "of the preprocessed rows, and nothing proves how they came from the data.")
    deviation = document["deviation"]
    if deviation:
        said.append(f"The largest deviation between a float and a proved output is {deviation['largest']:.2g}.")
    rejected = sum(r["rejections"] for r in document["ranks"])
    gone = [r for r in document["ranks"] if r["fate"] not in ("", "ok")]
    if rejected:
        said.append(f"{counted(rejected, 'answer')} {'was' if rejected == 1 else 'were'} rejected; see below.")
    if gone:
        said.append(" ".join(f"Rank {r['rank']} ({r['node_id']}) was {r['fate']}." for r in gone))
    score = document["score"]
    if score and "accuracy" in score:
        said.append(f"Against the labels that came with the data, {score['right']:,} of {score['rows']:,} verified outputs "
                    f"are right (accuracy {score['accuracy']:.4f}).")
    elif score:
        said.append(f"Against the labels that came with the data, the mean absolute error of the {score['rows']:,} verified "
                    f"outputs is {score['mean_absolute_error']:.4g}.")
    if document["status"] == "failed":
        said.append(f"The job failed (exit status {document['exit_code']}): {document['message']}.")
    elif document["status"] in ("running", "resumable"):
        said.append(f"The job has not ended: it is {document['status']}.")
    return " ".join(said)


def caution(document: Mapping[str, Any]) -> str:
    """What a report does not show."""
    seal = "is not sealed" if not document["sealed"] else (
        "does not agree with its seal: it was changed after it was sealed" if document["seal_changes"] else
        "agrees with its seal" + (", which carries a signature that was not checked (audit --public-key does)" if document["signed"] else ", which is not signed"))
    return ("This report repeats what the results file says and checks no proof; the file " + seal + ". "
            "Check it with: enclaveml audit " + document["file"].rsplit("/", 1)[-1] + ". A verified row does not mean that "
            "the model is right, nor which rank computed it or when." + _unknown(document))


def kind_of(document: Mapping[str, Any]) -> str:
    """What kind of proofs the job asked for."""
    batch = any(c["system"] == "batch" for c in document["circuits"])
    if not batch:
        return "zero-knowledge proof"
    return f"proof ({caution_of('batch', document['inputs'], hides_weights(document))})"


def hides_weights(document: Mapping[str, Any]) -> bool:
    """Whether a circuit of the file says that it hides its weights."""
    return any(c["hides_weights"] for c in document["circuits"])


def _unknown(document: Mapping[str, Any]) -> str:
    """What hidden weights leave open, as a sentence; "" where they are not."""
    return (" The weights are hidden: to whoever cannot tie the circuit's id, stated below, to a model, the proofs say that some network of "
            "these shapes gave these outputs, and there may be one for any.") if hides_weights(document) else ""


def counted(n: int, noun: str) -> str:
    """For instance "1 rank", "3 ranks"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _asked(document: Mapping[str, Any]) -> str:
    if document["coverage"] == 0:
        return "none of them"
    return "each" if document["coverage"] == 1 else "rows drawn at random from them"


def _tolerance(document: Mapping[str, Any]) -> str:
    found = sorted({c["tolerance"] for c in document["circuits"] if c["tolerance"]})
    return " or ".join(f"{t:.3g}" for t in found) or "the tolerance"
