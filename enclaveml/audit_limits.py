"""What an audit could not establish, a line each: no verdict without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enclaveml.audit_report import Report
from enclaveml.results_reader import Results
from enclaveml.results_schema import FileStatus, RowStatus
from enclaveml.seal import SealCheck
from enclaveml.zk.interface import INTEGRITY_ONLY, WEIGHTS_HIDDEN, WEIGHTS_SHOW, Circuit

#: What proofs of which that must be said do not hide.
_SHOWN = {
    INTEGRITY_ONLY: f"that anything is hidden: these proofs are {INTEGRITY_ONLY} (whoever has them can work out the weights)",
    WEIGHTS_SHOW: "that the weights are hidden: whoever has these proofs can work them out",
    WEIGHTS_HIDDEN: "that the weights stay hidden from who knows the inputs: the outputs are exact, and a network can be fitted to enough of them",
}


def limits(
    results: Results, report: Report, used: Sequence[tuple[Circuit, float | None]], seal: SealCheck, draws: Sequence[str],
    *, circuit_given: bool, srs_given: bool, inputs_given: bool, key_given: bool, installed: Mapping[str, str],
    preprocess_given: bool = False,
) -> list[str]:
    """The lines that hold for this file, the weightiest first.

    used: its circuits, each with the largest input that it takes where it bounds its inputs itself.
    draws: the lines of its draws. installed: of the systems used, the versions that are installed.
    """
    found: list[str] = []
    circuits = [circuit for circuit, _ in used]
    if not circuit_given and any(not c.hides_weights for c in circuits):
        found.append("which model this is: no --circuit-id was given (`enclaveml hash --circuit` of the model's owner prints it)")
    found += [_network(c, circuit_given) for c in circuits if c.hides_weights]
    for caution in sorted({c.caution for c in circuits if c.caution}):
        found.append(_SHOWN[caution])
        found.append("that the batch protocol and its code are sound: they are new, and nobody but their authors has audited them")
    if any(c.srs_origin == "own" for c in circuits):
        found.append("that nobody can forge these proofs: the SRS was made by the aggregator itself, who may know its secret")
    if not srs_given:
        found += [f"where the SRS is from: the file says {c.srs_origin!r}, which nothing here proves (--srs, with a file of that "
                  "ceremony of any size, settles it)" for c in circuits if c.srs_origin not in ("own", "none")]
    modes = {c.inputs for c in circuits}
    for mode in sorted(modes - {"public"}):
        if not inputs_given:
            found += _hidden(mode, [most for c, most in used if c.inputs == mode], circuit_given)
            found.append("that padding is the last row repeated: the inputs are not shown (their outputs are the same)")
    if report.facts.get("preprocess_outside"):
        found.append(f"that the rows are what {report.facts['preprocess_outside']} makes of the data: it was applied outside of the proofs"
                     + (", and the data were given as preprocessed" if inputs_given and not preprocess_given else ""
                        if inputs_given else " (--inputs with --preprocess compares them)"))
    if "public" in modes and not inputs_given:
        found.append("that the inputs in the file are the data that were meant (--inputs compares them)")
    status = results.row("status")
    for s in RowStatus:
        count = int((status == s).sum())
        if count and s is not RowStatus.VERIFIED:
            found.append(f"{count} of {len(status)} rows, which are not proved: {s.name.lower()}")
    found += draws
    if results.status not in (FileStatus.COMPLETE, FileStatus.COMPLETE_UNVERIFIED):
        found.append(f"how the job ends: it is {results.status.value}")
    if not seal.sealed:
        found.append("that nothing outside the proofs was changed later: the file is not sealed")
    elif not seal.signature:
        found.append("who made this file: its seal is not signed, and whoever changes the file can seal it again")
    elif not key_given:
        found.append("who made this file: it is signed, and no --public-key was given to check that")
    found += [f"that {c.system} {installed[c.system]}, which is installed, verifies as {c.version}, by which the circuit was made"
              for c in circuits if c.version != installed[c.system]]
    if any(c.system != "batch" for c in circuits):
        found.append("which rank computed a row, and when: those are labels, no proof speaks of them")
    if any(c.system == "batch" for c in circuits):
        found.append("who computed a row, and when: its proof is bound to an order to a rank, and who that rank was is the aggregator's word")
    return list(dict.fromkeys(found))


def _network(circuit: Circuit, given: bool) -> str:
    """What proofs of a circuit that hides its weights leave open about which model they are of."""
    if given:
        return (f"which model circuit {circuit.circuit_id[:16]} is of: its weights are hidden, and that is the word of who gave the id; it was made "
                "when the job began, so nothing shows that the model was there before the data, and another job of the same model has another id")
    return ("which model this is: the weights are hidden, and there may be a network of these shapes for any outputs. Somebody whom you believe, and "
            f"who has the model and the job's registration, can say whether it is circuit {circuit.circuit_id} (`enclaveml hash --circuit "
            "--registration`); give that with --circuit-id")


def _hidden(mode: str, limits: Sequence[float | None], circuit_given: bool) -> list[str]:
    """What inputs that are not shown may be. limits: of each circuit, the largest input that it takes, or None."""
    what = f"what the inputs are: the proofs hold for {'commitments to' if mode == 'committed' else 'hashes of'}"
    owner = "(--inputs, of the data's owner, settles it)"
    found = []
    if None in limits:
        found.append(f"{what} some field elements, not necessarily data, since the circuit does not bound its inputs {owner}")
    known = [most for most in limits if most is not None]
    if known:
        found.append(f"{what} numbers of {max(known):g} at most, not necessarily the data meant {owner}")
        if not circuit_given:
            found.append("that the inputs are such numbers: that a circuit bounds them is in its id, and no --circuit-id was given")
    return found
