"""A model bundle: a folder with a manifest, the network, reference inputs and outputs, and a card.

    <name>/
      manifest.json    what it is, what goes in and out, where it comes from; see manifest.py
      model.onnx       the network; further precisions stand beside it, as model.fp16.onnx
      golden.npz       a few inputs and the outputs that the reference gave for them
      card.md          the same for people
      manifest.json.sig    optional: a detached signature; see signature.py

A bundle is data: it is validated when it is opened, every file against its sha256, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kittiwake_runtime.errors import BundleError
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.manifest import FORMAT_VERSION, NAME_PATTERN, Manifest, parse_manifest

if TYPE_CHECKING:
    import numpy.typing as npt

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
CARD = "card.md"
MODELS_VARIABLE = "KITTIWAKE_MODELS"
PUBLIC_KEY_VARIABLE = "KITTIWAKE_PUBLIC_KEY"
MODELS_PACKAGE = "kittiwake_models"


@dataclass(frozen=True)
class Golden:
    """One reference case: inputs, and the outputs that the reference gave; arrays by tensor name."""

    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Bundle(Manifest):
    """An opened bundle: all that its manifest says, and

    Args:
        root: its folder.
        sha256: of ``manifest.json``, which holds the hashes of all other files: the bundle's identity.
    """

    root: Path
    sha256: str

    @classmethod
    def open(cls, path_or_name: str | os.PathLike[str]) -> Bundle:
        """Open a bundle by its folder or by its name.

        A name is looked up in the folders of ``$KITTIWAKE_MODELS`` and then in the installed package
        kittiwake_models.

        With ``$KITTIWAKE_PUBLIC_KEY`` set, a bundle without that key's signature is refused.

        Raises:
            BundleError: not found; a field of the manifest missing or wrong; a file missing or altered; the
                signature missing or wrong.
        """
        root = _find(path_or_name)
        if key := os.environ.get(PUBLIC_KEY_VARIABLE):
            from kittiwake_runtime.signature import verify_signature

            verify_signature(root / MANIFEST, Path(key))
        fields = Fields.read(root / MANIFEST)
        manifest = parse_manifest(fields)
        for name, expected in manifest.files.items():
            if _sha256(root / name) != expected:
                raise BundleError(
                    f"{root / name}: altered or damaged: its sha256 is not the one in {MANIFEST}",
                    "get the bundle again, or export it again",
                )
        return cls(**vars(manifest), root=root, sha256=_sha256(root / MANIFEST))

    def file(self, name: str) -> Path:
        """The path of one of the bundle's files, which was checked when the bundle was opened.

        Raises:
            BundleError: the manifest names no such file.
        """
        if name not in self.files:
            raise BundleError(f"{self.root}: has no file {name}; it has {', '.join(sorted(self.files))}")
        return self.root / name

    def golden(self) -> tuple[Golden, ...]:
        """The reference cases of ``golden.npz``.

        Raises:
            BundleError: there is no such file, or its arrays aren't those of the manifest's tensors.
        """
        import numpy as np

        path = self.file(GOLDEN)
        cases = []
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for case in dict.fromkeys(key.partition("/")[0] for key in arrays.files):
                    inputs = {spec.name: arrays[f"{case}/inputs/{spec.name}"] for spec in self.inputs}
                    outputs = {spec.name: arrays[f"{case}/outputs/{spec.name}"] for spec in self.outputs}
                    cases.append(Golden(inputs, outputs))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{path}: can't be read as arrays named CASE/inputs/TENSOR and CASE/outputs/TENSOR: {error}"
            ) from error
        return tuple(cases)


def installed_bundles() -> Iterator[Path]:
    """The folders of all bundles that can be opened by name, in the order in which they are looked up."""
    for folder in _model_folders():
        yield from sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST}"))


def write_bundle(root: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle, whole or not at all, and open it.

    Args:
        root: the folder to make; a bundle that is there already is replaced, nothing else is.
        manifest: the fields of ``manifest.json`` but ``format_version`` and ``files``.
        files: the contents of the other files by name.

    Raises:
        BundleError: a field is missing or wrong, or ``root`` is something else than a bundle.
    """
    root = root.resolve()
    if root.exists() and not (root / MANIFEST).is_file():
        raise BundleError(f"{root}: exists and is not a bundle", "choose another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / "new"
        draft.mkdir()
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
        whole = {"format_version": FORMAT_VERSION, **manifest, "files": hashes}
        text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
        (draft / MANIFEST).write_text(text + "\n", encoding="utf-8")
        bundle = Bundle.open(draft)
        if root.exists():
            root.rename(Path(scratch) / "old")
        draft.rename(root)
    return replace(bundle, root=root)


def write_golden(cases: tuple[Golden, ...]) -> bytes:
    """The contents of ``golden.npz`` for these cases."""
    import io

    import numpy as np

    arrays: dict[str, Any] = {}
    for i, case in enumerate(cases):
        arrays |= {f"{i}/inputs/{name}": array for name, array in case.inputs.items()}
        arrays |= {f"{i}/outputs/{name}": array for name, array in case.outputs.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _find(path_or_name: str | os.PathLike[str]) -> Path:
    path = Path(path_or_name)
    if (path / MANIFEST).is_file():
        return path.resolve()
    name = os.fspath(path_or_name)
    if not NAME_PATTERN.fullmatch(name) or path.exists():
        raise BundleError(f"{path}: no bundle: there is no {MANIFEST} in it")
    folders = list(_model_folders())
    for folder in folders:
        if (folder / name / MANIFEST).is_file():
            return (folder / name).resolve()
    looked = ", ".join(str(folder) for folder in folders) or "nowhere: no folder of models is known"
    raise BundleError(
        f"no bundle is called {name}; looked in {looked}",
        f"give a bundle's folder, set {MODELS_VARIABLE}, or install kittiwake-models",
    )


def _model_folders() -> Iterator[Path]:
    for entry in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep):
        if entry:
            yield Path(entry)
    package = importlib.util.find_spec(MODELS_PACKAGE)
    for entry in (package.submodule_search_locations or []) if package else []:
        yield Path(entry)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}", "the bundle is incomplete; get it again") from error
    return digest.hexdigest()
