"""Datasets: formats, conversions, and every refusal word for word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaveml.datasets import Dataset, Part, from_json, open_dataset
from enclaveml.errors import EnclaveError, JobError

X = np.arange(24, dtype=np.float64).reshape(4, 2, 3) / 7
Y = np.array([3, 1, 0, 2])


def write(folder: Path, ending: str, **arrays: np.ndarray) -> Path:
    path = folder / f"data{ending}"
    if ending == ".npy":
        np.save(path, arrays["x"])
    elif ending == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
    return path


def refusal(call, *args) -> str:
    with pytest.raises(JobError) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_rows_in_every_format(tmp_path, ending):
    path = write(tmp_path, ending, x=X, y=Y)
    with open_dataset(path, labels=None if ending == ".npy" else "y") as data:
        assert (data.rows, data.row_shape, data.dtype) == (4, (2, 3), np.float32)
        assert data.read(1, 3).flags.c_contiguous and data.read(1, 3).dtype == np.float32
        np.testing.assert_array_equal(data.read(1, 3), X[1:3].astype(np.float32))
        np.testing.assert_array_equal(data.read_rows([3, 0, 3]), X[[3, 0, 3]].astype(np.float32))
        assert data.read(2, 2).shape == data.read_rows([]).shape == (0, 2, 3)
        if ending != ".npy":
            np.testing.assert_array_equal(data.labels(), Y)
        assert [(start, len(rows)) for start, rows in data.tiles(3)] == [(0, 3), (3, 1)]
        with pytest.raises(IndexError, match=r"^rows \[3, 5\) of 4$"):
            data.read(3, 5)
        with pytest.raises(IndexError, match=r"^row 4 of 4$"):
            data.read_rows([0, 4])


def test_same_rows_have_the_same_fingerprint_in_every_format(tmp_path):
    prints = {open_dataset(write(tmp_path, ending, x=X)).fingerprint() for ending in (".npy", ".npz", ".h5")}
    np.save(tmp_path / "f32.npy", X.astype(np.float32))
    prints.add(open_dataset(tmp_path / "f32.npy").fingerprint())
    np.save(tmp_path / "fortran.npy", np.asfortranarray(X))
    prints.add(open_dataset(tmp_path / "fortran.npy").fingerprint())
    assert len(prints) == 1


def test_fingerprint_depends_on_values_shape_type_and_key(tmp_path):
    changed = X.copy()
    changed[3, 1, 2] += 1
    variants = [
        X,
        changed,
        X.reshape(4, 6),
        X.reshape(4, 6)[:, ::-1],
        X[:3],
        np.zeros((4, 2, 3), np.int64),
        np.zeros((4, 2, 3), np.float32),
    ]
    prints = []
    for i, values in enumerate(variants):
        np.save(tmp_path / f"{i}.npy", values)
        prints.append(open_dataset(tmp_path / f"{i}.npy").fingerprint())
    data = open_dataset(tmp_path / "0.npy")
    prints += [data.fingerprint(b"key"), data.fingerprint(b"other")]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "stored, read",
    [
        ("float16", "float32"),
        ("float64", "float32"),
        ("uint8", "float32"),
        ("bool", "float32"),
        ("int8", "int32"),
        ("uint16", "int32"),
        ("int64", "int32"),
        (">i4", "int32"),
        (">f8", "float32"),
    ],
)
def test_conversion(tmp_path, stored, read):
    values = np.array([[0, 1], [1, 0]]).astype(stored)
    np.save(tmp_path / "x.npy", values)
    rows = open_dataset(tmp_path / "x.npy").read(0, 2)
    assert rows.dtype == np.dtype(read)
    np.testing.assert_array_equal(rows, [[0, 1], [1, 0]])


def test_scattered_rows_of_hdf5(tmp_path):
    values = np.arange(500, dtype=np.float32).reshape(-1, 1)
    data = open_dataset(write(tmp_path, ".h5", x=values))
    wanted = np.array([499, 0, 17, 18, 40, 18])
    np.testing.assert_array_equal(data.read_rows(wanted)[:, 0], wanted)


def test_reading_gives_copies(tmp_path):
    data = open_dataset(write(tmp_path, ".npz", x=X.astype(np.float32)))
    data.read(0, 4)[:] = 0
    np.testing.assert_array_equal(data.read(0, 4), X.astype(np.float32))


def test_several_inputs_are_joined(tmp_path):
    path = write(tmp_path, ".npz", a=X, b=np.arange(4.0), y=Y)
    data = open_dataset(path, ("a", "b"))
    assert data.row_shape == (7,)
    assert [(p.key, p.row_shape, p.start, p.stop) for p in data.parts] == [
        ("a", (2, 3), 0, 6),
        ("b", (), 6, 7),
    ]
    np.testing.assert_array_equal(data.read(1, 2), np.append(X[1], 1.0).astype(np.float32)[None])


def test_refusals_about_keys(tmp_path):
    path = write(
        tmp_path, ".npz", images=X, target=Y, short=X[:3], none=np.zeros((0, 3)), scalar=np.array(1.0)
    )
    listing = (
        "'images' (4, 2, 3) float64, 'target' (4,) int64, 'short' (3, 2, 3) float64, 'none' (0, 3) float64, "
        "'scalar' () float64"
    )
    assert refusal(open_dataset, path) == (
        f"{path}: input.key: say which array holds the rows; the file has {listing}"
    )
    assert refusal(open_dataset, path, "Image") == (
        f"{path}: input.key: no array 'Image'; the file has {listing}; nearest: 'images'"
    )
    assert refusal(open_dataset, path, "images", "tarjet") == (
        f"{path}: input.labels: no array 'tarjet'; the file has {listing}; nearest: 'target'"
    )
    assert refusal(open_dataset, path, "none") == f"{path}: input.key: 'none' has no rows: shape (0, 3)"
    assert refusal(open_dataset, path, "scalar") == (
        f"{path}: input.key: 'scalar' is a single number; its first axis must be the rows"
    )
    assert (
        refusal(open_dataset, path, "short", "target")
        == f"{path}: input.labels: there are 4 labels for 3 rows"
    )
    assert refusal(open_dataset, path, "target", "images") == (
        f"{path}: input.labels: 'images' has shape (4, 2, 3); expected one number per row"
    )
    assert refusal(open_dataset, path, ("images", "short")) == (
        f"{path}: input.key: inputs must have as many rows as each other; 'images' has 4, 'short' has 3"
    )
    assert (
        refusal(open_dataset, path, ())
        == f"{path}: input.key: is an empty list; leave it out or name an array"
    )


def test_refusals_in_hdf5(tmp_path):
    path = write(tmp_path, ".h5", **{"group/x": X, "text": np.array([b"a"])})
    assert open_dataset(path, "/group/x").rows == 4
    assert refusal(open_dataset, path, "x") == (
        f"{path}: input.key: no dataset 'x'; the file has 'group/x' (4, 2, 3) float64, 'text' (1,) |S1"
    )
    assert refusal(open_dataset, path, "text") == (
        f"{path}: input.key: 'text' holds text (|S1); allowed: floats, integers, booleans"
    )
    (tmp_path / "no.h5").write_bytes(b"not HDF5")
    assert refusal(open_dataset, tmp_path / "no.h5") == (
        f"{tmp_path / 'no.h5'}: is no HDF5 file (its signature is missing)"
    )


@pytest.mark.parametrize(
    "values, text",
    [
        (np.array([object()]), "holds Python objects (a pickle), which are never loaded (object)"),
        (np.array([1j]), "is complex (complex128)"),
        (np.array(["a"]), "holds text (<U1)"),
        (np.zeros(1, [("a", "f4")]), "is a compound type ([('a', '<f4')])"),
        (np.array(["2020-01-01"], "M8[D]"), "holds dates (datetime64[D])"),
    ],
)
def test_refused_types(tmp_path, values, text):
    np.save(tmp_path / "x.npy", values, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=values)
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        assert (
            refusal(open_dataset, path)
            == f"{path}: input.key: 'x' {text}; allowed: floats, integers, booleans"
        )


def test_refused_values(tmp_path):
    values = np.zeros((5, 2, 3))
    values[3, 1, 2] = np.nan
    values[4, 0, 0] = -1e38
    path = write(tmp_path, ".npy", x=values)
    data = open_dataset(path)
    assert data.read(0, 3).shape == (3, 2, 3)
    rule = "an input must be a finite number smaller than 1e+38"
    assert refusal(data.read, 2, 5) == (
        f"{path}: input.key: 'x': row 3, element (1, 2) is nan; {rule} (2 such values in the 3 rows read)"
    )
    assert refusal(data.read_rows, [4, 0]) == (
        f"{path}: input.key: 'x': row 4, element (0, 0) is -1e+38; {rule} (1 such values in the 2 rows read)"
    )
    assert refusal(data.fingerprint).startswith(f"{path}: input.key: 'x': row 3")
    np.save(path, np.array([[0.0, np.inf]], np.float16))
    assert refusal(open_dataset(path).read, 0, 1) == (
        f"{path}: input.key: 'x': row 0, column 1 is inf; {rule} (1 such values in the 1 rows read)"
    )
    np.save(path, np.array([[0, 2**31]]))
    assert refusal(open_dataset(path).read, 0, 1) == (
        f"{path}: input.key: 'x': row 0, column 1 is 2147483648; an integer input must fit int32 "
        "(1 such values in the 1 rows read)"
    )
    path = write(tmp_path, ".npz", x=X, y=np.array([0, 1, np.nan, 2]))
    assert refusal(open_dataset, path, "x", "y") == (
        f"{path}: input.labels: 'y': row 2 is nan; a label must be a finite number"
    )


def test_missing_and_damaged_files(tmp_path):
    path = write(tmp_path, ".npz", x=X)
    assert refusal(open_dataset, tmp_path / "date.npz") == (
        f"{tmp_path / 'date.npz'}: input.path: no such file; nearest: 'data.npz'"
    )
    assert refusal(open_dataset, tmp_path / "data.txt") == (
        f"{tmp_path / 'data.txt'}: input.path: has an unknown ending '.txt'; "
        "allowed: .npy, .npz, .csv, .tsv, .h5, .hdf5, .hdf, or a folder of such files"
    )
    path.write_bytes(path.read_bytes()[:-30])
    assert (
        refusal(open_dataset, path) == f"{path}: input.path: is a damaged .npz file: File is not a zip file"
    )
    path = write(tmp_path, ".npy", x=X)
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(open_dataset, path).startswith(f"{path}: input.path: is a damaged .npy file: ")
    path.write_bytes(b"no")
    assert refusal(open_dataset, path).startswith(f"{path}: input.path: data.npy is no .npy file: ")


def folder_of(tmp_path: Path, cuts: list[int], endings: list[str], **arrays: np.ndarray) -> Path:
    """The arrays cut at these rows, a file each; written last file first, since the order is that of the names."""
    (folder := tmp_path / "parts").mkdir()
    edges = list(zip([0, *cuts], [*cuts, len(next(iter(arrays.values())))], endings, strict=True))
    for i, (start, stop, ending) in reversed(list(enumerate(edges))):
        made = write(folder, ending, **{name: value[start:stop] for name, value in arrays.items()})
        made.rename(folder / f"part-{i}{ending}")
    return folder


@pytest.mark.parametrize("endings", [[".npy"] * 6, [".h5", ".npz", ".npy", ".npz", ".h5", ".hdf5"]])
def test_a_folder_is_its_files_one_after_another(tmp_path, endings):
    """More files than stay open, one of them without rows."""
    x = np.random.default_rng(1).standard_normal((23, 2, 3))
    folder = folder_of(tmp_path, [4, 5, 5, 12, 20], endings, x=x)
    (folder / ".hidden").touch(), (folder / "_SUCCESS").touch()
    np.save(tmp_path / "whole.npy", x)
    with open_dataset(folder) as data, open_dataset(tmp_path / "whole.npy") as whole:
        assert (data.rows, data.row_shape) == (23, (2, 3)) and data.fingerprint() == whole.fingerprint()
        for start, stop in [(0, 23), (3, 6), (5, 5), (12, 20), (22, 23)]:
            np.testing.assert_array_equal(data.read(start, stop), whole.read(start, stop))
        rows = np.array([22, 0, 5, 4, 5, 19])
        np.testing.assert_array_equal(data.read_rows(rows), whole.read_rows(rows))
        assert len(data._opened._open) <= 4


def test_a_folder_of_tables(tmp_path):
    (tmp_path / "a.csv").write_text("one,two,class\n1,2,0\n3,4,1\n")
    (tmp_path / "b.csv").write_text("one,two,class\n1.5,2,1\n")
    with open_dataset(tmp_path, labels="class") as data:
        assert data.read(0, 3).tolist() == [[1, 2], [3, 4], [1.5, 2]] and data.labels().tolist() == [0, 1, 1]
    with open_dataset(tmp_path, "one") as data:
        assert data.read_rows([2, 0]).tolist() == [[1.5], [1]]


def test_refused_folders(tmp_path):
    assert refusal(open_dataset, tmp_path) == (
        f"{tmp_path}: input.path: has no data file; allowed endings: .npy, .npz, .csv, .tsv, .h5, .hdf5, .hdf")
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    np.savez(tmp_path / "b.npz", x=X.reshape(4, 6))
    assert refusal(open_dataset, tmp_path, "x") == (
        f"{tmp_path / 'b.npz'}: input.path: 'x' has rows of shape (6,) float64; the first file of the folder, 'a.npz', "
        "has (2, 3) float64")
    assert refusal(open_dataset, tmp_path, "x", "y") == (
        f"{tmp_path / 'b.npz'}: input.path: 'x' has rows of shape (6,) float64; the first file of the folder, 'a.npz', "
        "has (2, 3) float64")
    assert refusal(open_dataset, tmp_path, "y") == (
        f"{tmp_path / 'b.npz'}: input.key: no array 'y'; the file has 'x' (4, 6) float64, the first file of the folder "
        "has one")
    np.savez(tmp_path / "b.npz", x=X.astype(np.float32))
    assert refusal(open_dataset, tmp_path, "x") == (
        f"{tmp_path / 'b.npz'}: input.path: 'x' has rows of shape (2, 3) float32; the first file of the folder, "
        "'a.npz', has (2, 3) float64")
    assert refusal(open_dataset, tmp_path, "z") == (
        f"{tmp_path}: input.key: no array 'z'; the file has 'x' (4, 2, 3) float64, 'y' (4,) int64 (in 'a.npz', the first "
        "of 2 files)")
    (tmp_path / "README.md").touch()
    assert refusal(open_dataset, tmp_path) == (
        f"{tmp_path}: input.path: 'README.md' is no data file; allowed in a folder of data: files ending in .npy, .npz, "
        ".csv, .tsv, .h5, .hdf5, .hdf, and others if their names begin with '.' or '_'")


def test_bytes_with_a_scale(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(64, 4)
    path = write(tmp_path, ".npy", x=pixels)
    with open_dataset(path, scale=1 / 255) as data:
        assert data.dtype == np.float32
        expected = pixels.astype(np.float32) * np.float32(1 / 255)
        np.testing.assert_array_equal(data.read(0, 64), expected)
        np.testing.assert_array_equal(data.read_rows([3, 1]), expected[[3, 1]])
        with open_dataset(path) as plain:
            assert plain.fingerprint() != data.fingerprint()
    path = write(tmp_path, ".npy", x=X)
    assert refusal(open_dataset, path, None, None, 0.5) == (
        f"{path}: input.scale: is for uint8; 'x' is float64, whose values are the model's inputs as they are. Leave "
        "input.scale out")


def csv(tmp_path, text: str | bytes) -> Path:
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv(tmp_path):
    path = csv(tmp_path, "\ufeffa,b,class\r\n1,2.5,0\r\n\r\n-3e2,4,1\r\n")
    data = open_dataset(path, labels="class")
    assert (data.rows, data.row_shape, data.dtype) == (2, (2,), np.float32)
    np.testing.assert_array_equal(data.read(0, 2), [[1, 2.5], [-300, 4]])
    assert data.labels().dtype == np.int64 and list(data.labels()) == [0, 1]
    np.testing.assert_array_equal(open_dataset(path, ("b", "a")).read(0, 1), [[2.5, 1]])
    assert open_dataset(csv(tmp_path, "1,2\n3,4\n5,6")).read(0, 3).tolist() == [[1, 2], [3, 4], [5, 6]]
    (tmp_path / "t.tsv").write_text("1\t2\n")
    assert open_dataset(tmp_path / "t.tsv").row_shape == (2,)


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("a,b\n1,2\n3\n", ":3", "has 1 values, the first line has 2"),
        ("a,b\n1,x\n", ":2", "column 1 (b): 'x' is no number"),
        ("1,2\n1,\n", ":2", "column 1: a value is missing"),
        ("1,2\n1,1_000\n", ":2", "column 1: '1_000' is no number"),
        (
            "a,1\n2,3\n",
            ":1",
            "column 0: 'a' is no number, but others in this line are (a header may not hold numbers)",
        ),
        (
            "0,1,2\n2,3,4\n",
            ":1",
            "is 0, 1, 2, ...: if these are column numbers, give the columns names; "
            "if they are data, add a header line before them",
        ),
        (",a\n0,1\n", ":1", "column 0 has no name (an index written by pandas? use index=False)"),
        ("a,a\n0,1\n", ":1", "column 1: the name 'a' is there twice"),
        ("", "", "is empty"),
        ("\n\n", "", "is empty"),
        ("a,b\n", "", "has a header line and no rows"),
        (b"a\n\xff\n", "", "is no UTF-8 text: invalid start byte"),
        ('a\n"1\n', "", "is no CSV file: unexpected end of data"),
    ],
)
def test_csv_refusals(tmp_path, text, line, message):
    path = csv(tmp_path, text)
    assert refusal(open_dataset, path) == f"{path}{line}: input.path: {message}"


def test_csv_refusals_about_columns(tmp_path):
    path = csv(tmp_path, "alpha,beta\n1,nan\n")
    assert refusal(open_dataset, path, None, "Beta ") == (
        f"{path}: input.labels: no column 'Beta '; the file has 'alpha', 'beta'; nearest: 'beta'"
    )
    assert refusal(open_dataset(path).read, 0, 1) == (
        f"{path}: input.key: 'columns': row 0, column 1 is nan; an input must be a finite number "
        "smaller than 1e+38 "
        "(1 such values in the 1 rows read)"
    )
    assert refusal(open_dataset, csv(tmp_path, "y\n1\n"), None, "y") == (
        f"{path}: input.key: no column is left beside the labels"
    )
    assert refusal(open_dataset, csv(tmp_path, "5,6\n"), None, "y") == (
        f"{path}: input.labels: no column 'y'; the file has '0', '1' (no header line: columns are numbered)"
    )
    assert open_dataset(path, labels="1").labels().tolist() == [6]


def test_from_json(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"data": [0, 1.5, 2, 3, 4, 5, 6, 7], "sample_size": 4}')
    data = from_json(path, (2, 2))
    assert isinstance(data, Dataset) and (data.rows, data.row_shape, data.dtype) == (2, (2, 2), np.float32)
    np.testing.assert_array_equal(data.read(0, 1), [[[0, 1.5], [2, 3]]])
    path.write_text('{"data": [5, 6.0], "sample_size": 1}')
    assert from_json(path, (1,), "int32").read(0, 2).tolist() == [[5], [6]]


def test_from_json_with_ids_beside_numbers(tmp_path):
    path, parts = tmp_path / "s.json", (Part("ids", (2,), 0, 2, "int32"), Part("x", (1,), 2, 3))
    path.write_text('{"data": [4, 1, 0.5, 0, 2, 1.5], "sample_size": 3}')
    data = from_json(path, (3,), "float32", parts)
    assert (data.parts, data.dtype, data.row_shape) == (parts, np.float32, (3,))
    assert data.read(0, 2).tolist() == [[4, 1, 0.5], [0, 2, 1.5]]
    path.write_text('{"data": [4, 1.5, 0.5], "sample_size": 3}')
    with pytest.raises(JobError) as caught:
        from_json(path, (3,), "float32", parts)
    assert str(caught.value) == f"{path}: data: element 1 is 1.5; the model takes whole numbers there"


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", ': is no JSON object; expected {"data": [numbers], "sample_size": 2}'),
        ('{"data": []}', ": sample_size: missing; found 'data'"),
        ("{}", ": data: missing; found nothing"),
        (
            '{"data": [1, 2], "sample_size": 3}',
            ": sample_size: is 3; the model takes 2 numbers a row (shape (2,))",
        ),
        (
            '{"data": [1, 2, 3], "sample_size": 2}',
            ": data: has 3 numbers; expected a multiple of sample_size, 2, and not 0",
        ),
        (
            '{"data": [], "sample_size": 2}',
            ": data: has 0 numbers; expected a multiple of sample_size, 2, and not 0",
        ),
        (
            '{"data": [[1, 2]], "sample_size": 2}',
            ": data: element 0 is list; expected a flat list of numbers",
        ),
        (
            '{"data": [1, true], "sample_size": 2}',
            ": data: element 1 is bool; expected a flat list of numbers",
        ),
        ('{"data": "12", "sample_size": 2}', ": data: is str; expected a flat list of numbers"),
        (
            '{"data": [1, NaN], "sample_size": 2}',
            ": input.key: 'data': row 0, column 1 is nan; an input must be a finite "
            "number smaller than 1e+38 (1 such values in the 1 rows read)",
        ),
        (
            '{"data": [1, 1' + "0" * 400 + '], "sample_size": 2}',
            ": data: has an integer too large for a number",
        ),
        ("{", ": is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_from_json_refusals(tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    assert refusal(from_json, path, (2,)) == f"{path}{message}"


def test_from_json_refuses_fractions_for_token_ids(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"data": [1, 2.5], "sample_size": 2}')
    assert (
        refusal(from_json, path, (2,), "int32")
        == f"{path}: data: element 1 is 2.5; this model takes whole numbers"
    )


@given(st.sampled_from([".npy", ".npz", ".csv", ".h5"]), st.binary(max_size=400), st.booleans())
def test_any_bytes_raise_our_errors_only(tmp_path_factory, ending, noise, valid_start):
    path = tmp_path_factory.mktemp("fuzz") / f"x{ending}"
    start = (
        b"\x93NUMPY\x01\x00"
        if ending == ".npy"
        else b"PK\x03\x04"
        if ending == ".npz"
        else b"\x89HDF\r\n\x1a\n"
    )
    path.write_bytes((start if valid_start else b"") + noise)
    try:
        with open_dataset(path) as data:
            data.read(0, data.rows)
    except EnclaveError:
        pass


def test_import_needs_no_h5py():
    code = (
        "import sys, enclaveml.datasets, enclaveml.journal, enclaveml.provenance; "
        "sys.exit(bool({'h5py', 'jax', 'mpi4py', 'ezkl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_inputs_of_two_types_are_joined_as_float32(tmp_path):
    path = tmp_path / "both.npz"
    np.savez(path, ids=np.array([[1, 1 << 24], [3, -4]]), x=np.array([[0.5], [1.5]]), large=np.array([5, (1 << 24) + 1]),
             pixels=np.array([[7], [8]], np.uint8))
    with open_dataset(path, ("ids", "x", "pixels")) as data:
        assert data.dtype == np.float32 and [part.dtype for part in data.parts] == ["int32", "float32", "float32"]
        assert data.read(0, 2).tolist() == [[1, 1 << 24, 0.5, 7], [3, -4, 1.5, 8]]
    with open_dataset(path, ("ids", "large")) as data:
        assert data.dtype == np.int32 and data.read(1, 2).tolist() == [[3, -4, (1 << 24) + 1]]
    with open_dataset(path, ("x", "large")) as data:
        assert refusal(data.read, 0, 2) == (
            f"{path}: input.key: 'large': row 1 is 16777217; an integer beside float inputs must be from -16777216 to 16777216, where "
            "float32 is exact (1 such values in the 2 rows read)")
