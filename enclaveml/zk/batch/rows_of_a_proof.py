"""How many rows one proof has: enough that a proof's fixed cost is small, few enough for the memory and the job.

Where inputs are committed, a fixed number of them are mask rows: a job's ``rows_per_proof`` are the others.
"""

from __future__ import annotations

import math
from dataclasses import replace

from enclaveml.errors import JobError
from enclaveml.round_size import ROUND_BYTES, ROUND_ROWS
from enclaveml.zk.batch.format import LEAST_MASKS, MOST_ROWS, QUERIES, VerificationKey, power_of_two
from enclaveml.zk.batch.integer import IntegerModel
from enclaveml.zk.interface import CircuitRequest

#: Least and most rows that are chosen; beyond the most a row hardly gets cheaper, and a lost proof costs more.
LEAST, MOST = 4, 1 << 14

#: What a proof costs beside its rows, in rows: 49 ms beside 19 us a row, and 151 ms beside 27 us with mask rows (benchmarks/reports/batch.md, digits, by
#: 1,024 and 16,384 rows).
FIXED_ROWS, FIXED_ROWS_MASKED = 2600, 5600

#: Least n_w where weights are hidden: 103 proofs of rows for a network as small as the digits model, and 0.7 MB more in each.
LEAST_WEIGHT_ROWS = 1 << 14

#: Part of a rank's memory that its prover may take: the rank itself has rows and outputs there too.
SHARE = 0.7


def masks_of(request: CircuitRequest) -> int:
    """m, how many rows of a proof are mask rows: none, or as few as hide what a proof shows."""
    return LEAST_MASKS if request.inputs == "committed" else 0


def key_of(model: IntegerModel, request: CircuitRequest) -> VerificationKey:
    """The model's key for a job's request, but for its roots. Raises JobError where there is none."""
    sized = template(model, request)
    key = replace(sized, rows=choose(request, sized))
    return registrable(request, key) if request.hides_weights else key


def template(model: IntegerModel, request: CircuitRequest) -> VerificationKey:
    """The model's key with mask rows as the request has them, of the fewest rows and of no weights.

    Raises JobError for a model whose inputs cannot be hidden.
    """
    masks = masks_of(request)
    if masks and len(model.layers) == 1:
        raise JobError("proof.inputs: found 'committed', and the model has no hidden layer; allowed with such a model: public, or "
                       "proof.system: ezkl")
    rows, zeros = max(LEAST, 2 * masks), (bytes(32),) * len(model.layers)
    key = model.key(rows, zeros, masks)
    if not request.hides_weights:
        return key
    try:
        return model.key(rows, zeros[:1], masks, weight_rows_of(key, 1))
    except ValueError as error:
        raise JobError(f"proof.private_weights: found true, and the protocol cannot hide this model's weights: {error}; allowed with such a model: "
                       "false, or proof.system: ezkl") from error


def weight_rows_of(key: VerificationKey, proofs: int) -> int:
    """n_w: rows of the columns of hidden weights with which a registration is good for so many proofs, LEAST_WEIGHT_ROWS or more."""
    wanted = max(LEAST_WEIGHT_ROWS, 2 * key.cell_rows, key.helper_rows, key.cell_rows + QUERIES * (proofs + 1))
    return power_of_two(wanted)


def orders_of(request: CircuitRequest, key: VerificationKey) -> int:
    """About how many proofs a job orders, from above: half as many again as it needs, for those that are ordered a second time.

    Each rank's last proof of a round has fewer rows than fit in.
    """
    most = min(ROUND_ROWS, ROUND_BYTES // (4 * key.width))
    rounds, full = math.ceil(request.expected_rows / most), math.ceil(request.expected_rows / key.real_rows)
    return math.ceil(1.5 * (full + rounds * request.cores))


def registrable(request: CircuitRequest, key: VerificationKey) -> VerificationKey:
    """The key, which hides weights, with as many rows of them as the job's proofs need.

    Raises JobError where that is more than the protocol has, or than memory holds.
    """
    proofs = orders_of(request, key)
    try:
        found = replace(key, weight_rows=weight_rows_of(key, proofs))
    except ValueError as error:
        raise JobError(f"proof.private_weights: the job needs about {proofs:,} proofs, and no registration of this model's weights is good for so "
                       f"many: {error}; prove more rows at a time (proof.rows_per_proof) or fewer rows (proof.coverage)") from error
    from enclaveml.zk.batch.prove.memory import hidden_weights_bytes

    need, given = max(peak_bytes(found, found.rows) * request.children, float(hidden_weights_bytes(found))), request.memory_gb * 1e9
    if need > given:
        raise JobError(f"proof.private_weights: hiding {found.weight_columns:,} columns of weights of {found.weight_rows:,} rows takes about "
                       f"{need / 1e9:.1f} GB, and a rank has {request.memory_gb:.1f}; give more memory, more rows at a time "
                       "(proof.rows_per_proof), or set proof.private_weights: false")
    return found


def choose(request: CircuitRequest, key: VerificationKey) -> int:
    """N, mask rows included, for a job's request; ``key`` is its ``template``.

    Raises JobError where the job gives rows per proof that no proof has, or that the memory does not hold.
    """
    given, least = request.rows_per_proof, max(LEAST, 2 * key.masks)
    if given is not None:
        n = given + key.masks
        if n & (n - 1) or not least <= n <= MOST_ROWS:
            near = max(least, 1 << max(2, round(math.log2(n)))) - key.masks
            words = f"a power of two of rows, {LEAST} or more" if not key.masks else (
                f"a power of two of rows less {key.masks} that mask them, {least - key.masks} or more")
            raise JobError(f"proof.rows_per_proof: found {given}; a batch proof has {words}: {near}, say")
        try:
            replace(key, rows=n)
        except ValueError as error:
            raise JobError(f"proof.rows_per_proof: found {given}; a proof of this model cannot have so many rows: {error}") from error
        if peak_bytes(key, n) * request.children > request.memory_gb * 1e9:
            raise JobError(f"proof.rows_per_proof: {given} rows a proof take about {_parts(key, n)}, and a rank has "
                           f"{request.memory_gb:.1f} GB for {request.children}; give fewer rows or more memory")
        return n
    ranks = max(1, request.cores // max(1, request.children))
    share = max(1, math.ceil(min(request.expected_rows, ROUND_ROWS) / ranks / max(1, request.children)))
    found = [n for n in (1 << b for b in range(least.bit_length() - 1, MOST.bit_length()))
             if n == least or peak_bytes(key, n) * request.children <= SHARE * request.memory_gb * 1e9]
    fixed = FIXED_ROWS_MASKED if key.masks else FIXED_ROWS
    n = min(found, key=lambda n: (math.ceil(share / (n - key.masks)) * (n + fixed), n))
    if peak_bytes(key, n) * request.children > request.memory_gb * 1e9:  # the least
        raise JobError(f"a batch proof of this model takes about {_parts(key, n)} however few its rows are, and a rank has {request.memory_gb:.1f} GB for "
                       f"{request.children}; give it more memory, or fewer proofs at a time, or use proof.system: ezkl")
    return n


def _parts(key: VerificationKey, rows: int) -> str:
    """What a prover takes, in words, and the lookups' part of it where that is much."""
    from enclaveml.zk.batch.prove.memory import lookup_bytes

    whole, of_tables = peak_bytes(key, rows), lookup_bytes(key)
    much = f" ({of_tables / 1e9:.1f} GB of it for {key.entries:,} entries of lookup tables)" if of_tables > whole / 4 else ""
    return f"{whole / 1e9:.1f} GB{much}"


def peak_bytes(key: VerificationKey, rows: int) -> float:
    """About what a prover of so many rows a proof takes, its process included; infinite where the protocol has no such proof."""
    from enclaveml.zk.batch.prove.memory import memory_bytes

    try:
        return float(memory_bytes(replace(key, rows=rows)))
    except ValueError:
        return math.inf
