"""Constants of the batch protocol's format (PROTOCOL.md): the field, the code, limits. No JAX here."""

from __future__ import annotations

#: The field's prime, 15 * 2^27 + 1 (BabyBear), and a generator of its units.
P = 15 * 2**27 + 1
GENERATOR = 31

#: F = F_p[X] / (X^DEGREE - RESIDUE). 154.5 bits: lookups in the largest allowed batch lose 34 of them.
DEGREE = 5
RESIDUE = 2

#: Inverse rate of the Reed-Solomon code.
BLOWUP = 4

#: Positions opened in each tree: (5/8)^155 = 2^-105.1, so that 16 openings stay under 2^-101, and the 19 of a
#: masked proof under 2^-100.8 (PROTOCOL.md, "Errors").
QUERIES = 155

#: First state of every transcript.
DOMAIN = b"enclaveml-batch-1"

#: Largest activation, and the range of a weight.
ACTIVATION_MAX = 255
WEIGHT_LOW, WEIGHT_HIGH = -128, 127

#: What the rows of a layer's matrix below the weights are multiplied with: the limbs of the bias.
BIAS_CONSTANTS = (1, 2**8, 2**16)

#: Most rows, layers and width: what the table of errors covers.
MOST_ROWS = 2**20
MOST_LAYERS = 15
MOST_WIDTH = 2**15
MOST_RANGE_BITS = 20

#: Most cells that the positions of one layer read, a position's inputs counted for each: what a verifier goes through a layer.
MOST_READS = 2**22
#: Most arrays that a layer reads, one repeated counted again.
MOST_WIRINGS = 15

#: Most inputs, and outputs, of a proof: what a verifier lays out in memory, some GB, whatever a key says.
MOST_VALUES = 2**28
MOST_SHIFT = 20

#: Most rows of hidden weights' columns: some 6,700 proofs.
MOST_WEIGHT_ROWS = 2**20

#: Tables of activations: the fewest and most bits of a place in one, all of a key's numbers together, and the first tag: table t, from 1,
#: has TABLE_TAG + t where remainders have their shift, so that no entry of one is an entry of the other.
LEAST_TABLE_BITS, MOST_TABLE_BITS = 2, 12
MOST_TABLE_NUMBERS = 2**14
TABLE_TAG = MOST_SHIFT

#: Most entries of all lookups' tables: what a verifier inverts, whatever a key says. Without tables of activations no key has more.
MOST_ENTRIES = 2**22


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number`` (1 or more)."""
    return 1 << max(0, number - 1).bit_length()


def bits(number: int) -> int:
    """Variables of a vector of so many entries, extended by zeros to a power of two."""
    return power_of_two(number).bit_length() - 1


def short(number: int) -> str:
    """A number for a message: the digits of one that nobody could read are left out."""
    return str(number) if abs(number) < 10**12 else f"a number of {number.bit_length()} bits"


def need(holds: bool, text: str) -> None:
    """Raise ValueError with ``text`` unless ``holds``."""
    if not holds:
        raise ValueError(text)
