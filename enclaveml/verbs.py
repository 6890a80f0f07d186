"""The verbs of the command line: each one's arguments, what it calls, examples and exit statuses.

A verb is one entry of ``VERBS``. Its function imports what it needs when it is called:
``--help`` and checking a job import neither MPI, JAX nor h5py.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enclaveml.errors import JobError
from enclaveml.launcher import launched_rank
from enclaveml.options import RunOptions

STATUSES = """\
exit status:
  0    complete, by the job's own policy
  1    internal error
  2    bad job: job file, command line, model or data
  3    rows unverified, and the job is strict
  4    environment: a file, a library, MPI or a device does not serve
  75   stopped early, resumable with --resume
  130  interrupted (143: terminated)
"""


def _statuses(done: str, **others: str) -> str:
    """The exit statuses of a verb that runs no job: ``done`` is 0's, ``others`` (s2, s3, s4) what differs."""
    words = {"s2": "bad command line, job file, model or data", "s4": "environment: a file or a library does not serve"} | others
    lines = [f"  0    {done}", "  1    internal error"] + [f"  {name[1:]}    {words[name]}" for name in sorted(words)]
    return "\n".join(["exit status:", *lines, "  130  interrupted", ""])


@dataclass(frozen=True)
class Verb:
    """One verb: ``arguments`` adds its own to a parser, ``call`` does it and returns the exit status. note: what its help
    says behind the summary."""

    name: str
    summary: str
    examples: str
    arguments: Callable[[argparse.ArgumentParser], None]
    call: Callable[[argparse.Namespace], int]
    statuses: str = STATUSES
    note: str = ""


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", type=Path, help="the job file, YAML")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="override a key of the job file, as in split.strategy=equal; may be repeated; "
        "paths are relative to the current folder",
    )


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the results file, instead of output.path"
    )
    parser.add_argument("--input", metavar="FILE", type=Path, help="data to use instead of the job's input, as the model takes them")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the short answer here, beside the results"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="go on where a stopped job was; starts if there is none"
    )
    existing.add_argument("--force", action="store_true", help="replace existing results")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, show the shard plan, run nothing"
    )
    parser.add_argument(
        "--ranks",
        metavar="P",
        type=_positive,
        help="with --dry-run: plan for P ranks (default: those that cluster.ranks describes, or 1)",
    )


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:10]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number from 1 to 1000000")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    if args.ranks is not None and not args.dry_run:
        raise JobError("--ranks is for --dry-run; mpirun -np sets the ranks of a run")
    if args.dry_run:
        from enclaveml.dryrun import dry_run
        from enclaveml.job import load_job

        print(dry_run(load_job(args.job, args.overrides, args.output, args.input), args.ranks), end="")
        return 0
    from enclaveml.watchdog import Watchdog

    watchdog = Watchdog.start(f"rank {launched_rank(os.environ)} on {socket.gethostname()}")
    try:
        from enclaveml.run import run  # MPI begins here

        return run(
            RunOptions(
                job=args.job,
                output=args.output,
                overrides=tuple(args.overrides),
                input=args.input,
                json=args.json,
                resume=args.resume,
                force=args.force,
            ),
            watchdog,
        )
    finally:
        watchdog.close()


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--ranks",
        metavar="P",
        type=_positive,
        help="ranks on this machine that the job will have (default: those that cluster.ranks describes, or 1)",
    )


def _prepare(args: argparse.Namespace) -> int:
    from enclaveml.log import setup
    from enclaveml.prepare import prepare

    setup(0)
    return prepare(args.job, tuple(args.overrides), args.ranks)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _prepare_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def _check(args: argparse.Namespace) -> int:
    from enclaveml.check import check
    from enclaveml.log import setup

    setup(0)
    return check(args.job, tuple(args.overrides), args.ranks, args.json)


def _hash_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--circuit", action="store_true", help="print each circuit's id and role (primary, fallback) instead, rebuilt "
        "from the model: for `enclaveml audit --circuit-id`",
    )
    parser.add_argument(
        "--srs", metavar="FILE", type=Path, help="with --circuit: the SRS that the aggregator used (default: this "
        "machine's own)",
    )
    parser.add_argument(
        "--like", metavar="RESULTS", type=Path, help="with --circuit: take the circuits' settings from this results "
        "file (default: what the plan chooses for one rank of this machine)",
    )
    parser.add_argument(
        "--registration", metavar="FOLDER", type=Path, help="of a job that hides its weights (proof.private_weights with system batch): the "
        "folder with weights.seed that rank 0 keeps; hash and circuit are made again with that seed",
    )


def _hash(args: argparse.Namespace) -> int:
    from enclaveml.hash import print_hash

    if not args.circuit:
        if args.srs or args.like:
            raise JobError("--srs and --like are for --circuit")
        if not args.registration:
            return print_hash(args.job, tuple(args.overrides))
    if args.registration and (args.srs or args.like):
        raise JobError("--registration has all that is to be known of a circuit; leave --srs and --like out")
    from enclaveml.hdf5_probe import check_readable
    from enclaveml.log import setup

    setup(0)
    if args.like is not None:
        check_readable(args.like)
    return print_hash(args.job, tuple(args.overrides), args.circuit, args.srs, args.like, args.registration)


def _outcome_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument(
        "--launcher",
        metavar="STATUS",
        type=int,
        default=0,
        help="mpirun's exit status, $?: it may be 0 for a job that was killed, and another than 0 for one "
        "that survived a lost rank (default: 0)",
    )


def _outcome(args: argparse.Namespace) -> int:
    from enclaveml.job import load_job
    from enclaveml.outcome import outcome

    found = outcome(load_job(args.job, args.overrides, args.output, args.input).output.path, args.launcher)
    print(f"enclaveml: exit status {found.code}: {found.words}")
    return found.code


def _slurm_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--ranks",
        metavar="P",
        type=_positive,
        help="ranks (default: those that cluster.ranks describes, or 4)",
    )
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=_positive,
        help="nodes that share the ranks, where cluster.ranks names no hosts (default: 1)",
    )
    parser.add_argument(
        "--cpus-per-task", metavar="C", type=_positive, help="cores of each rank (default: 4)"
    )
    parser.add_argument(
        "--root-cores", metavar="C", type=_positive, help="give rank 0, which verifies every proof, a node of its own with so "
        "many cores; `forecast` says how many a job needs (default: it shares a node)"
    )
    parser.add_argument(
        "--time", metavar="LIMIT", help="time limit of one part, as sbatch takes it (default: the forecast, "
        "where a circuit of the model is in this machine's cache, else 01:00:00)"
    )
    parser.add_argument("--venv", metavar="FOLDER", help="virtual environment that the script activates")


def _slurm(args: argparse.Namespace) -> int:
    from enclaveml.job import load_job
    from enclaveml.sbatch import script

    job = load_job(args.job, args.overrides)
    advice = None
    if args.time is None:
        from enclaveml.forecast_slurm import advised_time

        advice = advised_time(job, args.ranks, args.nodes, args.cpus_per_task, args.root_cores)
    text = script(
        job,
        str(args.job),
        overrides=args.overrides,
        folder=os.getcwd(),
        ranks=args.ranks,
        nodes=args.nodes,
        cores=args.cpus_per_task,
        root_cores=args.root_cores,
        time=args.time,
        venv=args.venv,
        forecast=advice,
    )
    print(text, end="")
    return 0


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the results file, HDF5")
    parser.add_argument(
        "--circuit-id", metavar="HEX", type=_digest, action="append", help="a circuit that may have been used, from "
        "`enclaveml hash --circuit` of the model's owner; given once for each of its lines",
    )
    parser.add_argument("--max-tolerance", metavar="T", type=float, help="refuse a larger tolerance of outputs")
    parser.add_argument("--inputs", metavar="FILE", type=Path, help="the data, to check that the proofs are about them")
    parser.add_argument(
        "--key", metavar="NAME", action="append", help="array or columns in --inputs, as input.key; may be repeated"
    )
    parser.add_argument("--scale", metavar="X", type=float, help="what uint8 --inputs are multiplied by, as input.scale")
    parser.add_argument(
        "--preprocess", metavar="FUNCTION", help="applied to --inputs where the job's preprocessing lies outside of the proofs: "
        "file.py:function, or none for data that are preprocessed already",
    )
    parser.add_argument(
        "--srs", metavar="FILE", type=Path, help="an SRS file of the ceremony, compared with the file's; with "
        "committed --inputs the whole SRS that the aggregator used (default: this machine's own)",
    )
    parser.add_argument(
        "--input-key", metavar="FILE", type=Path, help="with committed --inputs of batch proofs, the job's input key "
        "(default: RESULTS.input-key)",
    )
    parser.add_argument("--public-key", metavar="FILE", type=Path, help="Ed25519 key that must have signed the file")
    parser.add_argument("--sample", metavar="K", type=_positive, help="verify only K proofs, drawn at random")
    parser.add_argument("--processes", metavar="P", type=_positive, default=0, help="default: one a core")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _digest(text: str) -> str:
    if len(text) != 64 or any(c not in "0123456789abcdef" for c in text.lower()):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: 64 hexadecimal digits")
    return text.lower()


def _audit(args: argparse.Namespace) -> int:
    from enclaveml.audit import AuditOptions, print_audit
    from enclaveml.hdf5_probe import check_readable
    from enclaveml.log import setup

    setup(0)
    check_readable(args.results)
    keys = args.key or []
    return print_audit(
        AuditOptions(
            results=args.results,
            circuit_ids=tuple(args.circuit_id or ()),
            max_tolerance=args.max_tolerance,
            inputs=args.inputs,
            key=keys[0] if len(keys) == 1 else tuple(keys) or None,
            scale=args.scale,
            preprocess=args.preprocess,
            srs=args.srs,
            input_key=args.input_key,
            public_key=args.public_key,
            sample=args.sample,
            processes=args.processes,
        ),
        args.json,
    )


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", type=Path, help="the results file, there already or not yet")
    parser.add_argument("--detailed", action="store_true", help="a line for each rank, with seconds by stage")
    parser.add_argument(
        "--follow", action="store_true", help="show it again and again until the job has ended: in place on a "
        "terminal, else a line every 10 s",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON, one line for each look")


def _status(args: argparse.Namespace) -> int:
    from enclaveml.status import print_status

    return print_status(args.results, args.detailed, args.follow, args.json)


def _forecast_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument("--ranks", metavar="P", type=_positive, default=4, help="ranks, rank 0 among them (default: 4)")
    parser.add_argument("--cores-per-rank", metavar="C", type=_positive, default=4, help="default: 4")
    parser.add_argument("--ranks-per-node", metavar="R", type=_positive, default=4, help="default: 4")
    parser.add_argument("--device", metavar="NAME", default="cpu", help="what ranks infer on: cpu, h100, a100 ... "
                        "(default: cpu); proofs run on host cores")
    parser.add_argument("--memory-gb", metavar="G", type=float, default=8.0, help="of a rank's host (default: 8)")
    parser.add_argument("--rows", metavar="N", type=_positive, help="rows, if not those of the job's input")
    parser.add_argument("--core-speed", metavar="X", type=float, default=1.0,
                        help="a core of the target as a multiple of one of this machine (default: 1)")
    parser.add_argument("--root-cores", metavar="C", type=_positive,
                        help="cores of a node that rank 0 has to itself, where it verifies (default: it shares one with others)")
    parser.add_argument("--curve", action="store_true", help="a table over ranks to 4096 as well")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of stragglers and failures (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the forecast as JSON")


def _forecast(args: argparse.Namespace) -> int:
    import json

    from enclaveml.forecast import curve, data_of, predict
    from enclaveml.forecast_costs import target_of
    from enclaveml.forecast_text import text
    from enclaveml.job import load_job

    job = load_job(args.job, args.overrides)
    target = target_of(
        args.ranks, args.cores_per_rank, args.ranks_per_node, args.device, args.memory_gb, args.core_speed,
        args.root_cores, bool(job.cluster.aggregator_computes),
    )
    data, circuits = data_of(job, args.rows)
    found = predict(data, circuits, target, args.seed)
    points = curve(data, circuits, target, args.seed) if args.curve else []
    if args.json:
        print(json.dumps({**found.document(), "curve": [
            {"ranks": p, "seconds": o.seconds, "root_busy": o.root_busy, "verify_busy": o.verify_busy,
             "prove_busy": o.prove_busy, "binds_first": name} for p, o, name in points]}))
    else:
        print(text(found, points), end="")
    return 0


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", type=Path, nargs="?", help="a job file: its data, devices and output too")
    parser.add_argument("--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[], help="as for run")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _doctor(args: argparse.Namespace) -> int:
    from enclaveml.doctor import print_doctor

    return print_doctor(args.job, tuple(args.overrides), args.json)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", type=Path, nargs="+", help="results files, HDF5; several are "
                        "compared side by side")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path,
                        help="where to write it (default: RESULTS with .html; stdout for the other kinds)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--markdown", action="store_true", help="Markdown without plots instead of HTML")
    kind.add_argument("--json", action="store_true", help="everything that the report says, as JSON")


def _report(args: argparse.Namespace) -> int:
    from enclaveml.hdf5_probe import check_readable
    from enclaveml.report import report

    for path in args.results:
        check_readable(path)
    return report(args.results, args.output, "markdown" if args.markdown else "json" if args.json else "html")


# Of verbs that read a job's rows, but not its model, so that one might take them for harmless.
_RUNS_CODE = ("The function that the job names in model.preprocess is run where model.preprocess_proved is false:\ntreat a job "
              "file that you did not write as a program.")

VERBS: tuple[Verb, ...] = (
    Verb(
        "run",
        "infer, prove, verify and combine; one results file",
        """\
examples:
  mpirun -np 4 enclaveml-run job.yaml            four ranks: one aggregator, three workers
  enclaveml run job.yaml                         the same on one rank
  enclaveml run job.yaml --dry-run --ranks 4     check the job and show who would get what
  enclaveml run job.yaml --set proof.coverage=0.1 --set cluster=configs/laptop.yaml
  enclaveml run job.yaml -o other.h5 --resume    go on with a stopped job
""",
        _run_arguments,
        _run,
    ),
    Verb(
        "prepare",
        "make the circuit and keys ahead of time, so that the job starts at once; show what was tried",
        """\
examples:
  enclaveml prepare job.yaml --ranks 4             for `mpirun -np 4 enclaveml-run job.yaml` on this machine
  enclaveml prepare job.yaml --set proof.inputs=committed
""",
        _prepare_arguments,
        _prepare,
    ),
    Verb(
        "check",
        "say whether the job's model can be proved, how exactly, where the cost sits, and what to change",
        """\
examples:
  enclaveml check job.yaml                         before any cluster time is spent; a minute or so
  enclaveml check job.yaml --ranks 4 --set proof.scale=10
""",
        _check_arguments,
        _check,
        _statuses("the model can be proved", s2="the model is refused, or a bad command line, job file or data"),
    ),
    Verb(
        "hash",
        "print the model hash, or the circuit's id, for model.hash and for auditors",
        """\
examples:
  enclaveml hash job.yaml
  enclaveml hash job.yaml --set model.weights=other.safetensors
  enclaveml hash --circuit --srs FILE --like results.h5 job.yaml    for audit --circuit-id
""",
        _hash_arguments,
        _hash,
    ),
    Verb(
        "audit",
        "check a results file: every proof, every row, the seal; needs neither inputs nor weights",
        """\
examples:
  enclaveml audit results.h5                       consistent? no claim about which model
  enclaveml audit results.h5 --max-tolerance 0.01 --circuit-id 01a8fa719a88c06e60a07aeebed7476c07fd02371068bd3c4476837302d7f2c5
  enclaveml audit results.h5 --inputs data.npz --key x    by the data's owner
  enclaveml audit results.h5 --public-key aggregator.pub --json
""",
        _audit_arguments,
        _audit,
        _statuses("nothing in the file is found wrong (what was not established is listed)",
                  s3="something in the file is not so; the rows that fail are named"),
    ),
    Verb(
        "report",
        "write one HTML page (or Markdown, JSON) that says what a results file holds",
        """\
examples:
  enclaveml report results.h5                      writes results.html: one file, no network
  enclaveml report results.h5 --markdown           without plots, to stdout
  enclaveml report monday.h5 tuesday.h5 -o both.html    side by side
""",
        _report_arguments,
        _report,
        _statuses("written, whatever the file holds"),
    ),
    Verb(
        "slurm",
        "print a Slurm batch script; it stops before its limit and requeues itself until complete",
        """\
examples:
  enclaveml slurm job.yaml                         four ranks on one node; pipe it into sbatch
  enclaveml slurm job.yaml --ranks 16 --nodes 4 --time 04:00:00
  enclaveml slurm job.yaml --set cluster=configs/four-gpu-node.yaml --cpus-per-task 16
  enclaveml slurm job.yaml --ranks 1025 --nodes 256 --root-cores 64
""",
        _slurm_arguments,
        _slurm,
        note=_RUNS_CODE,
    ),
    Verb(
        "forecast",
        "predict what a job takes on another machine: time, memory, files, rank 0's load, where scaling ends",
        """\
examples:
  enclaveml forecast job.yaml --ranks 256 --cores-per-rank 16 --device h100
  enclaveml forecast job.yaml --ranks 64 --rows 1000000 --curve
  enclaveml forecast job.yaml --ranks 512 --root-cores 128 --core-speed 1.4 --json
""",
        _forecast_arguments,
        _forecast,
        note=_RUNS_CODE,
    ),
    Verb(
        "doctor",
        "check what breaks jobs on clusters, and say how to mend it; exit status 4 where there is a fault",
        """\
examples:
  enclaveml doctor                                 this machine
  enclaveml doctor job.yaml                        and the job's data, devices and output
  mpirun -np 4 enclaveml doctor job.yaml           every rank's machine, and whether they see each other
""",
        _doctor_arguments,
        _doctor,
        _statuses("no fault (warnings at most)", s4="a fault, with its remedy"),
    ),
    Verb(
        "status",
        "show how far a running job is, or how one ended; never disturbs it",
        """\
examples:
  enclaveml status results.h5                      from any machine that sees the folder
  enclaveml status results.h5 --follow             until the job has ended
  enclaveml status results.h5 --detailed --json
""",
        _status_arguments,
        _status,
        _statuses("shown, whatever became of the job (`enclaveml outcome` tells that)"),
    ),
    Verb(
        "outcome",
        "exit with the status that a job ended with, read from its results; for batch scripts",
        """\
examples:
  enclaveml outcome job.yaml                       after `mpirun -np 4 enclaveml-run job.yaml`
  enclaveml outcome job.yaml -o other.h5 --launcher 137
""",
        _outcome_arguments,
        _outcome,
    ),
)
