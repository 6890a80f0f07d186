"""The log: rank 0 speaks, with time stamps, on standard error; other ranks only warn.

Modules log through ``logging.getLogger(__name__)``. The level is INFO, or what the environment variable
ENCLAVEML_LOG says: debug, info, warning or error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from .errors import EnvironmentFault

NAME = "enclaveml"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def setup(
    rank: int, host: str = "", stream: TextIO | None = None, env: Mapping[str, str] | None = None
) -> logging.Logger:
    """Make this package's logger write to ``stream`` (standard error): once per process, again replaces it.

    Rank 0 writes everything from the level up. Any other rank writes warnings and errors, or errors
    alone where the level says so, each line marked "rank 3 host". (With debug, every rank writes all.)

    Raises EnvironmentFault where ENCLAVEML_LOG is no level.
    """
    env = os.environ if env is None else env
    name = env.get("ENCLAVEML_LOG", "").strip().lower() or "info"
    if name not in LEVELS:
        raise EnvironmentFault(f"ENCLAVEML_LOG: {env['ENCLAVEML_LOG']!r} found; {', '.join(LEVELS)} allowed")
    level = LEVELS[name]
    if rank != 0 and level > logging.DEBUG:
        level = max(level, logging.WARNING)
    handler = _BesideBar(sys.stderr if stream is None else stream)
    handler.setFormatter(_Lines("" if rank == 0 else f"rank {rank} {host}".strip() + ": "))
    logger = logging.getLogger(NAME)
    for old in [h for h in logger.handlers if isinstance(h, _BesideBar)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # a library's handler at the root would say everything twice
    return logger


class _Lines(logging.Formatter):
    """``2025-03-01 12:00:00 [rank 3 host: ][WARNING: ]text``; further lines (a traceback) as they are."""

    def __init__(self, prefix: str) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        self._prefix = prefix

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        level = "" if record.levelno in (logging.INFO, logging.DEBUG) else f"{record.levelname}: "
        return f"{self.formatTime(record, self.datefmt)} {self._prefix}{level}{record.message}"

    def usesTime(self) -> bool:  # noqa: N802
        return False  # formatMessage does it


class _BesideBar(logging.StreamHandler):
    """Writes lines above a progress bar where there is one, instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules:
            super().emit(record)
            return
        from tqdm import tqdm

        try:
            with tqdm.external_write_mode(file=self.stream):
                super().emit(record)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)
