"""The audit: what it says of honest files, what it finds in dishonest ones, and what it needs to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace as with_
from pathlib import Path

import audit_case
import h5py
import numpy as np
import pytest
from audit_case import N, changed, copied, environment, findings, replace, reseal, run
from small_job import BUNDLE, SmallJob

from enclaveml import cli, seal, signature
from enclaveml.audit_report import Failure
from enclaveml.envelope import decode, encode, output_hash
from enclaveml.errors import EnvironmentFault, FormatError, JobError

pytestmark = pytest.mark.ezkl


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(params=["public", "committed", "hashed"])
def job(request, base, monkeypatch) -> SmallJob:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    return audit_case.small_results(base, request.param)


@pytest.fixture
def public(base, monkeypatch) -> SmallJob:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    return audit_case.small_results(base, "public")


@pytest.fixture
def committed(base, monkeypatch) -> SmallJob:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    return audit_case.small_results(base, "committed")


def mode_of(job: SmallJob) -> str:
    return job.folder.name


# -- honest files ------------------------------------------------------------------


def test_an_honest_file(job) -> None:
    report = run(job.results)
    assert report.failures == [] and report.notes == [] and report.exit_code == 0
    bundles = -(-N // BUNDLE)
    assert (report.rows, report.rows_checked, report.proofs, report.proofs_checked) == (N, N, bundles, bundles)
    assert report.verdict == f"{N} of {N} rows proved, 3 of 3 proofs checked: consistent; no claim about which model"
    limits = "\n".join(report.limits)
    assert "which model this is: no --circuit-id was given" in limits
    assert "the SRS was made by the aggregator itself" in limits
    assert "its seal is not signed" in limits
    unbounded = "some field elements, not necessarily data, since the circuit does not bound its inputs"
    assert (unbounded in limits) == (mode_of(job) != "public")
    assert ("that the inputs in the file are the data that were meant" in limits) == (mode_of(job) == "public")


def test_only_public_inputs_are_in_the_file(job) -> None:
    with h5py.File(job.results) as file:
        assert ("inputs" in file) == (mode_of(job) == "public")
        if "inputs" in file:
            np.testing.assert_array_equal(file["inputs"][()], job.rows)


def test_with_the_inputs_of_their_owner(job) -> None:
    report = run(job.results, inputs=job.folder / "rows.npy")
    assert report.failures == []
    assert report.facts["inputs"] == "3 of 3 proofs checked are about the data given"
    assert not any("inputs" in line for line in report.limits)


def test_with_other_inputs(job, tmp_path) -> None:
    other = job.rows.copy()
    other[5, 2] += np.float32(0.25)
    np.save(tmp_path / "other.npy", other)
    word = {"public": "rows are not those", "committed": "commitment is not that", "hashed": "hash is not that"}
    (found,) = findings(job.results, inputs=tmp_path / "other.npy")
    assert found == f"bundle 1: its proof: its {word[mode_of(job)]} of the inputs given (rows 4-7)"


def test_with_inputs_of_another_length(public, tmp_path) -> None:
    np.save(tmp_path / "other.npy", public.rows[:-1])
    with pytest.raises(JobError) as caught:
        run(public.results, inputs=tmp_path / "other.npy")
    assert str(caught.value) == f"{tmp_path}/other.npy: has 9 rows, {public.results} has 10"


def test_commitments_need_the_whole_srs(committed, tmp_path, monkeypatch) -> None:
    cache = Path(os.environ["ENCLAVEML_CACHE"])
    monkeypatch.setenv("ENCLAVEML_CACHE", str(tmp_path))
    inputs = committed.folder / "rows.npy"
    with pytest.raises(EnvironmentFault) as caught:
        run(committed.results, inputs=inputs)
    assert str(caught.value).endswith("/srs: no such SRS; a commitment to the inputs needs the whole SRS of 2^8 rows that "
                                      "the aggregator used: give it with --srs")
    (own,) = cache.glob("srs/own-8/srs")
    assert run(committed.results, inputs=inputs, srs=own).failures == []
    other = bytearray(own.read_bytes())
    other[-1] ^= 1
    (tmp_path / "other").write_bytes(other)
    with pytest.raises(EnvironmentFault) as caught:
        run(committed.results, inputs=inputs, srs=tmp_path / "other")
    assert str(caught.value) == (f"{tmp_path}/other: is another SRS than the one that these proofs were made with; "
                                 "give that with --srs")


def test_a_sampled_job(base, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ENCLAVEML_CACHE", str(base / "cache"))
    job = audit_case.small_results(base, "sampled")
    report = run(job.results)
    assert report.failures == [] and report.rows_checked == 5
    assert "5 of 10 rows, which are not proved: unproved" in report.limits
    assert "that rows were drawn fairly: the aggregator drew them, and could have drawn again until it suited" in report.limits
    assert "the rows not drawn, if the draw was fair: at 99 % confidence, fewer than 5 of rank-0's 10 rows can be wrong" \
        in report.limits
    with h5py.File(job.results) as file:
        rows, status = file["draws/rows"][()], file["row/status"][()]
    assert sorted(rows.tolist()) == np.flatnonzero(status == 1).tolist()

    def another(file: h5py.File) -> None:
        seed = file["draws/seed"]
        seed[0] = seed[0][::-1]

    path = changed(job, tmp_path, another)
    assert any(text.startswith("draw 0: its rows are not those that its seed draws") for text in findings(path))


def test_the_circuit_id(public) -> None:
    with h5py.File(public.results) as file:
        (circuit,) = file["keys"]
    report = run(public.results, circuit_ids=("1" * 64, circuit.upper()))
    assert report.failures == [] and report.verdict.endswith("proofs checked: of the circuit given")
    assert not any("which model" in line for line in report.limits)
    (found,) = findings(public.results, circuit_ids=("0" * 64,))
    assert found == (f"/keys/{circuit[:16]}: is circuit {circuit}, the one given is {'0' * 64}: its proofs bind these rows "
                     "to no model (rows 0-9)")
    (found,) = findings(public.results, circuit_ids=("0" * 64, "1" * 64))
    assert found.startswith(f"/keys/{circuit[:16]}: is circuit {circuit}, and none of the 2 given: its proofs")


def test_the_tolerance(public) -> None:
    assert findings(public.results, max_tolerance=0.05) == []
    (found,) = findings(public.results, max_tolerance=0.04)
    assert found.endswith("accepts a tolerance of 0.05, more than 0.04")


def test_a_sample_says_what_it_leaves_open(public) -> None:
    report = run(public.results, sample=1)
    assert report.failures == [] and report.proofs_checked == 1 and report.rows_checked in (2, 4)
    assert report.limits[0] == ("the 2 proofs that were not drawn: at 99 % confidence, fewer than 3 of the file's 3 proofs "
                                "can be wrong")
    assert not any("not drawn" in line for line in run(public.results, sample=3).limits)


# -- the command -------------------------------------------------------------------

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "mpi4py", "jax2onnx", "onnx", "safetensors", "tqdm"):
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Block())
from enclaveml.cli import main
code = main(sys.argv[1:])
assert not {m.partition(".")[0] for m in sys.modules} & {"jax", "flax", "mpi4py"}
sys.exit(code)
"""


def test_it_needs_neither_jax_nor_flax_nor_mpi(public, base) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED, "audit", str(public.results), "--json"],
                          env=environment(base / "cache"), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == 0 and document["rows_proved"] == N and document["failures"] == []
    assert document["statuses"]["verified"] == N and document["circuits"][0]["tolerance"] == 0.05


@pytest.fixture
def quiet(monkeypatch):
    """The log as it was: the command line sends it to a stream that ends with the test."""
    monkeypatch.setattr("enclaveml.log.setup", lambda rank: None)


def test_the_text_and_exit_status(public, tmp_path, capsys, quiet) -> None:
    def lie(file: h5py.File) -> None:
        file["outputs"][3, 1] += 1

    assert cli.main(["audit", str(public.results), "--processes", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{public.results}: 10 of 10 rows proved") and "\nNot established:\n  - which model" in text
    path = changed(public, tmp_path, lie)
    assert cli.main(["audit", str(path), "--processes", "1"]) == 3
    text = capsys.readouterr().out
    assert text.startswith(f"{path}: FAILED: 1 thing in this file is not so; rows that fail: 3\n")
    assert "  - bundle 0: /outputs is not what the envelope says (row 3)\n" in text


def test_what_is_no_results_file(tmp_path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(FormatError) as caught:
        run(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path}/x: is no HDF5 file (its signature is missing)"


def test_a_file_without_a_seal_says_so(public, tmp_path) -> None:
    report = run(changed(public, tmp_path, lambda file: None, sealed=False))
    assert report.failures == [] and report.facts["seal"] == "none"
    assert "that nothing outside the proofs was changed later: the file is not sealed" in report.limits


def test_signatures(public, tmp_path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    private = signature.load_signing_key(key)
    public_half = signature.public_bytes(private.public_key())
    (tmp_path / "pub").write_bytes(public_half)
    (tmp_path / "other").write_bytes(bytes(31) + b"\1")
    path = copied(public, tmp_path)
    with h5py.File(path, "r+") as file:
        del file["seal"]
        seal.write_seal(file, lambda root: signature.sign(private, root))
    assert "who made this file: it is signed, and no --public-key was given to check that" in run(path).limits
    report = run(path, public_key=tmp_path / "pub")
    assert report.failures == [] and not any("who made this file" in line for line in report.limits)
    (found,) = findings(path, public_key=tmp_path / "other")
    assert found == f"/seal: the signature is not that of the public key given, {'00' * 31}01"
    assert findings(public.results, public_key=tmp_path / "pub") == ["/seal: is not signed, and a public key was given"]
    with h5py.File(path, "r+") as file:
        file.attrs["message"] = "changed"
    assert findings(path, public_key=tmp_path / "pub") == [
        "/: attribute message: has another value or type than when it was sealed"]
    made = {name: value for name, value in h5py.File(path)["seal"].attrs.items() if name in ("signature", "public_key")}
    reseal(path)
    with h5py.File(path, "r+") as file:  # the old signature on the new seal
        file["seal"].attrs.update(made)
    (found,) = findings(path, public_key=tmp_path / "pub")
    assert found == f"/seal: the signature is not that of the public key given, {public_half.hex()}"


# -- an adversary who seals the file again -------------------------------------------


def envelopes(file: h5py.File) -> list[bytes]:
    at, data = file["proofs/offset"][()], file["proofs/bytes"][()].tobytes()
    return [data[at[i] : at[i + 1]] for i in range(len(at) - 1)]


def with_envelopes(file: h5py.File, made: list[bytes]) -> None:
    replace(file, "proofs/bytes", np.frombuffer(b"".join(made), np.uint8))
    file["proofs/offset"][:] = np.cumsum([0, *map(len, made)])


def swap_outputs(file):
    file["outputs"][[0, 5]] = file["outputs"][()][[5, 0]]


def swap_rows_everywhere(file):
    """Rows 0 and 1 of one bundle change places in everything but the envelope."""
    for name in ("outputs", "proved_outputs", "row/deviation", "row/argmax_differs"):
        file[name][[0, 1]] = file[name][()][[1, 0]]


def swap_envelopes(file):
    made = envelopes(file)
    with_envelopes(file, [made[1], made[0], *made[2:]])


def drop_envelope(file):
    made = envelopes(file)
    with_envelopes(file, [b"", *made[1:]])


def duplicate_envelope(file):
    made = envelopes(file)
    with_envelopes(file, [made[0], made[0], *made[2:]])


def more_envelope(file):
    made = envelopes(file)
    with_envelopes(file, [made[0] + b"\0", *made[1:]])


def other_proved(file):
    file["proved_outputs"][7, 0] += 2**-30


def claim_verified(file):
    file["row/bundle"][9] = -1


def hide_row(file):
    file["row/status"][2] = 0
    file["proofs/row_status"][2] = 2


def lower_deviation(file):
    file["row/deviation"][4] = 0


def other_result(file):
    file["combined/result"][1] += 1e-9


def other_count(file):
    file["combined/count"][()] = 9


def other_inputs(file):
    file["inputs"][6, 0] += 0.5


def other_tolerance(file):
    (circuit,) = file["keys"]
    place = f"keys/{circuit}/manifest"
    manifest = json.loads(file[place][()].tobytes())
    manifest["tolerance"] = 1e-9
    store(file, place, json.dumps(manifest).encode())


def no_srs(file):
    """What a proof system without an SRS says, so that nothing would be said of who made it."""
    (circuit,) = file["keys"]
    place = f"keys/{circuit}/manifest"
    manifest = json.loads(file[place][()].tobytes())
    manifest["srs_origin"] = "none"
    store(file, place, json.dumps(manifest).encode())


def other_job(file):
    reencoded(file, job_id="another-job")


def other_scale(file):
    (circuit,) = file["keys"]
    place = f"keys/{circuit}/settings"
    settings = json.loads(file[place][()].tobytes())
    settings["model_output_scales"] = [29]
    store(file, place, json.dumps(settings).encode())


def other_key(file):
    (circuit,) = file["keys"]
    data = bytearray(file[f"keys/{circuit}/vk"][()].tobytes())
    data[len(data) // 2] ^= 1
    store(file, f"keys/{circuit}/vk", bytes(data))


def store(file, place, data):
    """Bytes with their SHA-256, as the file has them."""
    import hashlib

    replace(file, place, np.frombuffer(data, np.uint8))
    file[place].attrs["sha256"] = hashlib.sha256(data).hexdigest()


def complete_with_a_row_lost(file):
    file["row/status"][9] = 6
    file["proofs/row_status"][-1] = 2


BY_ENVELOPE = "is not what the envelope says"


@pytest.mark.parametrize(
    ("change", "expected", "rows"),
    [
        (swap_outputs, f"bundle 0: /outputs {BY_ENVELOPE} (row 0)", (0, 5)),
        (swap_rows_everywhere, f"bundle 0: /outputs {BY_ENVELOPE} (rows 0-1)", (0, 1)),
        (swap_envelopes, "bundle 0: bundle is 2 in the envelope, 1 in the file (rows 0-3)", tuple(range(8))),
        (drop_envelope, "bundle 0: envelope, offset 0, header: magic: 0 bytes left found; 4 bytes allowed", (0, 1, 2, 3)),
        (duplicate_envelope, "bundle 1: bundle is 1 in the envelope, 2 in the file (rows 4-7)", (4, 5, 6, 7)),
        (more_envelope, "bundle 0: envelope", (0, 1, 2, 3)),
        (other_proved, f"bundle 1: /proved_outputs {BY_ENVELOPE} (row 7)", (7,)),
        (claim_verified, "/row/bundle: is not the bundle that verifies it (row 9)", (9,)),
        (hide_row, "bundle 0: some of its rows are called proved and others rejected, by one proof (rows 0-3)", (0, 1, 2, 3)),
        (lower_deviation, "bundle 1, /row: deviation does not follow from the envelope (row 4)", (4,)),
        (other_result, "/combined/result: does not follow from the rows by average", ()),
        (other_count, "/combined/count: does not follow from the rows by average", ()),
        (other_inputs, "bundle 1: input_hash is ", (4, 5, 6, 7)),
        (other_tolerance, "bundle 0: tolerance is 0.05 in the envelope, 1e-09 in the file (rows 0-3)", tuple(range(10))),
        (no_srs, "/keys/", tuple(range(10))),
        (other_job, "bundle 1: job_id is ", tuple(range(4, 10))),
        (other_scale, "/keys/", tuple(range(10))),
        (other_key, "/keys/", tuple(range(10))),
        (complete_with_a_row_lost, "attribute status: is complete with exit status 0, and 1 rows are neither verified nor left "
                                   "out of the draw", (8, 9)),
    ],
)
def test_what_an_adversary_changes_and_seals_again(public, tmp_path, change, expected, rows) -> None:
    report = run(changed(public, tmp_path, change))
    found = [str(failure) for failure in report.failures]
    assert any(text.startswith(expected) for text in found), found
    assert report.failed_rows == rows and report.exit_code == 3


def reencoded(file, **changes):
    """The first bundle's envelope with other fields, everything that follows from it adjusted."""
    made = envelopes(file)
    envelope = with_(decode(made[0]), **changes)
    with_envelopes(file, [encode(with_(envelope, output_hash=output_hash(envelope.outputs))), *made[1:]])
    return envelope


def test_a_changed_proof_fails_whatever_else_fits(job, tmp_path) -> None:
    def change(file):
        proof = bytearray(decode(envelopes(file)[0]).computation)
        proof[2000] ^= 1
        reencoded(file, computation=bytes(proof))

    (found,) = findings(changed(job, tmp_path, change))
    assert found.startswith("bundle 0: its proof: does not verify: ") and found.endswith(" (rows 0-3)")


def test_a_changed_proved_output_fails_whatever_else_fits(job, tmp_path) -> None:
    def change(file):
        consistency = decode(envelopes(file)[0]).consistency
        values = consistency.proved.copy()
        values[2, 1] += 1
        envelope = reencoded(file, consistency=with_(consistency, proved=values))
        proved = values * 2.0**-consistency.scale
        file["proved_outputs"][:4] = proved[:4]
        file["row/deviation"][:4] = np.abs(proved[:4] - envelope.outputs.astype(np.float64)).max(axis=1)

    found = findings(changed(job, tmp_path, change))
    assert found[0].startswith("bundle 0: its proof: does not verify: ")


def test_another_bundles_proof_is_of_other_inputs_or_noted(job, tmp_path) -> None:
    """All of bundle 1's answers given for bundle 0's rows: public inputs show it, a commitment shows the repeat."""
    def change(file):
        other = decode(envelopes(file)[1])
        first = decode(envelopes(file)[0])
        reencoded(file, outputs=other.outputs, computation=other.computation, commitment=other.commitment,
                  consistency=other.consistency, input_hash=first.input_hash)
        for name in ("outputs", "proved_outputs", "row/deviation", "row/argmax_differs"):
            file[name][0:4] = file[name][4:8]
        from enclaveml.job_vector import JobVector

        vector = JobVector("average", 3)
        vector.add(file["proved_outputs"][()])
        file["combined/result"][:] = vector.result().value

    report = run(changed(job, tmp_path, change))
    texts = [str(failure) for failure in report.failures]
    if mode_of(job) == "public":
        assert len(texts) == 1 and texts[0].startswith("bundle 0: its proof: does not verify: ")
    else:
        word = {"committed": "commitment", "hashed": "hash"}[mode_of(job)]
        assert texts == []
        assert report.notes == ["bundle 1 has the proof of bundle 0, which is of other rows",
                                f"bundle 1 has the {word} of bundle 0, which is of other rows"]
        (found,) = findings(tmp_path / "copy.h5", inputs=job.folder / "rows.npy")
        assert found == f"bundle 0: its proof: its {word} is not that of the inputs given (rows 0-3)"


# What no proof covers: a signature alone protects it (AUDIT.md lists these).
def move_floats_within_the_tolerance(file):
    envelope = decode(envelopes(file)[0])
    floats = envelope.outputs + np.float32(0.01)
    reencoded(file, outputs=floats)
    proved = envelope.consistency.proved[:4] * 2.0**-envelope.consistency.scale
    file["outputs"][:4] = floats
    file["row/deviation"][:4] = np.abs(proved - floats.astype(np.float64)).max(axis=1)
    file["row/argmax_differs"][:4] = proved.argmax(axis=1) != floats.argmax(axis=1)


def other_host(file):
    file["ranks/device"][0] = b"cud"


def other_times(file):
    file.attrs["started"] = "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("change", [move_floats_within_the_tolerance, other_host, other_times])
def test_what_only_a_signature_protects(public, tmp_path, change) -> None:
    assert findings(changed(public, tmp_path, change)) == []


# -- pieces --------------------------------------------------------------------------


def test_a_failure_in_words() -> None:
    assert str(Failure("bundle 2", "lies", (4, 5, 6, 9))) == "bundle 2: lies (rows 4-6, 9)"
    assert str(Failure("", "lies", (4,))) == "lies (row 4)"
    assert seal.brief(range(0, 40, 2), 3) == "0, 2, 4 and 17 more"
