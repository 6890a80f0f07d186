"""The key that committed inputs of batch proofs are masked with: whoever has it can tie proofs to inputs, or find them out.

Rank 0 draws it when a job begins and keeps it in a file of its own beside the results, for who audits with the inputs. Each order
has a key made of it and of the order's nonce, so that a rank can unmask what it proved itself and nothing else. Journal and results
file have a digest of the key, by which it is known again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from pathlib import Path

from enclaveml.errors import EnvironmentFault

log = logging.getLogger(__name__)

#: Bytes of a job's input key and of an order's.
INPUT_KEY_BYTES = 32

#: The digest's name among the versions in journal and results file.
DIGEST = "input_key_sha256"

_ORDER = b"enclaveml order's input key 1"
_NAME = b"enclaveml input key 1"


def order_key(input_key: bytes | None, nonce: bytes) -> bytes:
    """The input key of the order with this nonce (``nonce.py``): SHA-256 of a label, the job's key and the nonce.

    Raises ValueError where there is no job's key.
    """
    if input_key is None or len(input_key) != INPUT_KEY_BYTES:
        raise ValueError(f"no input key of {INPUT_KEY_BYTES} bytes to make an order's of")
    return hashlib.sha256(_ORDER + input_key + nonce).digest()


def digest(input_key: bytes) -> str:
    """What a key is known by, in hex; it says nothing of it."""
    return hashlib.sha256(_NAME + input_key).hexdigest()


def key_path(results: str | Path) -> Path:
    """Where the input key of a results file is kept."""
    return Path(f"{os.fspath(results)}.input-key")


def create(path: Path, replace: bool = False) -> bytes:
    """Draw a key and write it to a new file, 64 hex digits and a newline, readable by its owner alone.

    Raises EnvironmentFault where the file cannot be written, or is there and not to be replaced.
    """
    key, made = os.urandom(INPUT_KEY_BYTES), path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(key.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(made, path)
            else:
                os.link(made, path)
        finally:
            made.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise EnvironmentFault(f"{path}: is there already, and is the only way to tie proofs to their inputs; move it, or give "
                               "--force") from None
    except OSError as error:
        raise EnvironmentFault(f"{path}: the input key cannot be written: {error.strerror}") from error
    return key


def load(path: Path, wanted: str | None = None) -> bytes:
    """The key in a file, of which ``wanted`` is the digest (None: whichever it is). A file that others can read is warned of.

    Raises EnvironmentFault where it cannot be read, is none, or is another job's.
    """
    try:
        text = path.read_text(encoding="ascii")
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path}: the input key cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from error
    digits = text.removesuffix("\n")
    if len(digits) != 2 * INPUT_KEY_BYTES or set(digits) - set("0123456789abcdef"):
        raise EnvironmentFault(f"{path}: found {len(text)} characters that are no input key; allowed: {2 * INPUT_KEY_BYTES} hex digits")
    key = bytes.fromhex(digits)
    if wanted is not None and digest(key) != wanted:
        raise EnvironmentFault(f"{path}: is not this job's input key: its digest is {digest(key)[:16]}, the job has {wanted[:16] or 'none'}")
    if mode & 0o077:
        log.warning("%s: others than its owner can read it (mode %o); whoever has it can find out the job's inputs", path, mode)
    return key
