"""Signatures of bundles, against OpenSSL's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kittiwake_runtime.bundle import MANIFEST, Bundle
from kittiwake_runtime.cli import main
from kittiwake_runtime.errors import BundleError
from kittiwake_runtime.signature import sign_manifest, verify_signature

pytest.importorskip("cryptography", reason="the extra `signing` is not installed")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the reference, openssl, is not installed")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Bundle.open("localization-gradients").root, tmp_path / "bundle"))


@needs_openssl
def test_openssl_verifies_our_signature(bundle: Path, keys: tuple[Path, Path]) -> None:
    signature = sign_manifest(bundle / MANIFEST, keys[0])
    openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", bundle / MANIFEST, "-sigfile", signature
    )


@needs_openssl
def test_openssls_signature_verifies(bundle: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "openssl.pem", tmp_path / "openssl_public.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    manifest = bundle / MANIFEST
    openssl("pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", manifest, "-out", f"{manifest}.sig")
    verify_signature(manifest, public)


def test_a_changed_manifest_no_longer_verifies(bundle: Path, keys: tuple[Path, Path]) -> None:
    manifest = bundle / MANIFEST
    sign_manifest(manifest, keys[0])
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    with pytest.raises(BundleError, match="not a signature of"):
        verify_signature(manifest, keys[1])


def test_an_unsigned_bundle_is_refused_where_a_key_is_required(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITTIWAKE_PUBLIC_KEY", str(keys[1]))
    with pytest.raises(BundleError, match="a signature by"):
        Bundle.open(bundle)
    sign_manifest(bundle / MANIFEST, keys[0])
    assert Bundle.open(bundle).name == "localization-gradients"


@needs_openssl
def test_a_key_of_another_kind_is_named(bundle: Path, tmp_path: Path) -> None:
    openssl("genpkey", "-algorithm", "ed448", "-out", tmp_path / "other.pem")
    with pytest.raises(BundleError, match="not of Ed25519"):
        sign_manifest(bundle / MANIFEST, tmp_path / "other.pem")


def test_a_file_that_holds_no_key_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key\n")
    with pytest.raises(BundleError, match=r"text\.pem: no private key in PEM"):
        sign_manifest(bundle / MANIFEST, tmp_path / "text.pem")


def test_the_commands_sign_and_verify(
    bundle: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "sign", str(bundle), "--key", str(keys[0])]) == 0
    assert main(["bundle", "verify", str(bundle), "--key", str(keys[1])]) == 0
    assert f"signed by the owner of {keys[1]}" in capsys.readouterr().out
    (bundle / f"{MANIFEST}.sig").unlink()
    assert main(["bundle", "verify", str(bundle), "--key", str(keys[1])]) != 0
