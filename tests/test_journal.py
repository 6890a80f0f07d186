"""The journal: torn tails at every byte, damage, full disks, locks."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaveml import journal as module
from enclaveml.errors import EnvironmentFault, FormatError, JobError
from enclaveml.job import journal_path
from enclaveml.journal import Journal, read_records, tail, written_here
from enclaveml.journal_format import FIRST


def make(path: Path, records: int = 4) -> list[int]:
    """A journal of small records; returns the offset of each, and of the end."""
    ends = [FIRST]
    with Journal.create(path, overwrite=True) as journal:
        for i in range(records):
            journal.append("note", {"i": i}, rows=np.arange(i), text=b"x" * i)
            ends.append(path.stat().st_size)
    return ends


def numbers(path: Path) -> list[int]:
    return [record.meta["i"] for record in read_records(path)]


def test_round_trip(tmp_path):
    path = journal_path(tmp_path / "results.h5")
    assert path == tmp_path / "results.h5.journal"
    arrays = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.array([True, False]),
        "z": np.zeros((0, 4)),
        "scalar": np.float32(1.5),
        "big": np.arange(3, dtype=">f8"),
        "strided": np.arange(10)[::3],
    }
    with Journal.create(path) as journal:
        journal.append(
            "note",
            {"text": "é\ud800\0", "none": None, "list": [1, {"a": 2.5}]},
            blob=b"\0\xff",
            empty=b"",
            **arrays,
        )
        journal.append("other")
        journal.flush()
    first, second = read_records(path)
    assert (first.kind, first.number, first.offset) == ("note", 0, FIRST)
    assert first.meta == {"text": "é\ud800\0", "none": None, "list": [1, {"a": 2.5}]}
    assert first.blobs == {"blob": b"\0\xff", "empty": b""}
    for name, value in arrays.items():
        np.testing.assert_array_equal(first.arrays[name], value)
        assert first.arrays[name].dtype == np.asarray(value).dtype.newbyteorder("<")
        assert first.arrays[name].shape == np.shape(value) and not first.arrays[name].flags.writeable
    assert (second.kind, second.meta, second.number) == ("other", {}, 1) and second.time >= first.time
    assert [r.kind for r in read_records(path, kinds={"other"})] == ["other"]


def test_torn_tail_at_every_byte(tmp_path):
    path, copy = tmp_path / "j", tmp_path / "copy"
    ends = make(path)
    whole = path.read_bytes()
    for size in range(FIRST, len(whole)):
        copy.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends) - 1
        assert numbers(copy) == list(range(kept))
        with Journal.open_append(copy) as journal:
            assert copy.stat().st_size == ends[kept]
            journal.append("note", {"i": 99})
        assert numbers(copy) == [*range(kept), 99]


@pytest.mark.parametrize("tail", [b"\0" * 500, b"EMLR" * 40, b"\xff" * 36])
def test_garbage_behind_the_last_record_is_a_torn_tail(tmp_path, tail):
    path = tmp_path / "j"
    ends = make(path)
    with open(path, "ab") as stream:
        stream.write(tail)
    assert numbers(path) == [0, 1, 2, 3]
    Journal.open_append(path).close()
    assert path.stat().st_size == ends[-1]


def test_damage_before_the_tail_at_every_byte(tmp_path):
    path = tmp_path / "j"
    ends = make(path)
    whole = path.read_bytes()
    for at in range(FIRST, ends[3]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        hit = sum(end <= at for end in ends) - 1
        text = (
            f"{path}: record {hit} at byte {ends[hit]} is damaged, and whole records follow it; "
            f"'truncate -s {ends[hit]}' on a copy keeps the {hit} records before it"
        )
        with pytest.raises(FormatError) as caught:
            numbers(path)
        assert str(caught.value) == text
        with pytest.raises(FormatError) as caught:
            Journal.open_append(path)
        assert str(caught.value) == text
        assert path.stat().st_size == len(whole)  # nothing was cut off


def test_a_damaged_last_record_is_cut_off(tmp_path):
    path = tmp_path / "j"
    ends = make(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    Journal.open_append(path).close()
    assert numbers(path) == [0, 1, 2] and path.stat().st_size == ends[3]


def test_a_record_inside_an_envelope_is_no_record(tmp_path):
    """A worker may send bytes that look like a record; behind a torn record they must not count as one."""
    other, path = tmp_path / "other", tmp_path / "j"
    make(other, 2)
    ends = make(path, 2)
    with Journal.open_append(path) as journal:
        journal.append("note", {"i": 2}, envelope=other.read_bytes() + path.read_bytes()[FIRST:])
    data = bytearray(path.read_bytes())
    data[ends[-1] : ends[-1] + 36] = bytes(36)
    path.write_bytes(data)
    assert numbers(path) == [0, 1]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_records_or_format_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "j"
    make(path, 3)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = round(data.draw(st.floats(0, 1)) * (len(content) - 1))  # the length varies with the time stamps
        piece = data.draw(st.binary(max_size=12))
        if data.draw(st.booleans()):
            content[at : at + len(piece)] = piece
        else:
            content[at:at] = piece
    path.write_bytes(content)
    try:
        assert numbers(path) == list(range(len(numbers(path))))
    except FormatError as error:
        assert str(error).startswith(f"{path}: ")


def test_a_claimed_length_allocates_nothing(tmp_path):
    path = tmp_path / "j"
    make(path, 1)
    from enclaveml.journal_format import preamble

    with open(path, "ab") as stream:
        stream.write(preamble(100, 1 << 60, b"d" * 16) + b"little")
    assert numbers(path) == [0]


def test_what_is_no_journal(tmp_path):
    path = tmp_path / "j"
    path.write_bytes(b"something else entirely, long enough")
    with pytest.raises(FormatError) as caught:
        numbers(path)
    assert str(caught.value) == (
        f"{path}: is no EnclaveML journal (it begins with b'somethin', expected b'EMLJRNL1')"
    )
    path.write_bytes(b"EMLJ")
    with pytest.raises(FormatError) as caught:
        Journal.open_append(path)
    assert (
        str(caught.value) == f"{path}: is a journal that was never started (4 bytes); --force starts afresh"
    )
    with pytest.raises(EnvironmentFault) as fault:
        numbers(tmp_path / "none")
    assert str(fault.value) == f"{tmp_path / 'none'}: cannot be read: No such file or directory"


def test_create_keeps_what_is_there(tmp_path):
    path = tmp_path / "j"
    make(path)
    with pytest.raises(JobError) as caught:
        Journal.create(path)
    assert str(caught.value) == f"{path}: exists: --resume goes on with that job, --force starts afresh"
    assert numbers(path) == [0, 1, 2, 3]
    with pytest.raises(EnvironmentFault) as fault:
        Journal.create(tmp_path / "no" / "j")
    assert str(fault.value) == (
        f"{tmp_path / 'no' / 'j'}: cannot be written: No such file or directory; "
        "the folder is not there: make it, or give another output with -o"
    )


def test_private_journal_is_0600(tmp_path):
    before = os.umask(0o022)
    try:
        Journal.create(tmp_path / "p", private=True).close()
        Journal.create(tmp_path / "q").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "q").stat().st_mode) == 0o644


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "j"
    with Journal.create(path):
        assert written_here(path)
        for again in (lambda: Journal.open_append(path), lambda: Journal.create(path, overwrite=True)):
            with pytest.raises(EnvironmentFault) as caught:
                again()
            assert str(caught.value) == f"{path}: another job is writing it; wait for that job or end it"
        assert path.stat().st_size == FIRST
    assert not written_here(path)
    assert not written_here(tmp_path / "nothing")


def test_follow_a_growing_journal(tmp_path):
    path = tmp_path / "j"
    with Journal.create(path) as journal:
        journal.append("note", {"i": 0})
        [(record, offset, salt)] = tail(path)
        assert record.meta["i"] == 0
        assert list(tail(path, offset, 1, salt)) == []
        journal.append("note", {"i": 1})
        [(record, offset, salt)] = tail(path, offset, 1, salt)
        assert (record.meta["i"], record.number) == (1, 1) and offset == path.stat().st_size
    with Journal.create(path, overwrite=True) as journal:  # another job's, in its place
        journal.append("note", {"i": 7})
        [(record, offset, other)] = tail(path, offset, 2, salt)
        assert (record.meta["i"], record.number) == (7, 0) and other != salt


def test_a_reader_of_the_kernels_locks(tmp_path):
    """Only a lock for writing on this very file counts; a waiting one (->) is none."""
    path, locks = tmp_path / "j", tmp_path / "locks"
    path.write_bytes(b"")
    there = path.stat()
    name = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    for text, held in ((f"1: FLOCK  ADVISORY  WRITE 26086 {name} 0 EOF", True),
                       (f"1: FLOCK  ADVISORY  READ 26086 {name} 0 EOF", False),
                       (f"1: POSIX  ADVISORY  WRITE 26086 {name} 0 EOF", False),
                       (f"1: -> FLOCK  ADVISORY  WRITE 26086 {name} 0 EOF", False),
                       (f"1: FLOCK  ADVISORY  WRITE 26086 {name}1 0 EOF", False), ("nonsense", False)):
        locks.write_text(text + "\n")
        assert written_here(path, locks) is held, text
    assert not written_here(path, tmp_path / "none")


@pytest.mark.parametrize(
    "number, text",
    [
        (errno.ENOSPC, "No space left on device; make room, then --resume"),
        (
            errno.EROFS,
            "Read-only file system; the file system is mounted read-only: have it mounted writable, "
            "or give another output with -o",
        ),
        (
            errno.EIO,
            "Input/output error; the disk or network file system fails: see the system's log, then --resume",
        ),
    ],
)
def test_a_failing_disk_loses_nothing_before(tmp_path, monkeypatch, number, text):
    path = tmp_path / "j"
    make(path, 2)
    journal = Journal.open_append(path)
    real, calls = os.pwrite, []

    def full(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data[:10], offset)  # a short write first

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "pwrite", full)
        with pytest.raises(EnvironmentFault) as caught:
            journal.append("note", {"i": 2})
    assert str(caught.value) == f"{path}: cannot be written: {text}"
    assert numbers(path) == [0, 1]
    journal.append("note", {"i": 3})  # room was made
    journal.close()
    assert numbers(path) == [0, 1, 3]


def test_after_a_failed_fsync_nothing_is_taken_any_more(tmp_path, monkeypatch):
    path = tmp_path / "j"
    with Journal.create(path) as journal:

        def fail(descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        text = (
            f"{path}: cannot be written: Input/output error; the disk or network file system fails: "
            "see the system's log, then --resume"
        )
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "fsync", fail)
            with pytest.raises(EnvironmentFault) as caught:
                journal.flush()
        assert str(caught.value) == text
        with pytest.raises(EnvironmentFault) as caught:
            journal.append("note")
        assert str(caught.value) == text
    assert list(read_records(path)) == []


def test_file_size_limit_for_real(tmp_path):
    """A limit that the kernel enforces: what was written before it is whole."""
    path = tmp_path / "j"
    code = f"""
import resource, numpy as np
from enclaveml.errors import EnvironmentFault
from enclaveml.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
journal = Journal.create({str(path)!r})
try:
    for i in range(100):
        journal.append("note", {{"i": i}}, body=np.zeros(1000))
except EnvironmentFault as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        f"{path}: cannot be written: File too large; the file size limit (ulimit -f, or the file "
        "system's) is reached: raise it, then --resume\n"
    ), done.stderr
    assert numbers(path) == list(range(12))
    Journal.open_append(path).close()
    assert numbers(path) == list(range(12))


def test_kill_while_writing(tmp_path):
    path = tmp_path / "j"
    code = f"""
import numpy as np
from enclaveml.journal import Journal
journal = Journal.create({str(path)!r})
i = 0
while True:
    journal.append("note", {{"i": i}}, body=np.zeros(5000))
    print(i, flush=True)
    i += 1
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        seen = -1
        while seen < 50:
            seen = int(process.stdout.readline())
        process.kill()
    found = numbers(path)
    assert found == list(range(len(found))) and len(found) > 50
    with Journal.open_append(path) as journal:
        journal.append("note", {"i": len(found)})
    assert numbers(path) == list(range(len(found) + 1))


@pytest.mark.parametrize(
    "kind, meta, arrays, text",
    [
        ("round", {}, {}, "round record: counter is missing"),
        ("round", {"counter": "1"}, {}, "round record: counter is str, expected int"),
        ("round", {"counter": True}, {}, "round record: counter is bool, expected int"),
        ("rows", {"reason": ""}, {}, "rows record: array rows is missing"),
        (
            "rows",
            {"reason": ""},
            {"rows": np.zeros(2)},
            "rows record: array rows is float64 with 1 dimensions, expected int64 (n)",
        ),
        (
            "rows",
            {"reason": ""},
            {"rows": np.zeros(2, int), "status": np.zeros(3, np.uint8)},
            "rows record: array status has n = 3, others have 2",
        ),
        (
            "circuit",
            {"circuit_id": "a", "manifest": {}},
            {"vk": b"", "srs": b""},
            "circuit record: bytes settings are missing",
        ),
        (
            "bundle",
            {
                "bundle": 1,
                "rank": 1,
                "attempt": 1,
                "round": 0,
                "verdict": "",
                "verify_seconds": "1",
                "circuit_id": "",
            },
            {},
            "bundle record: verify_seconds is str, expected int or float",
        ),
        ("note", {}, {"a": np.array(["x"])}, "note record: array a is <U1, expected numbers"),
    ],
)
def test_records_are_checked_when_written(tmp_path, kind, meta, arrays, text):
    with Journal.create(tmp_path / "j") as journal:
        with pytest.raises(ValueError) as caught:
            journal.append(kind, meta, **arrays)
        assert str(caught.value) == text
    assert list(read_records(tmp_path / "j")) == []


def test_records_are_checked_when_read(tmp_path, monkeypatch):
    path = tmp_path / "j"
    with Journal.create(path) as journal, monkeypatch.context() as patch:
        patch.setattr(module.records, "fault", lambda *_: "")
        journal.append("round")
    with pytest.raises(FormatError) as caught:
        list(read_records(path))
    assert str(caught.value) == f"{path}: record 0 at byte 24: round record: counter is missing"


@pytest.mark.parametrize("size, nothing", [(0, True), (12, True), (24, True), (24 + 40, True), (None, False)])
def test_a_journal_that_was_killed_in_its_first_record_holds_nothing(tmp_path, size, nothing):
    """And is begun afresh by --resume, which must serve a first run that was requeued (found by a fault test)."""
    path = tmp_path / "j"
    with Journal.create(path) as journal:
        journal.append("end", {"status": "complete", "exit_code": 0, "message": "", "finished": "now"})
    if size is not None:
        os.truncate(path, size)
    assert module.holds_nothing(path) is nothing


def test_what_is_no_journal_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "j").write_bytes(b"something else")
    with pytest.raises(FormatError, match="is no EnclaveML journal"):
        module.holds_nothing(tmp_path / "j")
