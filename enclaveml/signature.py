"""Signing the root of a seal with Ed25519, and checking it. Needs the library ``cryptography``.

A private key is a file of 32 raw bytes (RFC 8032's seed) or an OpenSSH key without a passphrase
(``ssh-keygen -t ed25519 -N ''``). A public key is a file of 32 raw bytes or an OpenSSH line
(``ssh-ed25519 AAAA...``, the ``.pub`` file).

References: RFC 8032 (Ed25519).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from enclaveml.errors import EnvironmentFault

#: What is signed is this and the seal's root (32 bytes), so that a signature serves for nothing else.
CONTEXT = b"EnclaveML results seal 1\n"

KEY_BYTES = 32
_MOST = 1 << 16  # bytes of a key file

_WANTED = "an Ed25519 key: 32 raw bytes, or an OpenSSH key without a passphrase"


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise EnvironmentFault(
            "signatures need the library cryptography: pip install 'enclaveml[sign]'"
        ) from error
    return ed25519, serialization


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > _MOST:
        raise EnvironmentFault(f"{path}: is no key (more than {_MOST} bytes); allowed: {_WANTED}")
    return data


def load_signing_key(path: Path) -> Any:
    """The Ed25519 private key in a file. Raises EnvironmentFault for any other content, naming what is allowed."""
    data = _content(path)
    ed25519, serialization = _library()
    if len(data) == KEY_BYTES:
        return ed25519.Ed25519PrivateKey.from_private_bytes(data)
    try:
        key = serialization.load_ssh_private_key(data, password=None)
    except Exception as error:  # ValueError, TypeError and UnsupportedAlgorithm, by what is wrong
        raise EnvironmentFault(f"{path}: is no key that can sign ({error}); allowed: {_WANTED}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise EnvironmentFault(f"{path}: is a key of another kind; allowed: {_WANTED}")
    return key


def load_public_key(path: Path) -> bytes:
    """The 32 bytes of the Ed25519 public key in a file. Raises EnvironmentFault."""
    data = _content(path)
    if len(data) == KEY_BYTES:
        return data
    ed25519, serialization = _library()
    try:
        key = serialization.load_ssh_public_key(data.strip())
    except Exception as error:
        raise EnvironmentFault(
            f"{path}: is no public key ({error}); allowed: 32 raw bytes, or a line ssh-ed25519 AAAA..."
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise EnvironmentFault(f"{path}: is a key of another kind; allowed: an Ed25519 public key")
    return public_bytes(key)


def public_bytes(key: Any) -> bytes:
    """The 32 bytes of a public key of ``cryptography``."""
    _, serialization = _library()
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def sign(key: Any, root: bytes) -> tuple[bytes, bytes]:
    """(public key, signature) of a seal's root."""
    return public_bytes(key.public_key()), key.sign(CONTEXT + root)


def holds(public_key: bytes, signature: bytes, root: bytes) -> bool:
    """Whether this is the key's signature of the root. Raises EnvironmentFault without the library."""
    ed25519, _ = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(signature, CONTEXT + root)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_problem(path: Path) -> str:
    """Why a job cannot sign with the key in this file; empty if it can."""
    try:
        load_signing_key(path)
        mode = os.stat(path).st_mode
    except EnvironmentFault as error:
        return str(error).removeprefix(f"{path}: ")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"others may read it (mode {stat.S_IMODE(mode):o}); make it 0600"
    return ""
