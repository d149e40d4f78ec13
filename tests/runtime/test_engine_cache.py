"""The cache with a small builder in place of TensorRT's: processes, locks and files are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kittiwake_runtime import Bundle, EngineError
from kittiwake_runtime.bundle import write_bundle
from kittiwake_runtime.engines import cache, tensorrt_library
from kittiwake_runtime.engines.cache import Recipe, build_engine, clean, engines, find_engine, make_recipe
from kittiwake_runtime.engines.cuda import Gpu, gpu_ahead_of_time
from kittiwake_runtime.engines.errors import DamagedEngine, NoMemory
from kittiwake_runtime.engines.profiles import parse_sizes
from kittiwake_runtime.engines.tensorrt_library import Library

Make = Callable[..., Bundle]
ORIN = Gpu("Orin", "8.7", 16, "12.6 540.4.0")
SIZES = {"N": (1, 1, 1), "L": (2, 4, 64)}
RECIPE = Recipe({"model.onnx": "0" * 64}, "fp32", ORIN, "tensorrt", "10.3.0.30", SIZES, {"tf32": False})

# Answers as the real builder does; `FAKE` in the environment says how it ends.
BUILDER = """
import json, os, signal, sys, time
order, how = json.load(sys.stdin), os.environ.get("FAKE", "")
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(f"{os.getpid()} {order['file']}\\n")
def say(**words):
    print(json.dumps(words), flush=True)
with open(order["engine"], "wb") as file:
    file.write(b"half an ")
    file.flush()
    say(progress=0.5, phase="half")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        print("segment violated", file=sys.stderr)
        sys.exit(3)
    if how == "refuse":
        say(error="Frobnicate is unknown", hint="leave it out", kind="BadPlugin")
        sys.exit(1)
    while how == "slow" and not os.path.exists(os.environ["FAKE_LOG"] + ".go"):
        time.sleep(0.02)
        say(progress=0.6, phase="slow")
    file.write(b"engine")
say(layers={"CONVOLUTION": {"HALF": 3}})
"""

# Another process that builds the same; prints what it is told.
OTHER = """
import sys
from pathlib import Path
from kittiwake_runtime import Bundle
from kittiwake_runtime.engines import cache
sys.path.insert(0, sys.argv[1])
import test_recipe
cache.BUILDER = (sys.executable, sys.argv[2])
entry = cache.build_engine(Bundle.open(sys.argv[3]), test_recipe.RECIPE, lambda share, phase: print(phase, flush=True))
print(entry.sha256, flush=True)
"""


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache in a folder of its own; the file with a line for each build."""
    (tmp_path / "builder.py").write_text(BUILDER)
    monkeypatch.setattr(cache, "BUILDER", (sys.executable, str(tmp_path / "builder.py")))
    monkeypatch.setenv("KITTIWAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Bundle], subprocess.Popen[str]]]:
    """Starts another process that builds RECIPE."""
    (tmp_path / "test_recipe.py").write_text(
        f"from kittiwake_runtime.engines.cache import Recipe\nfrom kittiwake_runtime.engines.cuda import Gpu\n"
        f"RECIPE = {RECIPE!r}\n"
    )
    started = []

    def start(bundle: Bundle) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", OTHER, str(tmp_path), str(tmp_path / "builder.py"), str(bundle.root)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def build(bundle: Bundle, recipe: Recipe = RECIPE) -> cache.CachedEngine:
    return build_engine(bundle, recipe, lambda share, phase: None)


def files(root: Path) -> set[str]:
    return {path.suffix for path in root.rglob("*") if path.is_file()}


def test_what_was_built_is_found_again(make_bundle: Make, tmp_path: Path, log: Path) -> None:
    bundle = make_bundle()
    said: list[tuple[float, str]] = []
    entry = build_engine(bundle, RECIPE, lambda *words: said.append(words))
    assert said == [(0.5, "half")]
    assert entry.read() == b"half an engine"
    assert (entry.bundle, entry.recipe, entry.size_bytes) == ("twice", RECIPE, 14)
    assert entry.layers == {"CONVOLUTION": {"HALF": 3}}
    assert build(bundle) == entry
    assert list(engines()) == [entry]
    assert len(log.read_text().splitlines()) == 1
    assert files(tmp_path / "cache") == {".engine", ".json", ".lock"}


CHANGES: dict[str, dict[str, Any]] = {
    "a model file": {"models": {"model.onnx": "1" + "0" * 63}},
    "one more model file": {"models": {"model.onnx": "0" * 64, "model.onnx.data": "0" * 64}},
    "precision": {"precision": "fp16"},
    "GPU": {"gpu": replace(ORIN, name="Orin Nano")},
    "SM": {"gpu": replace(ORIN, sm="11.0")},
    "multiprocessors": {"gpu": replace(ORIN, multiprocessors=8)},
    "driver": {"gpu": replace(ORIN, driver="12.6 540.5.0")},
    "library": {"library": "tensorrt_rtx"},
    "the version's fourth part": {"version": "10.3.0.31"},
    "a profile": {"sizes": {**SIZES, "L": (2, 5, 64)}},
    "a builder option": {"options": {"tf32": True}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_ingredient_changes_the_key(change: dict[str, Any]) -> None:
    assert len(RECIPE.key) == 64
    assert replace(RECIPE).key == RECIPE.key
    assert replace(RECIPE, **change).key != RECIPE.key


def test_a_recipe_follows_the_bundle(make_bundle: Make, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "load", lambda: Library("tensorrt", "10.3.0.30", None))
    first = make_recipe(make_bundle(), "fp32", ORIN)
    assert first.sizes == {"N": (1, 1, 1), "L": (2, 4, 64)}
    assert make_recipe(make_bundle(offset=1.0), "fp32", ORIN).key == first.key, "golden values are no ingredient"
    assert make_recipe(make_bundle(network(operator="Sub")), "fp32", ORIN).key != first.key
    assert make_recipe(make_bundle(), "fp32", ORIN, parse_sizes(["N=1:2:3"])).sizes["N"] == (1, 2, 3)
    with pytest.raises(EngineError, match="twice has no int8 variant, only fp32"):
        make_recipe(make_bundle(), "int8", ORIN)
    with pytest.raises(EngineError, match=r"size L = 1 … 4 is outside what twice takes: 2 … 64"):
        make_recipe(make_bundle(), "fp32", ORIN, parse_sizes(["L=1:2:4"]))
    with pytest.raises(EngineError, match="twice has no size 'Q'; it has N, L"):
        make_recipe(make_bundle(), "fp32", ORIN, parse_sizes(["Q=1"]))


def test_where_tensorrt_has_a_network_of_its_own_that_is_built(
    make_bundle: Make, network: Any, monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    monkeypatch.setattr(tensorrt_library, "load", lambda: Library("tensorrt", "10.3.0.30", None))
    root = make_bundle().root
    files = {name: (root / name).read_bytes() for name in ("model.onnx", "golden.npz", "card.md")}
    files |= {"signed.onnx": network(operator="Sub"), "unsigned.onnx": network(operator="Max")}
    manifest = json.loads((root / "manifest.json").read_text())
    signed = {"file": "signed.onnx", "parity": {}}
    manifest["variants"]["int8"] = {"file": "unsigned.onnx", "parity": {}, "tensorrt": signed}
    bundle = write_bundle(root, {k: v for k, v in manifest.items() if k not in ("files", "format_version")}, files)
    assert list(make_recipe(bundle, "int8", ORIN).models) == ["signed.onnx"]
    assert list(make_recipe(bundle, "fp32", ORIN).models) == ["model.onnx"]
    build(bundle, make_recipe(bundle, "int8", ORIN))
    assert "signed.onnx" in log.read_text()
    assert bundle.variants["int8"].for_device("cpu").file == "unsigned.onnx"


@pytest.mark.parametrize("word", ["N", "N=", "N=a", "N=1:2", "N=3:2:1", "N=0", "N=-1:2:3"])
def test_a_malformed_size_is_refused(word: str) -> None:
    with pytest.raises(EngineError, match="--size"):
        parse_sizes([word])


def test_two_builders_at_once_build_once(make_bundle: Make, start: Any, log: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE", "slow")
    bundle = make_bundle()
    first = start(bundle)
    assert first.stdout.readline() == "half\n"
    second = start(bundle)
    assert second.stdout.readline() == "waiting: another process builds it\n"
    log.with_name("log.go").touch()
    hashes = {process.communicate()[0].splitlines()[-1] for process in (first, second)}
    assert hashes == {build(bundle).sha256}
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("killed", NoMemory, "the builder was killed, most likely because the machine ran out of memory"),
        ("crash", EngineError, "the builder ended with status 3: segment violated"),
        ("refuse", tensorrt_library.BadPlugin, "^Frobnicate is unknown$"),
    ],
)
def test_a_builder_that_fails_leaves_nothing(
    make_bundle: Make, tmp_path: Path, monkeypatch: Any, how: str, kind: type[EngineError], message: str
) -> None:
    monkeypatch.setenv("FAKE", how)
    with pytest.raises(kind, match=message):
        build(make_bundle())
    assert files(tmp_path / "cache") == {".lock"}
    monkeypatch.delenv("FAKE")
    assert build(make_bundle()).read() == b"half an engine"


def test_after_a_kill_of_both_another_builds(
    make_bundle: Make, start: Any, tmp_path: Path, log: Path, monkeypatch: Any
) -> None:
    """The one that ordered is killed: its builder ends too, the lock with it, and what is half built is not used."""
    monkeypatch.setenv("FAKE", "slow")
    bundle = make_bundle()
    killed = start(bundle)
    assert killed.stdout.readline() == "half\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert ".part" in files(tmp_path / "cache")
    monkeypatch.delenv("FAKE")
    began = time.monotonic()
    assert build(bundle).read() == b"half an engine"
    assert time.monotonic() - began < 10
    assert ".part" not in files(tmp_path / "cache")
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("content", [b"half an engina", b"half", b""], ids=["altered", "cut short", "empty"])
def test_an_altered_engine_is_not_read_but_built_again(make_bundle: Make, content: bytes) -> None:
    bundle = make_bundle()
    entry = build(bundle)
    entry.path.write_bytes(content)
    with pytest.raises(DamagedEngine, match="altered or damaged since it was built") as caught:
        entry.read()
    assert caught.value.hint == "build it again: kittiwake engine build twice"
    assert build(bundle).read() == b"half an engine"


def test_a_sidecar_that_was_altered_counts_for_nothing(make_bundle: Make, log: Path) -> None:
    bundle = make_bundle()
    sidecar = build(bundle).path.with_suffix(".json")
    text = sidecar.read_text()
    for changed in (
        text.replace("10.3.0.30", "10.4.0.1"),
        text[:-20],
        "[]",
        text.replace('"sizes": {', '"sizes": {"Z": 1, '),
    ):
        sidecar.write_text(changed)
        assert list(engines()) == []
    build(bundle)
    assert json.loads(sidecar.read_text())["recipe"]["version"] == "10.3.0.30"
    assert len(log.read_text().splitlines()) == 2


def test_a_full_disk_while_the_sidecar_is_written(make_bundle: Make, tmp_path: Path, monkeypatch: Any) -> None:
    """The engine is there, but without its sidecar nothing takes it for one."""
    bundle = make_bundle()
    real = Path.replace

    def fill_up(path: Path, target: Path) -> Path:
        result = real(path, target)
        if target.suffix == ".engine":
            path.symlink_to("/dev/full")  # whatever is written there meets ENOSPC
        return result

    with monkeypatch.context() as full:
        full.setattr(Path, "replace", fill_up)
        with pytest.raises(EngineError, match="no space is left for the engine") as caught:
            build(bundle)
    assert "KITTIWAKE_CACHE" in caught.value.hint
    assert list(engines()) == []
    assert ".part" not in files(tmp_path / "cache")
    assert build(bundle).read() == b"half an engine"


def test_a_folder_that_cannot_be_written_is_named(make_bundle: Make, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(EngineError, match=r"cache/twice: the engine can't be written"):
        build(make_bundle())


def test_what_is_wanted_is_found_whatever_its_sizes(make_bundle: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(tensorrt_library, "load", lambda: Library("tensorrt", "10.3.0.30", None))
    bundle = make_bundle()
    with pytest.raises(EngineError, match=r"twice has no fp32 engine for Orin, tensorrt 10\.3\.0\.30$") as caught:
        find_engine(bundle, "fp32", ORIN)
    assert caught.value.hint == "kittiwake engine build twice --precision fp32"
    entry = build(bundle, make_recipe(bundle, "fp32", ORIN, parse_sizes(["N=7"])))
    assert find_engine(bundle, "fp32", ORIN) == entry

    with pytest.raises(EngineError, match="one is for another GPU or driver"):
        find_engine(bundle, "fp32", replace(ORIN, driver="13.0"))
    monkeypatch.setattr(tensorrt_library, "load", lambda: Library("tensorrt", "10.16.0.1", None))
    with pytest.raises(EngineError, match=r"10\.16\.0\.1; one is for another TensorRT$"):
        find_engine(bundle, "fp32", ORIN)


def test_an_engine_built_ahead_of_time_serves_every_gpu_of_its_kind(make_bundle: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(tensorrt_library, "load", lambda: Library("tensorrt_rtx", "1.7.1.116", None))
    bundle = make_bundle()
    entry = build(bundle, make_recipe(bundle, "fp32", gpu_ahead_of_time("8.6")))
    assert find_engine(bundle, "fp32", Gpu("RTX 3060", "8.6", 28, "13.0")) == entry
    with pytest.raises(EngineError, match="one is for another GPU or driver"):
        find_engine(bundle, "fp32", Gpu("RTX 4090", "8.9", 128, "13.0"))
    with pytest.raises(EngineError, match=r"the compute capability is '86'; expected one like 8\.6"):
        gpu_ahead_of_time("86")


def test_cleaning_takes_what_is_broken_and_what_is_named(make_bundle: Make, tmp_path: Path) -> None:
    bundle = make_bundle()
    whole, damaged = build(bundle), build(bundle, replace(RECIPE, version="10.4.0.1"))
    damaged.path.write_bytes(b"")
    stray = whole.path.with_name("ab.part")
    stray.touch()
    assert set(clean()) == {damaged.path, damaged.path.with_suffix(".json"), stray}
    assert list(engines()) == [whole]
    clean(unwanted=lambda entry: entry.bundle == "another")
    assert list(engines()) == [whole]
    clean(unwanted=lambda entry: entry.bundle == "twice")
    assert not list((tmp_path / "cache").iterdir())


def test_cleaning_leaves_what_is_being_built(make_bundle: Make, start: Any, log: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE", "slow")
    building = start(make_bundle())
    assert building.stdout.readline() == "half\n"
    assert clean(unwanted=lambda entry: True) == []
    log.with_name("log.go").touch()
    building.communicate()
    assert [entry.read() for entry in engines()] == [b"half an engine"]


def test_the_command_line(make_bundle: Make, capsys: Any) -> None:
    from kittiwake_runtime.cli import main

    assert main(["engine", "list"]) == 0
    assert "no engines" in capsys.readouterr().out
    entry = build(make_bundle())
    assert main(["engine", "list", "--json"]) == 0
    assert [found["key"] for found in json.loads(capsys.readouterr().out)] == [RECIPE.key]
    assert main(["engine", "verify"]) == 0
    entry.path.write_bytes(b"x")
    assert main(["engine", "verify", "twice"]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    assert main(["engine", "clean"]) == 0
    assert str(entry.path) in capsys.readouterr().out
    assert list(engines()) == []
