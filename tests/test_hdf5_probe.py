"""A file that holds or kills the HDF5 library is called damaged, within a bound."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path

import pytest

from enclaveml import hdf5
from enclaveml.errors import EnvironmentFault, FormatError
from enclaveml.hdf5_probe import check_readable


def with_texts(path: Path) -> Path:
    with hdf5.create(path) as file:
        for name in "abc":
            hdf5.attribute(file, name, f"the text {name}")
    return path


def endless(path: Path) -> Path:
    """The second text of the heap takes 2^64 - 16 bytes: HDF5 goes on by 16 + 2^64 - 16 = 0 bytes, for ever."""
    data = bytearray(with_texts(path).read_bytes())
    first = data.index(b"GCOL") + 16
    (size,) = struct.unpack_from("<Q", data, first + 8)
    struct.pack_into("<Q", data, first + 16 + -(-size // 8) * 8 + 8, 2**64 - 16)
    path.write_bytes(data)
    return path


def test_a_whole_file_is_readable(tmp_path) -> None:
    check_readable(with_texts(tmp_path / "whole.h5"))


def test_a_file_that_hdf5_never_ends_reading_is_damaged(tmp_path) -> None:
    path = endless(tmp_path / "endless.h5")
    with pytest.raises(FormatError, match=re.escape(f"{path}: damaged: HDF5 hung in its structure, or died of it (signal 24, limit 2 CPU s)")):
        check_readable(path, cpu_s=2)


def test_nothing_is_imported_from_the_folder_that_it_is_asked_in(tmp_path, monkeypatch) -> None:
    path = endless(tmp_path / "endless.h5")
    (tmp_path / "h5py.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="signal 24"):
        check_readable(path, cpu_s=2)


def test_a_file_system_that_hangs_is_bounded_too(tmp_path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)  # opening it waits for a writer
    with pytest.raises(FormatError, match=r"pipe: HDF5 did not get through its structure in 2 s"):
        check_readable(path, wall_s=2)


@pytest.mark.parametrize(("script", "said"), [
    ("#!/bin/sh\nkill -9 $$\n", "was killed (memory?)"), ("#!/bin/sh\necho no module >&2\nexit 1\n", "failed: no module")])
def test_a_process_that_could_not_look_is_no_verdict(tmp_path, monkeypatch, script, said) -> None:
    python = tmp_path / "python"
    python.write_text(script)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(EnvironmentFault, match=re.escape(said)):
        check_readable(with_texts(tmp_path / "whole.h5"))


@pytest.mark.parametrize("found", ["no HDF5 file", "missing"])
def test_other_faults_are_left_to_the_reader_that_says_where(tmp_path, found) -> None:
    path = tmp_path / "other.h5"
    if found != "missing":
        path.write_bytes(b"text")
    check_readable(path)


@pytest.mark.parametrize("verb", [["audit"], ["report"], ["status"]])
def test_the_verbs_ask_before_they_read(tmp_path, verb, monkeypatch, capsys) -> None:
    monkeypatch.setattr("enclaveml.hdf5_probe.check_readable", refuse)
    from enclaveml import cli

    assert cli.main([*verb, str(with_texts(tmp_path / "results.h5"))]) == 4
    assert capsys.readouterr().err.endswith("results.h5: asked\n")


def refuse(path: Path) -> None:
    raise FormatError(f"{path}: asked")
