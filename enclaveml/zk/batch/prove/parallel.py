"""Threads for what releases the interpreter's lock: jitted programs and the hashing of long leaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


class Pool:
    """As many threads as cores; JAX has 64-bit types in them, a setting that each thread has for itself."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run it with 64-bit types."""
        def run() -> T:
            with jax.enable_x64(True):
                return function(*arguments)
        return self._executor.submit(run)

    def map(self, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
        """All results, in order; the first error."""
        return [future.result() for future in [self.submit(function, *each) for each in zip(*arguments, strict=True)]]


@contextmanager
def pool() -> Iterator[Pool]:
    """A pool that is closed with the block."""
    with ThreadPoolExecutor(cores()) as executor:
        yield Pool(executor)
