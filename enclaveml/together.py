"""No rank fails alone: a stage that fails on one rank fails on all, and rank 0 knows why."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from enclaveml.comm import World
from enclaveml.errors import EnclaveError, RemoteFailure


def describe(error: BaseException) -> str:
    """The text of an error for rank 0's log: a traceback where it is a bug, the message where it is ours."""
    if isinstance(error, EnclaveError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error))


def exit_code_of(error: BaseException) -> int:
    """The exit status that an error stands for."""
    return error.exit_code if isinstance(error, EnclaveError) else 1


@contextmanager
def together(world: World, stage: str) -> Iterator[None]:
    """Run a stage on every rank and agree on how it went.

    The body must take part in no collective: a rank that fails leaves it at once.

    Raises:
        the rank's own error, on rank 0 where it was rank 0's;
        RemoteFailure: on rank 0 for another rank's failure, with its rank, host and
            traceback, and on every other rank, so that all of them leave.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    code = 0 if failure is None else exit_code_of(failure) or 1
    codes = world.allgather_array(np.array([code], np.int64), f"the end of {stage}")[:, 0]
    if not codes.any():
        return
    texts = world.gather_bytes(b"" if failure is None else describe(failure).encode()[: 1 << 20], f"failures in {stage}")
    if world.is_root:
        if failure is not None:
            raise mark_agreed(failure) from None
        lines = [f"rank {rank} ({world.hosts[rank]}) failed in {stage}:\n{text.decode(errors='replace')}"
                 for rank, text in zip(world.ids, texts, strict=True) if text]
        raise mark_agreed(RemoteFailure("\n".join(lines), int(codes[codes != 0][0])))
    raise mark_agreed(RemoteFailure(f"a rank failed in {stage}", int(codes[codes != 0][0])))


def mark_agreed(error: Exception) -> Exception:
    """Note that every rank knows of this failure."""
    error.agreed = True  # type: ignore[attr-defined]
    return error


def is_agreed(error: Exception) -> bool:
    """Whether every rank knows of this failure and leaves for it, so that nobody needs to be aborted."""
    return getattr(error, "agreed", False)
