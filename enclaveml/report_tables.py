"""The tables of a report: heads and rows of text, which HTML and Markdown both print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enclaveml.progress import significant
from enclaveml.provenance import preprocessing_words
from enclaveml.report_words import hides_weights

#: Rejections that are told one by one; the rest is counted (--json has all).
SHOWN = 50


@dataclass(frozen=True)
class Table:
    """``heads`` (c,) and ``rows`` of c cells; columns in ``numbers`` are set flush right. ``note`` goes below."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    note: str = ""


def tables(document: Mapping[str, Any]) -> dict[str, Table]:
    """Name to table: figures, combined, ranks, circuits, rejections, draws, provenance; those with nothing in them left out."""
    made = {"figures": _figures(document), "combined": _combined(document), "ranks": _ranks(document), "circuits": _circuits(document),
            "rejections": _rejections(document), "draws": _draws(document), "provenance": _provenance(document)}
    return {name: table for name, table in made.items() if table.rows}


def compared(documents: Sequence[Mapping[str, Any]]) -> Table:
    """The figures of several files side by side, a column each."""
    figures = [dict(_figures(d).rows) for d in documents]
    names = list(dict.fromkeys(name for f in figures for name in f))
    rows = [[name, *(f.get(name, "") for f in figures)] for name in names]
    extra = [("model hash", [d["model_hash"][:16] for d in documents]),
             ("data", [d["dataset_fingerprint"][:16] or "not shown" for d in documents])]
    rows += [[name, *values] for name, values in extra]
    return Table("Side by side", ["", *(d["file"].rsplit("/", 1)[-1] for d in documents)], rows,
                 note="Figures differ by more than noise only if the runs had a machine to themselves.")


def _figures(d: Mapping[str, Any]) -> Table:
    rows = [["status", f"{d['status']} (exit status {d['exit_code']})"],
            ["rows", f"{d['rows']:,}: " + ", ".join(f"{n:,} {name}" for name, n in d["statuses"].items())],
            ["wall time", _seconds(d["wall_seconds"])]]
    if d["preprocess"]:
        rows.append(["preprocessing", preprocessing_words((d["preprocess"]["function"], d["preprocess"]["proved"]))])
    verified = d["statuses"].get("verified", 0)
    if d["proofs"]:
        rows += [["proofs", f"{d['proofs']:,}, of which {d['proofs_verified']:,} verified; {d['proof_bytes'] / 1e6:,.2f} MB"],
                 ["proving", _each(d["prove_seconds_total"], verified, "verified row")],
                 ["verifying", _each(d["verify_seconds_total"], verified, "verified row")]]
    if d["deviation"]:
        rows.append(["deviation", f"largest {d['deviation']['largest']:.3g}, median {d['deviation']['median']:.3g}"])
        rows.append(["argmax", f"differs between float and proof in {d['argmax_differs']:,} rows"])
    score = d["score"]
    if score and "accuracy" in score:
        rows.append(["accuracy", f"{score['accuracy']:.4f} of {score['rows']:,} verified rows"])
    elif score:
        rows.append(["mean absolute error", f"{score['mean_absolute_error']:.4g} over {score['rows']:,} verified rows"])
    return Table("Figures", ["", ""], rows)



def _combined(d: Mapping[str, Any]) -> Table:
    """The job's one answer: what its strategy made of the verified rows. Empty where nothing was combined."""
    found, strategy = d["combined"], d["combine"]["strategy"]
    if "result" not in found:
        return Table("The rows combined", ["", ""], [])
    voted = strategy == "majority_vote"
    rows = [["strategy", strategy + ("" if voted else f" of {d['combine']['input']}")],
            ["verified rows", f"{found['count']:,}"]]
    if voted:
        rows.append(["the class with most votes", ", ".join(f"{int(v)}" if math.isfinite(v) else "none" for v in found["result"])])
        rows.append(["votes", ", ".join(f"{n:,} for {i}" for i, n in enumerate(found.get("votes", [])) if n)])
    else:
        n = len(found["result"])
        rows.append(["result" if n == 1 else f"outputs 0 to {n - 1}", ", ".join(f"{value:.6g}" for value in found["result"])])
    return Table("The job's one answer: its rows combined", ["", ""], rows)


def _each(total: float, rows: int, what: str) -> str:
    each = f", {significant(total / rows)} s a {what}" if rows else ""
    return f"{significant(total)} s in all{each}"


def _ranks(d: Mapping[str, Any]) -> Table:
    several = len(d["sessions"]) > 1
    heads = [*(["part"] if several else []), "rank", "node", "host", "device", "share %", "rows", "verified", "proofs",
             "rejected", "infer s", "prove s", "wait s", "fate"]
    rows = [[*([str(r["session"] + 1)] if several else []), str(r["rank"]), r["node_id"], r["host"], r["device"],
             f"{100 * r['share']:.1f}", f"{r['rows']:,}", f"{r['rows_verified']:,}", f"{r['proofs']:,}",
             f"{r['rejections']:,}", _number(r["seconds_inferring"]), _number(r["seconds_proving"]),
             _number(r["seconds_waiting"]), _fate(r)] for r in d["ranks"]]
    text = {"node", "host", "device", "fate"}
    return Table("Ranks and their shares", heads, rows, frozenset(i for i, h in enumerate(heads) if h not in text),
                 "Seconds are summed over a rank's provers. A part is the job's start or one of its resumptions." if several
                 else "Seconds are summed over a rank's provers.")


def _number(value: float) -> str:
    return significant(value) if math.isfinite(value) else ""


def _fate(r: Mapping[str, Any]) -> str:
    return f"{r['fate']} ({r['fate_time']}): {r['fate_reason']}" if r["fate_reason"] else r["fate"]


def _circuits(d: Mapping[str, Any]) -> Table:
    def told(value: float | None, form: str = "") -> str:
        return "unknown" if value is None else format(value, form)

    rows = [[c["circuit_id"][:16], f"{c['system']} {c['version']}" + (f", {c['slices']} linked slices" if c["slices"] > 1 else "") + ", weights hidden" * c["hides_weights"], str(c["proofs"]), told(c["rows"]),
             f"2^{told(c['logrows'])}", told(c["tolerance"], ".3g"),
             f"{told(c['deviation'], '.3g')} on {told(c['samples'])}", told(c["agreement"], ".4f"),
             "yes" if c["inputs_bounded"] else "no", c["srs_origin"]] for c in d["circuits"]]
    return Table("Circuits", ["circuit", "system", "proofs", "rows a proof", "size", "tolerance", "deviation on samples",
                              "argmax agreement", "bounds inputs", "SRS"], rows, frozenset({2, 3}))


def _rejections(d: Mapping[str, Any]) -> Table:
    rows = [[f"{r['rank']}", str(r["id"]), str(r["attempt"]), r["status"], f"{r['rows']} from row {r['first_row']}",
             r["verdict"]] for r in d["rejections"][:SHOWN]]
    left = len(d["rejections"]) - len(rows)
    return Table("Rejections, with their evidence", ["rank", "bundle", "attempt", "status", "rows", "the aggregator's verdict"],
                 rows, frozenset({0, 1, 2}), f"{left} more are in --json." if left > 0 else "")


def _draws(d: Mapping[str, Any]) -> Table:
    return Table("What the sample says, if the draw was fair", ["of the rows that were not drawn"],
                 [[line] for line in d["draws"]])


def _provenance(d: Mapping[str, Any]) -> Table:
    versions = dict(d["versions"])
    rows = [["file", d["file"]], ["started", d["started"]], ["finished", d["finished"] or "not finished"],
            ["command", versions.pop("command", "")], ["aggregator's host", versions.pop("host", "")],
            ["model hash" + ", mixed with a secret" * hides_weights(d), d["model_hash"]],
            ["dataset fingerprint", d["dataset_fingerprint"] or f"not in the file: inputs are {d['inputs']}"],
            *[["circuit id", c["circuit_id"]] for c in d["circuits"]],
            ["versions", ", ".join(f"{name} {value}" for name, value in versions.items())]]
    return Table("Provenance", ["", ""], [[a, str(b)] for a, b in rows])


def _seconds(value: float | None) -> str:
    return "not finished" if value is None else f"{significant(value)} s"
