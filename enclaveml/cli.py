"""The command line: parses, calls, and turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from enclaveml import __version__
from enclaveml.errors import EnclaveError, EnvironmentFault, JobError, RemoteFailure
from enclaveml.launcher import launched_rank
from enclaveml.verbs import STATUSES, VERBS, Verb

# What the base install does not bring, and the extra that does (pyproject.toml).
_EXTRAS = {
    **dict.fromkeys(("mpi4py", "jax", "jaxlib", "flax", "onnx", "jax2onnx", "safetensors", "ml_dtypes", "orbax"), "run"),
    "cryptography": "sign",
    "matplotlib": "report",
}


class _Parser(argparse.ArgumentParser):
    """Says a usage error once, and not once a rank: each rank parses the same words."""

    def error(self, message: str) -> NoReturn:
        if launched_rank(os.environ) == 0:
            self.print_usage(sys.stderr)
            print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(JobError.exit_code)


def build_parser(prog: str = "enclaveml") -> argparse.ArgumentParser:
    """The parser of all verbs."""
    width = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog=prog,
        formatter_class=width,
        description="Batch inference over MPI ranks, every row with a zero-knowledge proof that rank 0 "
        "verifies.",
        epilog=f"examples:\n  mpirun -np 4 {prog} run job.yaml\n  {prog} run job.yaml --dry-run\n"
        f"  {prog} VERB --help\n\n{STATUSES}",
    )
    parser.add_argument("--version", action="version", version=f"enclaveml {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for verb in VERBS:
        _add_verb(verbs.add_parser(verb.name, help=verb.summary, formatter_class=width), verb)
    return parser


def _add_verb(parser: argparse.ArgumentParser, verb: Verb) -> None:
    parser.description = f"{verb.summary[0].upper()}{verb.summary[1:]}." + (f"\n{verb.note}" if verb.note else "")
    parser.epilog = f"{verb.examples}\n{verb.statuses}"
    verb.arguments(parser)
    parser.set_defaults(call=verb.call)


def main(arguments: Sequence[str] | None = None, prog: str = "enclaveml") -> int:
    """Console script ``enclaveml`` and ``python -m enclaveml``. Returns the exit status."""
    return _guarded(build_parser(prog), arguments)


def run_main(arguments: Sequence[str] | None = None) -> int:
    """Console script ``enclaveml-run``: the verb ``run``."""
    parser = _Parser(prog="enclaveml-run", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"enclaveml {__version__}")
    _add_verb(parser, next(verb for verb in VERBS if verb.name == "run"))
    return _guarded(parser, arguments)


def _guarded(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    try:
        args = parser.parse_args(arguments)
        status = int(args.call(args))
        sys.stdout.flush()
        return status
    except EnclaveError as error:
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away; as the docs of `signal` advise, so that the flush
        # at exit does not complain. 141 is what a shell shows for SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            traceback.print_exc()
            return 1
        _tell(EnvironmentFault(f"{error.name} is not installed, and this command needs it: "
                               f"pip install 'enclaveml[{extra}]'"))
        return EnvironmentFault.exit_code
    except Exception:
        traceback.print_exc()
        return 1


def _tell(error: EnclaveError) -> None:
    """Print an error on stderr. What another rank failed of is that rank's and rank 0's to say."""
    rank = launched_rank(os.environ)
    if isinstance(error, RemoteFailure) and rank != 0:
        return
    if isinstance(error, JobError):
        count = len(error.faults)
        text = f"this job cannot be run: {count} fault{'' if count == 1 else 's'}\n{error}"
    else:
        text = str(error)
    print(f"enclaveml: {f'rank {rank}: ' if rank else ''}{text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
