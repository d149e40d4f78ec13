"""Built engines, kept by what they were built from.

    <cache>/<bundle>/<key>.engine     what TensorRT serialised
    <cache>/<bundle>/<key>.json       the sidecar: the recipe, the engine's sha256, when and how it was built
    <cache>/<bundle>/<key>.lock       held while it is built

The key is the sha256 of the recipe: change any ingredient, and it is another engine. An engine is written to
``<key>.part`` and renamed when it is whole, its sidecar after it; without a sidecar there is no engine. The lock is
the kernel's (flock) and is shared with the child that builds, so it ends with the last process that holds it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kittiwake_runtime.bundle import CARD, GOLDEN, Bundle
from kittiwake_runtime.engines import errors, tensorrt_library
from kittiwake_runtime.engines.cuda import Gpu
from kittiwake_runtime.engines.errors import DamagedEngine, NoMemory
from kittiwake_runtime.engines.profiles import Sizes, profile_sizes
from kittiwake_runtime.engines.tensorrt_build import BuildOrder, Layers, Progress, order_to_json
from kittiwake_runtime.errors import BundleError, EngineError
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.manifest import DimRange

FORMAT_VERSION = 1
CACHE_VARIABLE = "KITTIWAKE_CACHE"
BUILDER = (sys.executable, "-m", "kittiwake_runtime.engines.tensorrt_build")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Recipe:
    """All that an engine depends on.

    Args:
        models: the sha256 of every file of the network, by name.
        precision: of the variant.
        gpu: what it is built for.
        library: "tensorrt" or "tensorrt_rtx".
        version: of the library, four parts.
        sizes: the profile: least, typical and largest of every dynamic dimension.
        options: the other settings of the builder.
    """

    models: Mapping[str, str]
    precision: str
    gpu: Gpu
    library: str
    version: str
    sizes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The sha256, in hexadecimal, of the recipe as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class CachedEngine:
    """An engine in the cache, as its sidecar describes it.

    Args:
        path: of the engine.
        bundle: the bundle's name.
        recipe: what it was built from.
        sha256: of the engine.
        size_bytes: of the engine.
        built: when, in UTC, ISO 8601.
        seconds: how long the build took.
        layers: how many layers of each kind of operator give which type.
    """

    path: Path
    bundle: str
    recipe: Recipe
    sha256: str
    size_bytes: int
    built: str
    seconds: float
    layers: Layers

    def read(self) -> bytes:
        """The engine, checked against its sidecar: nothing else may be handed to TensorRT.

        Raises:
            DamagedEngine: it is missing, or not what was built.
        """
        try:
            plan = self.path.read_bytes()
        except OSError as error:
            raise DamagedEngine(f"{self.path}: {error.strerror}", _rebuild(self.bundle)) from error
        if hashlib.sha256(plan).hexdigest() != self.sha256:
            raise DamagedEngine(f"{self.path}: altered or damaged since it was built", _rebuild(self.bundle))
        return plan


def cache_root() -> Path:
    """The folder of built engines: ``$KITTIWAKE_CACHE``, or ``kittiwake/engines`` in the user's cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kittiwake" / "engines"


def make_recipe(
    bundle: Bundle, precision: str, gpu: Gpu, sizes: Sizes | None = None, workspace_mib: int | None = None
) -> Recipe:
    """The recipe of an engine for one of a bundle's variants, with the TensorRT that is installed.

    Raises:
        EngineError: the bundle has no such variant, or doesn't take these sizes.
        DeviceUnavailable: there is no TensorRT.
    """
    if precision not in bundle.variants:
        raise EngineError(f"{bundle.name} has no {precision} variant, only {', '.join(bundle.variants)}")
    library = tensorrt_library.load()
    profile = profile_sizes(bundle, sizes)
    return Recipe(
        models=_model_files(bundle, precision),
        precision=precision,
        gpu=gpu,
        library=library.name,
        version=library.version,
        sizes={name: (dim.min, dim.typical, dim.max or dim.typical) for name, dim in profile.items()},
        options={"tf32": False, "workspace_mib": workspace_mib},
    )


def build_engine(bundle: Bundle, recipe: Recipe, progress: Progress, root: Path | None = None) -> CachedEngine:
    """The engine of a recipe, built unless the cache has it whole; one process builds, others wait for it.

    Args:
        bundle: the bundle.
        recipe: of :func:`make_recipe`.
        progress: told the share that is done and what is being done.
        root: the cache; None for :func:`cache_root`.

    Raises:
        EngineError: TensorRT refuses the network, the builder was killed, or the disk is full.
    """
    folder = (root or cache_root()) / bundle.name
    path = folder / f"{recipe.key}.engine"
    with _no_space_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock"), lambda: progress(0.0, "waiting: another process builds it")) as lock:
            with suppress(BundleError, DamagedEngine):
                ready = _read_sidecar(path.with_suffix(".json"))
                ready.read()
                return ready
            part = path.with_suffix(".part")
            try:
                began = time.monotonic()
                layers = _run_builder(_order(bundle, recipe), part, lock, progress)
                return _store(part, path, bundle.name, recipe, layers, time.monotonic() - began)
            finally:
                part.unlink(missing_ok=True)


def find_engine(bundle: Bundle, precision: str, gpu: Gpu, root: Path | None = None) -> CachedEngine:
    """The newest engine for a variant that runs on a GPU with the TensorRT that is installed, for whatever sizes.

    Raises:
        EngineError: there is none; the message says what other engines differ in, the hint how to build one.
    """
    wanted = make_recipe(bundle, precision, gpu)
    near = []
    for entry in sorted(engines(root, bundle.name), key=lambda entry: entry.built, reverse=True):
        differing = _differences(entry.recipe, wanted)
        if not differing:
            return entry
        near.append(f"one is for another {', '.join(differing)}")
    text = f"{bundle.name} has no {precision} engine for {gpu.name}, {wanted.library} {wanted.version}"
    raise EngineError(
        "; ".join([text, *dict.fromkeys(near)]), f"kittiwake engine build {bundle.name} --precision {precision}"
    )


def engines(root: Path | None = None, bundle: str = "*") -> Iterator[CachedEngine]:
    """All engines of the cache, or those of one bundle, whose sidecars can be read."""
    for sidecar in sorted((root or cache_root()).glob(f"{bundle}/*.json")):
        with suppress(BundleError):
            yield _read_sidecar(sidecar)


def clean(root: Path | None = None, unwanted: Callable[[CachedEngine], bool] = lambda entry: False) -> list[Path]:
    """Remove engines that are damaged, what killed builders left, and what ``unwanted`` names.

    What is being built is left alone.

    Returns:
        The files that were removed, locks not counted.
    """
    removed = []
    for folder in sorted({path.parent for path in (root or cache_root()).glob("*/*")}):
        keys = {path.stem for path in folder.iterdir() if path.suffix in (".engine", ".json", ".part", ".lock")}
        for key in sorted(keys):
            lock = folder / f"{key}.lock"
            with suppress(BlockingIOError), _locked(lock):
                if not _is_kept(folder / f"{key}.json", unwanted):
                    files = [folder / f"{key}{suffix}" for suffix in (".json", ".engine", ".part")]
                    removed += [path for path in files if path.exists()]
                    for path in files:
                        path.unlink(missing_ok=True)
                    lock.unlink()
        with suppress(OSError):  # it holds something
            folder.rmdir()
    return removed


def _is_kept(sidecar: Path, unwanted: Callable[[CachedEngine], bool]) -> bool:
    try:
        entry = _read_sidecar(sidecar)
        entry.read()
    except (BundleError, DamagedEngine):
        return False
    sidecar.with_suffix(".part").unlink(missing_ok=True)
    return not unwanted(entry)


def _model_files(bundle: Bundle, precision: str) -> dict[str, str]:
    """The variant's network and whatever it may refer to: all files but other variants' and those for people."""
    networks = {part.file for variant in bundle.variants.values() for part in (variant, variant.tensorrt) if part}
    others = networks - {_network_file(bundle, precision)}
    return {name: sha for name, sha in sorted(bundle.files.items()) if name not in {GOLDEN, CARD, *others}}


def _network_file(bundle: Bundle, precision: str) -> str:
    return bundle.variants[precision].for_device("tensorrt").file


def _order(bundle: Bundle, recipe: Recipe) -> BuildOrder:
    return BuildOrder(
        bundle=str(bundle.root),
        file=_network_file(bundle, recipe.precision),
        sizes={name: DimRange(*dim) for name, dim in recipe.sizes.items()},
        sm="" if recipe.gpu.is_here else recipe.gpu.sm,
        **recipe.options,
    )


def _differences(entry: Recipe, wanted: Recipe) -> list[str]:
    """The ingredients, sizes and options aside, in which an engine is not the wanted one."""
    ahead = replace(wanted.gpu, name=entry.gpu.name, multiprocessors=0, driver="")
    pairs = {
        "network": (entry.models, wanted.models),
        "precision": (entry.precision, wanted.precision),
        "GPU or driver": (entry.gpu, wanted.gpu if entry.gpu.is_here else ahead),
        "TensorRT": ((entry.library, entry.version), (wanted.library, wanted.version)),
    }
    return [name for name, (found, expected) in pairs.items() if found != expected]


def _run_builder(order: BuildOrder, part: Path, lock: int, progress: Progress) -> Layers:
    """Have the child build to ``part``; its progress is passed on."""
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            BUILDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, pass_fds=(lock,), text=True
        )
        with child:
            try:
                assert child.stdin is not None
                assert child.stdout is not None
                with suppress(BrokenPipeError), child.stdin:  # it has ended; its status and last words say why
                    child.stdin.write(order_to_json(order, part))
                for line in child.stdout:
                    answer = json.loads(line)
                    if "progress" in answer:
                        progress(answer["progress"], answer["phase"])
            except BaseException:
                child.kill()
                raise
        said.seek(0)
        last_words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
    if "layers" in answer and child.returncode == 0:
        return dict(answer["layers"])
    raise _failure(order, answer, child.returncode, last_words)


def _failure(order: BuildOrder, answer: Mapping[str, Any], status: int, last_words: str) -> Exception:
    label = f"building {order.file} of {order.bundle}"
    if answer.get("kind") == "OSError":
        return OSError(answer["errno"], answer["error"])
    if "error" in answer:
        kind: type[EngineError] = getattr(errors, answer["kind"], EngineError)
        return kind(answer["error"], answer["hint"])
    if status == -signal.SIGKILL:
        return NoMemory(
            f"{label}: the builder was killed, most likely because the machine ran out of memory",
            "close other programs, add swap, or build for smaller sizes (--size)",
        )
    cause = signal.Signals(-status).name if status < 0 else f"status {status}"
    return EngineError(f"{label}: the builder ended with {cause}: {last_words or 'without a word'}")


def _store(part: Path, path: Path, bundle: str, recipe: Recipe, layers: Layers, seconds: float) -> CachedEngine:
    plan = part.read_bytes()
    built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry = CachedEngine(
        path, bundle, recipe, hashlib.sha256(plan).hexdigest(), len(plan), built, round(seconds, 2), layers
    )
    sidecar = {"format_version": FORMAT_VERSION, **asdict(entry)}
    del sidecar["path"]
    path.with_suffix(".json").unlink(missing_ok=True)
    part.replace(path)
    with part.open("w", encoding="utf-8") as file:
        json.dump(sidecar, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path.with_suffix(".json"))
    return entry


def _read_sidecar(path: Path) -> CachedEngine:
    """Raises BundleError, naming the field, when it is missing, malformed, or not that of its key."""
    fields = Fields.read(path)
    if fields.integer("format_version") != FORMAT_VERSION:
        raise fields.error("format_version", str(FORMAT_VERSION), fields.integer("format_version"))
    parts = fields.section("recipe")
    gpu, sizes = parts.section("gpu"), parts.section("sizes")
    recipe = Recipe(
        models=parts.mapping("models"),
        precision=parts.text("precision"),
        gpu=Gpu(gpu.text("name"), gpu.text("sm"), gpu.integer("multiprocessors"), gpu.text("driver", empty=True)),
        library=parts.text("library"),
        version=parts.text("version"),
        sizes={name: tuple(sizes.items(name)) for name in sizes.value},
        options=parts.mapping("options"),
    )
    if recipe.key != path.stem:
        raise fields.error("recipe", "that of the file's name", recipe.key)
    return CachedEngine(
        path=path.with_suffix(".engine"),
        bundle=fields.text("bundle"),
        recipe=recipe,
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        built=fields.text("built"),
        seconds=fields.number("seconds"),
        layers=fields.mapping("layers"),
    )


@contextmanager
def _locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold a file's lock; ``waiting`` is called once when another process has it.

    Raises:
        BlockingIOError: another process has it, and there is no ``waiting``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _no_space_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            hint = f"free some, or set {CACHE_VARIABLE} to a folder on another disk"
            raise EngineError(f"{folder}: no space is left for the engine", hint) from error
        raise EngineError(f"{folder}: the engine can't be written: {error.strerror}") from error


def _rebuild(bundle: str) -> str:
    return f"build it again: kittiwake engine build {bundle}"
