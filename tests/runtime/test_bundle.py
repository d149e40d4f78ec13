from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kittiwake_runtime import Bundle, BundleError
from kittiwake_runtime.bundle import Golden, installed_bundles, write_bundle, write_golden

Make = Callable[..., Bundle]


def rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_what_is_written_is_what_is_read(make_bundle: Make) -> None:
    written = make_bundle()
    bundle = Bundle.open(written.root)
    assert bundle == written
    assert (bundle.name, bundle.task, bundle.inputs[0].shape) == ("twice", "test.affine", ("N", 2, "L"))
    assert (bundle.dims["L"].max, bundle.dims["N"].max) == (64, None)
    assert bundle.file("model.onnx") == bundle.root / "model.onnx"
    assert bundle.sha256 == hashlib.sha256((bundle.root / "manifest.json").read_bytes()).hexdigest()
    golden = bundle.golden()
    assert len(golden) == 1
    np.testing.assert_allclose(golden[0].outputs["y"], 2 * golden[0].inputs["x"] + 1)


def test_it_is_found_by_path_then_in_the_variable_by_name(
    make_bundle: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_bundle().root
    assert Bundle.open(str(root)).root == root
    with pytest.raises(BundleError, match="no bundle is called twice"):
        Bundle.open("twice")
    monkeypatch.setenv("KITTIWAKE_MODELS", f"{tmp_path / 'absent'}:{root.parent}")
    assert Bundle.open("twice").root == root
    assert root in set(installed_bundles())


def test_it_is_found_in_the_installed_package(
    make_bundle: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "somebodys_models"
    package.mkdir(parents=True)
    make_bundle().root.rename(package / "twice")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr("kittiwake_runtime.bundle.MODELS_PACKAGE", package.name)
    assert Bundle.open("twice").root == package / "twice"


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "card.md"])
def test_an_altered_file_is_refused_by_name(make_bundle: Make, name: str) -> None:
    path = make_bundle().root / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: altered"):
        Bundle.open(path.parent)


def test_truncated_and_missing_files_are_refused_by_name(make_bundle: Make) -> None:
    root = make_bundle().root
    (root / "card.md").write_bytes((root / "card.md").read_bytes()[:3])
    with pytest.raises(BundleError, match=r"card\.md: altered"):
        Bundle.open(root)
    (root / "card.md").unlink()
    with pytest.raises(BundleError, match=r"card\.md: No such file"):
        Bundle.open(root)


@pytest.mark.parametrize(
    "field",
    ["format_version", "name", "task", "licence", "description", "inputs", "outputs", "dims", "preprocessing",
     "calibration", "variants", "tolerance", "training", "metrics", "files"],
)  # fmt: skip
def test_a_missing_field_is_named(make_bundle: Make, field: str) -> None:
    bundle = make_bundle()
    rewrite(bundle, lambda m: m.pop(field))
    with pytest.raises(BundleError, match=f"manifest.json: field `{field}` is missing"):
        Bundle.open(bundle.root)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("name",), "Zwölf", "field `name` is 'Zwölf'; expected lower-case"),
        (
            ("inputs", 0, "dtype"),
            "float31",
            r"field `inputs\[0\]\.dtype` is 'float31'; expected one of float16",
        ),
        (("inputs", 0, "shape"), ["N", -1], r"field `inputs\[0\]\.shape` is \['N', -1\]"),
        (("inputs", 0, "shape"), [True], r"field `inputs\[0\]\.shape`"),
        (("outputs",), [], "field `outputs` is .*at least one tensor"),
        (("dims", "L", "max"), 1, r"field `dims\.L\.max` is 1; expected a whole number ≥ 4"),
        (("dims",), {}, r"field `dims` is \[\]; expected a range for each of \['L', 'N'\]"),
        (("variants", "fp32", "file"), "other.onnx", r"field `variants\.fp32\.file`"),
        (("variants",), {"fp4": {}}, "field `variants`"),
        (("tolerance",), float("nan"), "field `tolerance` is nan; expected a finite number"),
        (("training", "seed"), "0", r"field `training\.seed` is '0'; expected a whole number"),
        (("metrics", 0, "n"), 0, r"field `metrics\[0\]\.n` is 0"),
        (("files", "model.onnx"), "abc", r"field `files\.model\.onnx`"),
        (("files", "../secret"), "0" * 64, r"field `files` is '\.\./secret'; expected paths inside"),
        (("files", "/etc/passwd"), "0" * 64, "expected paths inside"),
    ],
)
def test_a_wrong_field_is_named(make_bundle: Make, path: tuple[Any, ...], value: Any, message: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        target: Any = manifest
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    bundle = make_bundle()
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle.root)


@pytest.mark.parametrize(("version", "hint"), [(2, "update kittiwake-runtime"), (0, "export the bundle again")])
def test_another_format_version_is_refused(make_bundle: Make, version: int, hint: str) -> None:
    bundle = make_bundle()
    rewrite(bundle, lambda m: m.update(format_version=version))
    with pytest.raises(BundleError, match="format_version") as caught:
        Bundle.open(bundle.root)
    assert caught.value.hint == hint


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": ' + "[" * 100_000])
def test_a_manifest_that_is_no_object_is_refused(make_bundle: Make, text: str) -> None:
    root = make_bundle().root
    (root / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(root)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle: there is no manifest\.json"):
        Bundle.open(tmp_path)


def test_golden_values_are_never_unpickled(make_bundle: Make, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("sprung").touch, ())

    for payload in (pickle.dumps(Trap()), write_golden((Golden({"x": np.array([Trap()])}, {}),))):
        bundle = make_bundle()
        (bundle.root / "golden.npz").write_bytes(payload)
        rewrite(bundle, lambda m, p=payload: m["files"].update({"golden.npz": hashlib.sha256(p).hexdigest()}))
        with pytest.raises(BundleError, match=r"golden\.npz"):
            Bundle.open(bundle.root).golden()
    assert not (tmp_path / "sprung").exists()


def test_a_bundle_without_golden_values_says_so(make_bundle: Make) -> None:
    bundle = make_bundle()
    (bundle.root / "golden.npz").unlink()
    rewrite(bundle, lambda m: m["files"].pop("golden.npz"))
    with pytest.raises(BundleError, match=r"has no file golden\.npz"):
        Bundle.open(bundle.root).golden()


def test_a_bundle_is_replaced_whole_or_not_at_all(make_bundle: Make, manifest: dict[str, Any]) -> None:
    first = make_bundle()
    manifest["task"] = ""
    with pytest.raises(BundleError, match="task"):
        write_bundle(first.root, manifest, {"model.onnx": b"new"})
    assert Bundle.open(first.root) == first
    second = make_bundle(description="Another.")
    assert Bundle.open(first.root) == second
    assert [path.name for path in first.root.parent.iterdir()] == ["twice"]


def test_only_a_bundle_is_replaced(tmp_path: Path, manifest: dict[str, Any]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        write_bundle(tmp_path, manifest, {"model.onnx": b"new"})
    assert (tmp_path / "thesis.txt").exists()
