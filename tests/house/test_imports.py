"""Who may import whom, read from the sources: docs/architecture.md draws the arrows."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]

# folder: (its import name, what it may import of the project)
ROOMS = {
    "runtime": ("kittiwake_runtime", set()),
    "models": ("kittiwake_models", set()),
    "training": ("kittiwake_training", {"kittiwake_runtime"}),
    "export": ("kittiwake_export", {"kittiwake_runtime", "kittiwake_training"}),
    "ros_nodes": ("kittiwake_ros", {"kittiwake_runtime"}),
    "benchmarks": (
        "",
        {"kittiwake_runtime", "kittiwake_models", "kittiwake_training", "kittiwake_export", "kittiwake_ros"},
    ),
}
NOT_IN_THE_RUNTIME = {"torch", "onnx", "rclpy", "matplotlib", "scipy", "tensorflow"}

# Inside the runtime tasks import engines import bundles; commands stand before all of them.
TASKS = r"kittiwake_runtime\.(localization|radiology|splat)\b"
ENGINES = r"kittiwake_runtime\.(engines|bench)\b"
FRONT = r"kittiwake_runtime\.(cli|doctor|bundle_commands|engine_commands|power_command|bench_command|__main__)\b"
NEVER_BACK = {
    r"kittiwake_runtime\.(bundle|manifest|fields|errors|command|machine|tegrastats)$": (ENGINES, TASKS, FRONT),
    ENGINES: (TASKS, FRONT),
    TASKS: (FRONT,),
}

DISTRIBUTIONS = {
    "affine": "rasterio",  # its type of a transform
    "cuda": "cuda-bindings",
    "cv2": "opencv-python-headless",
    "lightning": "lightning-fabric",  # the larger package, which holds the same
    "modelopt": "nvidia-modelopt",
    "yaml": "pyyaml",
}
# Declared, and yet imported nowhere in the package: the reason.
UNSEEN = {
    ("runtime", "tensorrt-rtx-cu13-bindings"): "whichever TensorRT is installed is imported by its name",
    ("runtime", "tensorrt-rtx-cu13-libs"): "the bindings load it",
    ("export", "onnxscript"): "torch.onnx's exporter imports it",
    ("export", "onnx-graphsurgeon"): "modelopt imports it, and the next three",
    ("export", "polygraphy"): "",
    ("export", "lief"): "",
    ("export", "cppimport"): "",
    ("export", "kittiwake-training"): "its entry points name the models that checkpoints are of",
}


def imports(file: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every import in a file, in functions and under TYPE_CHECKING too, and of every
    ``import_module("literal")``; ``module`` is the file's own name, which relative imports start from."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def module_of(file: Path, root: Path) -> str:
    parts = list(file.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.py")) if "build" not in file.relative_to(folder).parts]


def wrong_arrows(root: Path) -> list[str]:
    """Every import below ``root`` that goes against the drawing, as ``file:line imports name``."""
    projects = {name for name, _ in ROOMS.values() if name}
    benchmarks = {path.stem for path in (root / "benchmarks").glob("[!_]*") if path.suffix in ("", ".py")}
    wrong = []
    for room, (own, allowed) in ROOMS.items():
        for file in sources(root / room):
            module = module_of(file, root / room)
            for line, name in imports(file, module):
                top = name.partition(".")[0]
                forbidden = (
                    (top in projects and top != own and top not in allowed)
                    or (room == "runtime" and top in NOT_IN_THE_RUNTIME)
                    or (room != "benchmarks" and top in benchmarks | {"benchmarks"})
                    or goes_back(module, name)
                )
                if forbidden:
                    wrong.append(f"{file.relative_to(root).as_posix()}:{line} imports {name}")
    return wrong


def goes_back(module: str, name: str) -> bool:
    return any(
        re.match(layer, module) and any(re.match(outer, name) for outer in outers)
        for layer, outers in NEVER_BACK.items()
    )


def test_every_arrow_points_as_drawn() -> None:
    assert wrong_arrows(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("runtime/kittiwake_runtime/engines/base.py", "import torch.nn"),
        ("runtime/kittiwake_runtime/bundle.py", "from kittiwake_training import cli"),
        ("runtime/kittiwake_runtime/bundle.py", "from .engines import base"),
        ("runtime/kittiwake_runtime/engines/base.py", "from ..localization.frames import Grid"),
        ("runtime/kittiwake_runtime/engines/__init__.py", "from .. import localization"),
        ("runtime/kittiwake_runtime/localization/demo.py", "from kittiwake_runtime.cli import main"),
        ("runtime/kittiwake_runtime/doctor.py", "def f():\n    import onnx"),
        ("runtime/kittiwake_runtime/doctor.py", "importlib.import_module('onnx')"),
        ("training/kittiwake_training/cli.py", "from kittiwake_export.cli import command"),
        ("training/kittiwake_training/cli.py", "from results import Figure"),
        ("export/kittiwake_export/cli.py", "import benchmarks.results"),
        ("ros_nodes/kittiwake_ros/node.py", "if TYPE_CHECKING:\n    import kittiwake_training"),
        ("models/kittiwake_models/__init__.py", "import kittiwake_runtime"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results.py").touch()
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line + "\n")
    found = wrong_arrows(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (
            "runtime/kittiwake_runtime/localization/demo.py",
            "from kittiwake_runtime.engines.base import Engine",
        ),
        ("runtime/kittiwake_runtime/localization/demo.py", "from .results import write"),
        ("runtime/kittiwake_runtime/engines/base.py", "from kittiwake_runtime.bundle import Bundle"),
        ("export/kittiwake_export/cli.py", "import kittiwake_training, kittiwake_runtime, torch"),
        ("benchmarks/speed.py", "import kittiwake_export\nfrom results import Figure"),
    ],
)
def test_what_is_drawn_is_allowed(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line + "\n")
    (tmp_path / "benchmarks").mkdir(exist_ok=True)
    (tmp_path / "benchmarks" / "results.py").touch()
    assert wrong_arrows(tmp_path) == []


def declared(room: str) -> set[str]:
    """The distributions that a package's pyproject.toml names, those of its extras included."""
    project = tomllib.loads((ROOT / room / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    lines = [*project.get("dependencies", []), *(line for extra in extras for line in extra)]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room / "pyproject.toml").exists()])
def test_what_a_package_imports_is_what_it_declares(room: str) -> None:
    own = ROOMS[room][0]
    found = {
        name.partition(".")[0]
        for file in sources(ROOT / room)
        for _, name in imports(file, module_of(file, ROOT / room))
    }
    foreign = found - sys.stdlib_module_names - {own, "tomllib"}
    imported = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in foreign}
    unseen = {name for package, name in UNSEEN if package == room}
    assert imported - declared(room) == set(), "imported, not declared"
    assert declared(room) - imported - unseen == set(), "declared, not imported"


def test_the_runtimes_readme_gives_a_reason_for_each_dependency() -> None:
    text = (ROOT / "runtime" / "README.md").read_text(encoding="utf-8")
    reasons = dict(re.findall(r"^\| (\w[\w-]*) \| (\S.*) \|$", text, flags=re.MULTILINE))
    extras = {"cryptography", "distributed", "cuda-bindings", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"}
    assert declared("runtime") - extras == {name for name in reasons if name != "package"}
    assert all(name in text for name in extras)
