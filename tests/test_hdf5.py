"""The owner of h5py: what it writes, what it refuses, and its error texts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from enclaveml import hdf5
from enclaveml.errors import EnvironmentFault, FormatError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.h5"


def test_write_and_read(path):
    with hdf5.create(path) as file:
        hdf5.write(file, "g/a", np.arange(3), long_name="numbers", units="m")
        hdf5.write(file, "g/b", shape=(2, 2), dtype="f4", fill=np.nan, long_name="later", units="1")
        hdf5.write(
            file, "e", np.array([1, 0], hdf5.enum_dtype({"no": 0, "yes": 1})), long_name="enum", units="1"
        )
        hdf5.attribute(file, "job", "é" * 200_000)  # beyond the 64 KiB of HDF5's old attributes
        hdf5.attribute(file, "odd", "a\0b\ud800")
    with hdf5.open_read(path) as file:
        assert hdf5.members(file) == ["g", "e"] and hdf5.members(file, "g") == ["a", "b"]
        assert hdf5.members(file, "none") == []
        assert file["g/a"].attrs["long_name"] == "numbers" and file["g/a"].attrs["units"] == "m"
        assert hdf5.stored(file, "g/a")[:].tolist() == [0, 1, 2] and np.isnan(file["g/b"][:]).all()
        assert hdf5.enum_names(file["e"]) == {"no": 0, "yes": 1} and hdf5.enum_names(file["g/a"]) is None
        assert hdf5.get_attribute(file, "job", str) == "é" * 200_000
        assert hdf5.get_attribute(file, "odd", str) == r"a\0b\ud800"
        assert list(hdf5.list_datasets(file)) == ["e", "g/a", "g/b"]


def test_texts(path):
    long = "é" * 300
    values = ["", "plain", "a\0b", "\ud800", long]
    with hdf5.create(path) as file:
        hdf5.write(file, "t", hdf5.texts(values), long_name="t", units="1")
        hdf5.write(file, "none", hdf5.texts([]), long_name="t", units="1")
    with hdf5.open_read(path) as file:
        read = file["t"].asstr()[:].tolist()
        assert read[:4] == ["", "plain", r"a\0b", r"\ud800"]
        assert read[4] == "é" * 248 + "..." and len(read[4].encode()) <= hdf5.TEXT_LIMIT
        assert file["none"].shape == (0,)


def test_open_read_refusals(path):
    with pytest.raises(EnvironmentFault) as caught:
        hdf5.open_read(path)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"
    path.write_bytes(b"text")
    with pytest.raises(FormatError) as format_error:
        hdf5.open_read(path)
    assert str(format_error.value) == f"{path}: is no HDF5 file (its signature is missing)"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(1000)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(FormatError) as format_error:
        hdf5.open_read(path)
    assert str(format_error.value).startswith(f"{path}: damaged, HDF5 says: ")


def test_a_file_that_is_there_is_not_replaced(path):
    path.touch()
    with pytest.raises(EnvironmentFault) as caught, hdf5.create(path):
        pass
    assert str(caught.value) == f"{path}: exists already; remove it if no job is writing it"


@pytest.mark.parametrize(
    "error, text",
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "No space left on device; make room, then --resume",
        ),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "Disk quota exceeded; make room, then --resume"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (OSError("odd"), "odd"),
    ],
)
def test_writing_errors(path, error, text):
    with pytest.raises(EnvironmentFault) as caught, hdf5.writing(path):
        raise error
    assert str(caught.value) == f"{path}: cannot be written: {text}"


def test_our_own_errors_pass_unchanged(path):
    for context in (hdf5.reading, hdf5.writing):
        with pytest.raises(FormatError, match="^mine$"), context(path):
            raise FormatError("mine")
    with pytest.raises(FormatError) as caught, hdf5.reading(path, "/a"):
        raise KeyError("no such thing")
    assert str(caught.value) == f"{path}: /a: damaged, HDF5 says: no such thing"


def test_attribute_refusals(path):
    with h5py.File(path, "w") as file:
        hdf5.attribute(file, "n", 3)
        file.attrs["array"] = [1, 2]
        for name, text in (
            ("none", "missing"),
            ("array", "is ndarray, expected str"),
            ("n", "is int, expected str"),
        ):
            with pytest.raises(FormatError) as caught:
                hdf5.get_attribute(file, name, str)
            assert str(caught.value) == f"{path}: /: attribute {name}: {text}"
        assert hdf5.get_attribute(file, "n", int) == 3


def test_stored_refuses_what_is_not_in_the_file(path):
    with h5py.File(path, "w") as file:
        file["g/x"] = np.arange(3)
        file.create_dataset("chunked", data=np.arange(3), chunks=(1,))
        file.create_dataset("vlen", data=["a"], dtype=h5py.string_dtype())
        file.create_dataset("outside", shape=(3,), dtype="u1", external=[("/etc/hostname", 0, 3)])
        layout = h5py.VirtualLayout((3,), "i8")
        layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
        file.create_virtual_dataset("virtual", layout)
        file["soft"], file["away"] = h5py.SoftLink("/g"), h5py.ExternalLink("other.h5", "/x")
        for name, text in (
            ("none", "missing"),
            ("g/x/y", "missing"),
            ("g", "is a group, expected a dataset"),
            ("chunked", "is not stored contiguously in this file"),
            ("vlen", "has elements of variable length"),
            ("outside", "is not stored contiguously in this file"),
            ("virtual", "is not stored contiguously in this file"),
            ("soft/x", "is a link to somewhere else"),
            ("away", "is a link to somewhere else"),
        ):
            with pytest.raises(FormatError) as caught:
                hdf5.stored(file, name)
            assert str(caught.value) == f"{path}: /{name}: {text}"
        with pytest.raises(FormatError) as caught:
            hdf5.subgroup(file, "g/x")
        assert str(caught.value) == f"{path}: /g/x: missing"


@pytest.mark.parametrize("limit", [5_000, 100_000, 300_000, 1_500_000])
def test_a_full_disk_is_an_error_and_no_crash(path, limit):
    """HDF5 itself would end the process with a segmentation fault; at several places of the file."""
    code = f"""
import resource
import numpy as np
from enclaveml import hdf5
from enclaveml.errors import EnvironmentFault
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with hdf5.create({str(path)!r}) as file:
        for i in range(20):
            dataset = hdf5.write(
                file, f"g{{i}}/early", shape=(5000,), dtype="f8", fill=np.nan, long_name="x", units="1")
            hdf5.write(file, f"g{{i}}/now", np.arange(5000.0), long_name="x", units="1")
            dataset[:] = 1
except EnvironmentFault as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: cannot be written: File too large; make room, then --resume\n"
