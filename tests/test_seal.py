"""The seal: RFC 6962's tree, every kind of change found and located, signatures."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from results_case import CIRCUIT, Case

from enclaveml import hdf5, merkle, seal, signature
from enclaveml.errors import EnvironmentFault
from enclaveml.results import build_results, read_results
from enclaveml.results_schema import RowStatus


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def of(leaves: list[bytes]) -> bytes:
    return merkle.root_of([np.frombuffer(b"".join(leaves), np.uint8).reshape(-1, 32)])


def rfc(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: split at the largest power of two below n."""
    if not leaves:
        return sha()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha(b"\1", rfc(leaves[:k]), rfc(leaves[k:]))


@pytest.mark.parametrize("n", range(0, 18))
def test_the_tree_is_rfc_6962s(n: int) -> None:
    leaves = [sha(bytes([i])) for i in range(n)]
    assert of(leaves) == rfc(leaves)


@given(st.lists(st.integers(0, 40), max_size=6), st.sampled_from([1, 2, 8]))
def test_a_tree_grows_a_block_at_a_time(sizes: list[int], block: int) -> None:
    leaves = [sha(bytes([i % 256, i // 256])) for i in range(sum(sizes))]
    tree, at = merkle.MerkleTree(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merkle, "BLOCK", block)
        for size in sizes:
            tree.add(np.frombuffer(b"".join(leaves[at : at + size]), np.uint8).reshape(-1, 32))
            at += size
        assert tree.root() == rfc(leaves)


def whole(tmp_path: Path, strategy: str = "by_capacity", end: str = "complete", sign=None) -> Path:
    case = Case(tmp_path / "j", 9, 3, strategy)
    for rank in (1, 2) if strategy == "redundant" else (1,):
        case.outputs(rank, list(range(9)))
    case.bundle(1, [0, 1, 2, 3])
    case.bundle(1, [4, 5, 6, 7])
    case.bundle(1, [8], RowStatus.REJECTED)
    case.end(end)
    out = tmp_path / "results.h5"
    build_results(tmp_path / "j", out, combined={"result": np.zeros(3), "outputs": np.zeros((9, 3))},
                  labels=np.arange(9), sign=sign)
    return out


def check(path: Path) -> seal.SealCheck:
    with hdf5.open_read(path) as file:
        return seal.check_seal(file)


def said(path: Path) -> list[str]:
    return [f"{c.where} {c.text}" for c in check(path).changes]


def test_an_untouched_file_has_its_seal(tmp_path) -> None:
    path = whole(tmp_path)
    found = check(path)
    assert found.sealed and found.changes == () and len(found.root) == 64
    with hdf5.open_read(path) as file:
        assert merkle.root_of(seal.leaves(file).blocks()).hex() == found.root


@pytest.mark.parametrize("status", ["resumable", "failed"])
def test_a_job_that_did_not_finish_is_readable_and_not_sealed(tmp_path, status: str) -> None:
    path = whole(tmp_path, end=status)
    assert check(path) == seal.SealCheck(False)
    with read_results(path) as results:
        assert results.status.value == status


OTHER = "has other content than when it was sealed"


@pytest.mark.parametrize(
    ("place", "index", "value", "expected"),
    [
        ("outputs", (5, 1), 7.0, [f"/outputs {OTHER}: row 5"]),
        ("proved_outputs", (8, 0), 7.0, [f"/proved_outputs {OTHER}: row 8"]),
        ("row/status", 3, 0, [f"/row/status {OTHER}: row 3"]),
        ("row/label", 0, 4, [f"/row/label {OTHER}: row 0"]),
        ("combined/outputs", (2, 2), 1.0, [f"/combined/outputs {OTHER}: row 2"]),
        ("combined/result", 1, 1.0, [f"/combined/result {OTHER}"]),
        ("proofs/bytes", 12, 0, [f"/proofs/bytes {OTHER}: bundle 1"]),
        ("proofs/rows", 8, 1, [f"/proofs/rows {OTHER}: bundle 2"]),
        ("proofs/rank", 0, 2, [f"/proofs/rank {OTHER}: bundle 0"]),
        ("ranks/rows", 0, 2, [f"/ranks/rows {OTHER}"]),
        (f"keys/{CIRCUIT}/vk", 0, 0, [f"/keys/{CIRCUIT}/vk {OTHER}"]),
    ],
)
def test_a_changed_value_is_located(tmp_path, place, index, value, expected) -> None:
    path = whole(tmp_path)
    with h5py.File(path, "r+") as file:
        file[place][index] = value
    assert said(path) == expected


def test_answers_are_located(tmp_path) -> None:
    path = whole(tmp_path, "redundant")
    with h5py.File(path, "r+") as file:
        file["replicas/output"][17, 0] = 1
    assert said(path) == [f"/replicas/output {OTHER}: answer 17"]


def test_swapped_rows_and_bundles(tmp_path) -> None:
    path = whole(tmp_path)
    with h5py.File(path, "r+") as file:
        values = file["outputs"][()]
        file["outputs"][[2, 6]] = values[[6, 2]]
        ids = file["proofs/id"][()]
        file["proofs/id"][:] = ids[[1, 0, 2]]
    assert said(path) == [f"/outputs {OTHER}: rows 2, 6", f"/proofs/id {OTHER}: bundles 0-1"]


def remove(file: h5py.File) -> None:
    del file["combined/result"]


def rename(file: h5py.File) -> None:
    file.move("row/rank", "row/rnk")


def attribute(file: h5py.File) -> None:
    file.attrs["message"] = "fine"
    file["outputs"].attrs["units"] = "m"
    file.attrs["new"] = 1
    del file.attrs["counter"]


def shorten(file: h5py.File) -> None:
    for name in list(file["row"]):
        values = file["row"][name][:8]
        del file["row"][name]
        file["row"][name] = values


def link(file: h5py.File) -> None:
    file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove, ["/combined/result was removed", "/combined/result: attribute long_name was removed",
                  "/combined/result: attribute units was removed"]),
        (rename, ["/row/rank was removed", "/row/rank: attribute long_name was removed",
                  "/row/rank: attribute units was removed", "/row/rnk was added",
                  "/row/rnk: attribute long_name was added", "/row/rnk: attribute units was added"]),
        (attribute, ["/: attribute counter was removed",
                     "/: attribute message has another value or type than when it was sealed",
                     "/: attribute new was added",
                     "/outputs: attribute units has another value or type than when it was sealed"]),
        (link, ["/elsewhere was added"]),
    ],
)
def test_added_removed_and_renamed(tmp_path, change, expected) -> None:
    path = whole(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    assert said(path) == expected


def test_fewer_rows(tmp_path) -> None:
    path = whole(tmp_path)
    with h5py.File(path, "r+") as file:
        shorten(file)
    assert "/row has 8 rows, 9 were sealed" in said(path)


@pytest.mark.parametrize("what", ["root", "leaf", "path", "extra", "signature"])
def test_a_damaged_seal(tmp_path, what: str) -> None:
    path = whole(tmp_path)
    with h5py.File(path, "r+") as file:
        group = file["seal"]
        if what == "root":
            group.attrs["root"] = "0" * 64
        elif what == "leaf":
            group["leaf"][3, 3] ^= 1
        elif what == "path":
            group["path"][0] = b"zzz"
        elif what == "extra":
            group["more"] = np.zeros(3)
        else:
            group.attrs["other"] = 1
    (change,) = check(path).changes
    assert change.where == "/seal" and change.text.startswith("the seal is damaged: ")


def test_a_seal_that_forgets_a_dataset_is_found_by_its_root(tmp_path) -> None:
    """The leaves and their root stay, signed or not; only the name that a leaf is compared under is another."""
    path = whole(tmp_path)
    with h5py.File(path, "r+") as file:
        names = [bytes(n) for n in file["seal/path"][()]]
        last = len(names) - 1 - names[::-1].index(b"ranks/rows")
        file["seal/path"][last] = b"ranks/rows_"
        file["ranks/rows"][0] = 99
    assert said(path) == ["/ranks/rows was added", "/ranks/rows_ was removed"]


@pytest.fixture
def key(tmp_path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    return path


def signer(path: Path):
    key = signature.load_signing_key(path)
    return lambda root: signature.sign(key, root)


def test_a_signature_holds_for_its_key_and_root_alone(tmp_path, key) -> None:
    found = check(whole(tmp_path, sign=signer(key)))
    public, made, root = (bytes.fromhex(t) for t in (found.public_key, found.signature, found.root))
    assert signature.holds(public, made, root)
    assert not signature.holds(public, made, bytes(32))
    assert not signature.holds(bytes(32), made, root)
    assert not signature.holds(public, made[:-1], root)


def test_openssh_keys(tmp_path, key) -> None:
    """A key as ssh-keygen writes it; the public half from its .pub line and from raw bytes."""
    made = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "ssh")], check=False) \
        if any(os.access(Path(p) / "ssh-keygen", os.X_OK) for p in os.environ["PATH"].split(os.pathsep)) else None
    if made is None:
        from cryptography.hazmat.primitives import serialization as s
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.generate()
        (tmp_path / "ssh").write_bytes(
            private.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()))
        (tmp_path / "ssh.pub").write_bytes(
            private.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH) + b" me@here\n")
    (tmp_path / "ssh").chmod(0o600)
    assert signature.key_problem(tmp_path / "ssh") == ""
    public, made = signature.sign(signature.load_signing_key(tmp_path / "ssh"), b"r" * 32)
    assert signature.load_public_key(tmp_path / "ssh.pub") == public
    (tmp_path / "raw").write_bytes(public)
    assert signature.load_public_key(tmp_path / "raw") == public
    assert signature.holds(public, made, b"r" * 32)


def test_what_is_no_key(tmp_path, key) -> None:
    wanted = "allowed: an Ed25519 key: 32 raw bytes, or an OpenSSH key without a passphrase"
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    problem = signature.key_problem(tmp_path / "text")
    assert problem.startswith("is no key that can sign (") and problem.endswith(f"; {wanted}")
    (tmp_path / "large").write_bytes(bytes(70000))
    assert signature.key_problem(tmp_path / "large") == f"is no key (more than 65536 bytes); {wanted}"
    key.chmod(0o644)
    assert signature.key_problem(key) == "others may read it (mode 644); make it 0600"
    with pytest.raises(EnvironmentFault) as caught:
        signature.load_public_key(tmp_path / "text")
    assert str(caught.value).endswith("allowed: 32 raw bytes, or a line ssh-ed25519 AAAA...")
    with pytest.raises(EnvironmentFault) as caught:
        signature.load_public_key(tmp_path / "absent")
    assert str(caught.value) == f"{tmp_path}/absent: cannot be read: No such file or directory"


def job_with(folder: Path, written: str):
    from enclaveml.job import load_job

    (folder / "net.py").write_text("class Net: ...\n")
    (folder / "x.npy").write_bytes(b"")
    (folder / "job.yaml").write_text(
        f"model: {{flax: net.py:Net}}\ninput: {{path: x.npy}}\noutput:\n  signing_key: {written}\n")
    return load_job(folder / "job.yaml")


def test_the_jobs_signing_key(tmp_path, key) -> None:
    assert job_with(tmp_path, "key").output.signing_key == key


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("kye", "found 'kye'; no such file in '{folder}'; did you mean 'key'?"),
        ("open", "found 'open'; others may read it (mode 644); make it 0600"),
    ],
)
def test_a_signing_key_that_does_not_serve_is_found_before_the_job(tmp_path, key, written, text) -> None:
    from enclaveml.errors import JobError

    (tmp_path / "open").write_bytes(bytes(32))
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(JobError) as caught:
        job_with(tmp_path, written)
    expected = text.format(folder=tmp_path)
    assert str(caught.value) == f"{tmp_path}/job.yaml:4: output.signing_key: {expected}"
