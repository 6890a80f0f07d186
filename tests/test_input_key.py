"""The input key of a job: one file that its owner alone reads, one key for each order, found again by a resumed job."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

import pytest

from enclaveml import input_key
from enclaveml.errors import EnvironmentFault


def test_a_key_is_drawn_kept_and_read_again(tmp_path: Path) -> None:
    path = input_key.key_path(tmp_path / "results.h5")
    umask = os.umask(0)
    try:
        key = input_key.create(path)
    finally:
        os.umask(umask)
    assert path == tmp_path / "results.h5.input-key" and path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == key.hex() + "\n" and len(key) == 32 and os.listdir(tmp_path) == [path.name]
    assert input_key.load(path, input_key.digest(key)) == key
    assert input_key.create(tmp_path / "other") != key


def test_a_key_that_is_there_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "results.h5.input-key"
    key = input_key.create(path)
    with pytest.raises(EnvironmentFault, match="results.h5.input-key: is there already, and is the only way to tie proofs to their inputs; "
                                               "move it, or give --force"):
        input_key.create(path)
    assert path.read_text() == key.hex() + "\n" and os.listdir(tmp_path) == [path.name]
    other = input_key.create(path, replace=True)
    assert other != key and input_key.load(path, input_key.digest(other)) == other
    with pytest.raises(EnvironmentFault, match="the input key cannot be written: No such file or directory"):
        input_key.create(tmp_path / "none" / "results.h5")


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"0" * 65, b"0" * 64 + b"\n\n", b"G" + b"0" * 63, b"A" * 64, b"\xff" * 64, bytes(32)])
def test_other_content_is_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=f"^{re.escape(str(path))}: "):
        input_key.load(path, "")
    with pytest.raises(EnvironmentFault, match="cannot be read: No such file"):
        input_key.load(tmp_path / "none", "")


def test_another_jobs_key_and_one_that_others_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    key = input_key.create(path)
    with pytest.raises(EnvironmentFault, match=f"is not this job's input key: its digest is {input_key.digest(key)[:16]}, the job has 0000"):
        input_key.load(path, "0" * 64)
    with pytest.raises(EnvironmentFault, match="the job has none"):
        input_key.load(path, "")
    path.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        assert input_key.load(path, input_key.digest(key)) == key
    assert "others than its owner can read it (mode 640)" in caplog.text


def test_an_orders_key_is_its_own() -> None:
    key, nonce = bytes(range(32)), bytes(32)
    assert input_key.order_key(key, nonce) == hashlib.sha256(b"enclaveml order's input key 1" + key + nonce).digest()
    assert len({input_key.order_key(key, bytes([i]) * 32) for i in range(20)} | {input_key.order_key(bytes(32), nonce)}) == 21
    for other in (None, b"", key[:31], key + b"1"):
        with pytest.raises(ValueError, match="no input key of 32 bytes"):
            input_key.order_key(other, nonce)
