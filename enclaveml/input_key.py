"""The key that committed inputs of batch proofs are masked with: whoever has it can tie proofs to inputs, or find them out.

Rank 0 draws it when a job begins and keeps it in a file of its own beside the results, for who audits with the inputs. Each order
has a key made of it and of the order's nonce, so that a rank can unmask what it proved itself and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from enclaveml.errors import EnvironmentFault

log = logging.getLogger(__name__)

#: Bytes of a job's input key and of an order's.
INPUT_KEY_BYTES = 32

_DOMAIN = b"enclaveml order's input key 1"


def order_key(input_key: bytes, nonce: bytes) -> bytes:
    """The input key of the order with this nonce (``nonce.py``): SHA-256 of a label, the job's key and the nonce."""
    return hashlib.sha256(_DOMAIN + input_key + nonce).digest()


def key_path(results: str | Path) -> Path:
    """Where the input key of a results file is kept."""
    return Path(f"{os.fspath(results)}.input-key")


def of_job(results: str | Path, resumed: bool, force: bool) -> bytes:
    """The input key of the job that writes these results: that of its earlier sessions where there is one, else a new one.

    Raises EnvironmentFault as ``create`` and ``load`` do.
    """
    path = key_path(results)
    if resumed and path.exists():
        return load(path)
    if resumed:
        log.warning("%s is not there: earlier proofs of this job can be tied to their inputs only by who has a copy; another key is made", path)
    return create(path, force)


def create(path: Path, replace: bool = False) -> bytes:
    """Draw a key and write it to a new file, 64 hex digits and a newline, readable by its owner alone.

    Raises EnvironmentFault where the file cannot be written, or is there and not to be replaced.
    """
    key = os.urandom(INPUT_KEY_BYTES)
    try:
        if replace:
            path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise EnvironmentFault(f"{path}: is there already, and is the only way to tie proofs to their inputs; move it, or give "
                               "--force") from None
    except OSError as error:
        raise EnvironmentFault(f"{path}: the input key cannot be written: {error.strerror}") from error
    return key


def load(path: Path) -> bytes:
    """The key in a file. Raises EnvironmentFault where it cannot be read or is none."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path}: the input key cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from error
    digits = text.removesuffix("\n")
    if len(digits) != 2 * INPUT_KEY_BYTES or set(digits) - set("0123456789abcdef"):
        raise EnvironmentFault(f"{path}: found {len(text)} characters that are no input key; allowed: {2 * INPUT_KEY_BYTES} hex digits")
    return bytes.fromhex(digits)
