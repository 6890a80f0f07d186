"""``python -m benchmarks``: run the suite, or compare two of its runs. ``--help`` says how; README.md what it contains."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import REPORTS
from enclaveml.errors import EnclaveError, EnvironmentFault, JobError

#: Rounds that each contender has by default.
ROUNDS = {"quick": 5, "full": 7}


def parser() -> argparse.ArgumentParser:
    """The command line of both: ``compare`` is a command, everything else belongs to running."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="run the benchmark suite, or compare two of its runs")
    setting = made.add_mutually_exclusive_group()
    setting.add_argument("--quick", dest="setting", action="store_const", const="quick", default="quick",
                         help="some minutes on two cores: fewer cases, rows and rounds (default)")
    setting.add_argument("--full", dest="setting", action="store_const", const="full", help="an hour or more")
    made.add_argument("--rounds", type=int, help=f"rounds of every contender (default: {ROUNDS['quick']}, --full {ROUNDS['full']})")
    made.add_argument("--only", metavar="CASE", nargs="+", help="these cases alone; --list names them")
    made.add_argument("--list", action="store_true", help="list the cases of the setting and end")
    made.add_argument("-o", "--out", type=Path, default=REPORTS, metavar="FOLDER",
                      help="folder of suite-quick.json, .html and .md, or suite-full (default: benchmarks/reports)")
    commands = made.add_subparsers(dest="command", metavar="")
    compare = commands.add_parser("compare", help="what changed between two runs beyond the noise",
                                  description="what changed between two runs beyond the noise")
    compare.add_argument("before", type=Path, metavar="A.json")
    compare.add_argument("after", type=Path, metavar="B.json")
    compare.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there: .html, .md or .json (default: text)")
    compare.add_argument("--fail-worse", action="store_true", help="exit status 1 where a figure is worse beyond noise")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit status: 0; 1 where a case failed or a figure is worse
    (--fail-worse); 2 for a wrong command line; 4 for a file that does not serve, or a library that is missing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    try:
        return _compare(options) if options.command == "compare" else _run(options, given)
    except EnclaveError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace, given: Sequence[str]) -> int:
    from benchmarks.suite import run_suite
    from benchmarks.suite_cases import CASES
    from benchmarks.suite_report import markdown, write
    from enclaveml.schema import nearest

    cases = [case for case in CASES if options.setting in case.settings]
    if options.list:
        print("\n".join(f"{case.name}: {case.what}" for case in cases))
        return 0
    names = [case.name for case in cases]
    for name in options.only or ():
        if name not in names:
            close = nearest(name, names)
            raise JobError(f"--only {name}: no such case with --{options.setting}; allowed: {', '.join(names)}"
                           + (f"; did you mean {close}?" if close else ""))
    if options.rounds is not None and options.rounds < 1:
        raise JobError(f"--rounds {options.rounds}: allowed: 1 or more; comparing takes 3")
    if importlib.util.find_spec("matplotlib") is None:
        raise EnvironmentFault("matplotlib is not installed, which draws the report's plots; pip install 'enclaveml[report]'")
    chosen = [case for case in cases if not options.only or case.name in options.only]
    rounds = options.rounds or ROUNDS[options.setting]
    name = f"suite-{options.setting}" + ("-" + "-".join(case.name for case in chosen) if options.only else "")
    document = run_suite(chosen, options.setting, rounds, " ".join(["python -m benchmarks", *given]),
                         lambda made: [*write(made, options.out, name)], lambda text: print(text, flush=True))
    print(markdown(document))
    print("\n".join(f"report: {path}" for path in write(document, options.out, name)))
    return 1 if any(case["error"] for case in document["cases"]) else 0


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.suite_compare import compare
    from benchmarks.suite_report import comparison, comparison_text, read
    from enclaveml.progress import table

    found = compare(read(options.before), read(options.after))
    names = [options.before.stem, options.after.stem]
    if names[0] == names[1]:
        names = [str(options.before), str(options.after)]
    told, tables = comparison(found, names)
    if options.output:
        kind = {".html": "html", ".md": "markdown", ".json": "json"}.get(options.output.suffix)
        if kind is None:
            raise JobError(f"--output {options.output}: allowed: a name that ends with .html, .md or .json")
        text = _json(found, told) if kind == "json" else comparison_text(found, names, kind)
        try:
            options.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EnvironmentFault(f"{options.output}: cannot be written: {error.strerror}") from error
    else:
        for one in tables:
            print(f"{one.title}\n{table(one.heads, one.rows)}\n{one.note}\n")
    print(told)
    return 1 if options.fail_worse and found.worse else 0


def _json(found: object, told: str) -> str:
    def plain(value: object) -> object:
        return value.value if hasattr(value, "value") else str(value)

    return json.dumps({"told": told, **dataclasses.asdict(found)}, indent=1, default=plain) + "\n"


if __name__ == "__main__":
    sys.exit(main())
