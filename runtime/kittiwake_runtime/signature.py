"""Who made a bundle: a detached Ed25519 signature (RFC 8032) of its manifest, which holds all other hashes.

The signature is ``manifest.json.sig``, 64 bytes as they are; keys are PEM files, as OpenSSL makes and reads them:

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.json.sig
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from kittiwake_runtime.errors import BundleError

SUFFIX = ".sig"


def sign_manifest(manifest: Path, private_key: Path) -> Path:
    """Write the signature beside a manifest; one that is there is replaced.

    Args:
        manifest: a bundle's ``manifest.json``.
        private_key: an Ed25519 private key, PEM (PKCS 8), without a passphrase.

    Returns:
        The signature's path.

    Raises:
        BundleError: a file can't be read or written, the key is of another kind, or the package
            ``cryptography`` is missing.
    """
    key = _load(private_key, "private")
    signature = manifest.with_name(manifest.name + SUFFIX)
    try:
        signature.write_bytes(key.sign(manifest.read_bytes()))
    except OSError as error:
        raise BundleError(f"{error.filename}: {error.strerror}") from error
    return signature


def verify_signature(manifest: Path, public_key: Path) -> None:
    """Check the signature beside a manifest.

    Args:
        manifest: a bundle's ``manifest.json``.
        public_key: an Ed25519 public key, PEM.

    Raises:
        BundleError: there is no signature, it is not this key's for this manifest, the key is of another kind, or
            the package ``cryptography`` is missing.
    """
    key = _load(public_key, "public")
    signature = manifest.with_name(manifest.name + SUFFIX)
    try:
        signed, given = manifest.read_bytes(), signature.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{error.filename}: {error.strerror}; a signature by {public_key} is required",
            "sign it: kittiwake bundle sign BUNDLE --key PRIVATE.pem",
        ) from error
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(given, signed)
    except InvalidSignature as error:
        raise BundleError(
            f"{signature}: not a signature of {manifest.name} by {public_key}",
            "the bundle was altered, or signed by somebody else: get it from its source again",
        ) from error


def _load(path: Path, side: str) -> Any:
    """The key in a PEM file; ``side`` is "private" or "public"."""
    serialization = _serialization()
    try:
        data = path.read_bytes()
        if side == "private":
            key = serialization.load_pem_private_key(data, password=None)
        else:
            key = serialization.load_pem_public_key(data)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: no {side} key in PEM, or one with a passphrase", _KEYS) from error
    from cryptography.hazmat.primitives.asymmetric import ed25519

    expected = {"private": ed25519.Ed25519PrivateKey, "public": ed25519.Ed25519PublicKey}[side]
    if not isinstance(key, expected):
        raise BundleError(f"{path}: the key is not of Ed25519", _KEYS)
    return key


_KEYS = "openssl genpkey -algorithm ed25519 -out private.pem; openssl pkey -in private.pem -pubout -out public.pem"


def _serialization() -> ModuleType:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise BundleError(
            "signatures need the package cryptography, which is not installed",
            "pip install 'kittiwake-runtime[signing]'",
        ) from error
    return serialization
