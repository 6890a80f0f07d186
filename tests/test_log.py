"""Who writes what to the log."""

from __future__ import annotations

import io
import logging
import re

import pytest

from enclaveml.errors import EnvironmentFault
from enclaveml.log import NAME, setup

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture(autouse=True)
def keep_logger():
    logger = logging.getLogger(NAME)
    kept = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = kept
    logger.setLevel(kept[1])


def written(rank: int, env: dict[str, str], host: str = "node2") -> list[str]:
    stream = io.StringIO()
    setup(rank, host, stream, env)
    log = logging.getLogger(f"{NAME}.some.module")
    log.debug("d %d", 1)
    log.info("i")
    log.warning("w")
    log.error("e")
    lines = stream.getvalue().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(STAMP, "", line) for line in lines]


def test_rank_0_speaks_and_others_warn():
    assert written(0, {}) == ["i", "WARNING: w", "ERROR: e"]
    assert written(3, {}) == ["rank 3 node2: WARNING: w", "rank 3 node2: ERROR: e"]
    assert written(3, {}, host="")[0] == "rank 3: WARNING: w"


def test_the_level_comes_from_the_environment():
    assert written(0, {"ENCLAVEML_LOG": "Debug"})[0] == "d 1"
    assert written(2, {"ENCLAVEML_LOG": "debug"})[:2] == ["rank 2 node2: d 1", "rank 2 node2: i"]
    assert written(0, {"ENCLAVEML_LOG": "error"}) == ["ERROR: e"]
    assert written(1, {"ENCLAVEML_LOG": "error"}) == ["rank 1 node2: ERROR: e"]
    assert written(0, {"ENCLAVEML_LOG": ""})[0] == "i"


def test_a_second_setup_replaces_the_first():
    first = io.StringIO()
    setup(0, "a", first, {})
    assert written(0, {}) == ["i", "WARNING: w", "ERROR: e"]
    assert first.getvalue() == ""


def test_a_traceback_follows_its_line():
    stream = io.StringIO()
    setup(0, "a", stream, {})
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger(NAME).exception("failed")
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(STAMP + "ERROR: failed", lines[0])
    assert lines[1] == "Traceback (most recent call last):" and lines[-1] == "ValueError: the cause"


def test_an_unknown_level_is_an_environment_fault():
    with pytest.raises(EnvironmentFault) as caught:
        setup(0, "a", io.StringIO(), {"ENCLAVEML_LOG": "loud"})
    assert str(caught.value) == "ENCLAVEML_LOG: 'loud' found; debug, info, warning, error allowed"
