"""Asks pip whether everything the runtime depends on has a wheel for aarch64, and records the answer.

    python tools/check_aarch64.py            # writes docs/aarch64.md; needs the package index and `packaging`

The targets are the Jetsons: JetPack 6 (Ubuntu 22.04, glibc 2.35, Python 3.10) and JetPack 7 (Ubuntu 24.04,
glibc 2.39, Python 3.12). Dependencies of dependencies are followed with the target's own environment
markers; pip, left to itself, would evaluate those of the machine that it runs on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
OLDEST_GLIBC_MINOR = 17


@dataclass(frozen=True)
class Target:
    """A machine to ask for: its name, Python version, glibc's minor version (2.x), the runtime's extra for it, and
    the distribution that its ONNX Runtime comes from."""

    name: str
    python: str
    glibc_minor: int
    extra: str = ""
    onnxruntime: str = "onnxruntime"

    @property
    def markers(self) -> dict[str, str]:
        """What environment markers are evaluated with."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "aarch64",
            "extra": "",
        }

    @property
    def platforms(self) -> list[str]:
        """The wheel platforms that the machine takes, as pip's options."""
        minors = range(self.glibc_minor, OLDEST_GLIBC_MINOR - 1, -1)
        tags = [f"manylinux_2_{minor}_aarch64" for minor in minors] + [
            "manylinux2014_aarch64",
            "linux_aarch64",
        ]
        return [word for tag in tags for word in ("--platform", tag)]


TARGETS = (
    Target("JetPack 6", "3.10", 35, "jetpack6"),
    Target("JetPack 7", "3.12", 39, "jetpack7", "onnxruntime-gpu"),
)


@dataclass(frozen=True)
class Wheel:
    """What pip would install: name, version, file name and requirements; without a file there is none, and
    ``version`` says why."""

    name: str
    version: str
    file: str = ""
    requires: tuple[str, ...] = ()


def resolve(requirements: list[str], target: Target, ask: Callable[[str, Target], Wheel]) -> list[Wheel]:
    """The wheels for requirements and all that they require on ``target``, sorted by name.

    ``ask(requirement, target)`` answers for one requirement, without its dependencies.
    """
    found: dict[str, Wheel] = {}
    waiting = [Requirement(text.partition("#")[0]) for text in requirements]
    while waiting:
        requirement = waiting.pop(0)  # the given ones first: their pins decide
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate(target.markers)):
            continue
        found[name] = ask(f"{name}{requirement.specifier}", target)
        waiting += [Requirement(text) for text in found[name].requires]
    return [found[name] for name in sorted(found)]


def installed(project: dict[str, Any], constraints: list[str], target: Target) -> list[str]:
    """What jetson/install.sh has pip install on ``target``: the runtime's requirements with its extra, as far as the
    constraints allow, and the ONNX Runtime that replaces the one for the CPU.

    Args:
        project: of the runtime's pyproject.toml.
        constraints: lines of jetson/constraints.txt.
        target: the machine.
    """
    narrowed = {Requirement(line).name: line for line in constraints if line and not line.startswith("#")}
    wanted = [*project["dependencies"], *project["optional-dependencies"].get(target.extra, [])]
    lines = {Requirement(line).name: line for line in wanted}
    lines |= {name: line for name, line in narrowed.items() if name in lines}
    if target.onnxruntime not in lines:
        lines[target.onnxruntime] = lines.pop("onnxruntime").replace("onnxruntime", target.onnxruntime, 1)
    return list(lines.values())


def ask_pip(requirement: str, target: Target) -> Wheel:
    """What pip would install on ``target`` for one requirement."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
        ]
        words += ["--only-binary=:all:", "--implementation", "cp", "--python-version", target.python]
        words += [*target.platforms, "--target", scratch, "--report", "-", requirement]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return Wheel(requirement, errors[-1].removeprefix("ERROR: ") if errors else done.stderr.strip())
    (entry,) = json.loads(done.stdout)["install"]
    metadata = entry["metadata"]
    file = entry["download_info"]["url"].rpartition("/")[2]
    return Wheel(metadata["name"], metadata["version"], file, tuple(metadata.get("requires_dist", ())))


def table(title: str, wheels: list[Wheel]) -> str:
    """A section of the record."""
    rows = [f"| {wheel.name} | {wheel.version} | {wheel.file or '**none**'} |" for wheel in wheels]
    return "\n".join([f"## {title}", "", "| package | version | wheel |", "| --- | --- | --- |", *rows, ""])


def main() -> int:
    """Ask for both targets, newest and lowest, and write the record; 1 when a wheel is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "aarch64.md", metavar="FILE")
    output = parser.parse_args().output

    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    names = {Requirement(text).name for text in project["dependencies"]}
    wanted = {
        "newest": project["dependencies"],
        "lowest": [pin for pin in pins if pin.partition("==")[0] in names],
    }
    constraints = (ROOT / "jetson" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    sections, missing = [], False
    for target in TARGETS:
        sets = {f"{which} versions": requirements for which, requirements in wanted.items()}
        sets["as jetson/install.sh installs"] = installed(project, constraints, target)
        for which, requirements in sets.items():
            title = f"{target.name}, Python {target.python}, {which}"
            print(title, file=sys.stderr)
            wheels = resolve(requirements, target, ask_pip)
            missing |= any(not wheel.file for wheel in wheels)
            sections.append(table(title, wheels))
    verdict = "**A wheel is missing.**" if missing else "Every package has a wheel."
    head = f"""\
# Wheels for aarch64

{verdict} Asked on {datetime.date.today()} by `python tools/check_aarch64.py`: what pip
resolves for kittiwake-runtime, dependencies of dependencies included, from wheels alone. It says that they
install; that they run is for a Jetson to say.

"""
    output.write_text(head + "\n".join(sections), encoding="utf-8")
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())
