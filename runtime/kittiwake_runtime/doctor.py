"""`kittiwake doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from kittiwake_runtime import __version__
from kittiwake_runtime.bundle import MODELS_VARIABLE, Bundle, installed_bundles
from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import BundleError
from kittiwake_runtime.machine import matched, read_text, usable_cpus

_EXAMPLES = """\
examples:
  kittiwake doctor
  kittiwake doctor --json | python3 -m json.tool

Exits with 0 when the runtime can be used, and with 1 when something marked `!` must be mended first.
"""


@dataclass(frozen=True)
class Requirement:
    """A package of the runtime: what is imported, what is installed, and from which version on."""

    module: str
    distribution: str
    least: str


# As in the package's pyproject.toml, with what is imported.
REQUIREMENTS = (
    Requirement("numpy", "numpy", "1.26"),
    Requirement("cv2", "opencv-python-headless", "4.11"),
    Requirement("onnxruntime", "onnxruntime", "1.23.2"),
    Requirement("pyproj", "pyproj", "3.6.1"),
    Requirement("rasterio", "rasterio", "1.4.4"),
    Requirement("yaml", "pyyaml", "6.0.1"),
    Requirement("threadpoolctl", "threadpoolctl", "3.1"),
    Requirement("tqdm", "tqdm", "4.66"),
)
OPTIONAL = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda.bindings")

# JetPack by the major version of its L4T.
_JETPACKS = {36: "6", 38: "7.0 or 7.1", 39: "7.2"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        section: "device", "python", "backends" or "models".
        name: what it is.
        value: what was found.
        status: "ok"; "advice" when the runtime works without it; "problem" when it does not.
        mend: the command that mends it; empty when nothing needs to be.
    """

    section: str
    name: str
    value: str
    status: str = "ok"
    mend: str = ""


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at the machine, the packages, the backends and the models.

    Args:
        root: where /proc and /etc stand; another folder serves tests.
    """
    gpu = _gpu()
    jetson = read_text(root / "proc/device-tree/model")
    return [*_device(root, gpu), *_python(), *_backends(bool(gpu), "Jetson" in jetson), *_models()]


def _device(root: Path, gpu: str) -> list[Finding]:
    cpu = matched(root / "proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.processor()
    found = [
        ("CPU", cpu or "unknown"),
        ("architecture", platform.machine()),
        ("processors", f"{usable_cpus()} usable of {os.cpu_count()}"),
    ]
    if kib := matched(root / "proc/meminfo", r"MemTotal:\s*(\d+) kB"):
        found.append(("memory", f"{int(kib) / 2**20:.1f} GiB"))
    found.append(("NVIDIA GPU", gpu or "none that nvidia-smi lists"))
    if model := read_text(root / "proc/device-tree/model"):
        found.append(("board", model))
    release = matched(root / "etc/nv_tegra_release", r"(R\d+ \(release\), REVISION: [\d.]+)")
    if release:
        major, minor = re.findall(r"[\d.]+", release)
        found.append(("L4T", f"{major}.{minor}"))
        found.append(("JetPack", _JETPACKS.get(int(major), "unknown to this version")))
    return [Finding("device", name, value) for name, value in found]


def _python() -> list[Finding]:
    supported = sys.version_info >= (3, 10)
    findings = [
        Finding("python", "kittiwake-runtime", __version__),
        Finding("python", "Python", platform.python_version(), "ok" if supported else "problem",
                "" if supported else "use Python 3.10 or later"),
    ]  # fmt: skip
    return findings + [_package(requirement) for requirement in REQUIREMENTS]


def _package(wanted: Requirement) -> Finding:
    """Import a package, which tells more than its metadata: a wheel of another machine fails here."""
    mend = f"{sys.executable} -m pip install --upgrade '{wanted.distribution}>={wanted.least}'"
    try:
        version = str(getattr(import_module(wanted.module), "__version__", "installed"))
    except Exception as error:
        text = "not installed" if isinstance(error, ModuleNotFoundError) else f"can't be imported: {error}"
        return Finding("python", wanted.distribution, " ".join(text.split()), "problem", mend)
    if _numbers(version) < _numbers(wanted.least):
        old = f"{version}, older than {wanted.least}"
        return Finding("python", wanted.distribution, old, "problem", mend)
    return Finding("python", wanted.distribution, version)


def _backends(has_gpu: bool, is_jetson: bool) -> list[Finding]:
    findings = []
    try:
        providers = import_module("onnxruntime").get_available_providers()
    except Exception:  # the packages above say why
        providers = []
    findings.append(Finding("backends", "ONNX Runtime", ", ".join(providers) or "none"))
    if (has_gpu or is_jetson) and "CUDAExecutionProvider" not in providers:
        findings.append(_missing_cuda(is_jetson))
    for module in OPTIONAL:
        findings.append(Finding("backends", module, "installed" if _installed(module) else "not installed"))
    return findings


def _missing_cuda(is_jetson: bool) -> Finding:
    if is_jetson and sys.version_info < (3, 12):
        value = "models run on the CPU: ONNX Runtime has no CUDA wheel for this JetPack"
        return Finding("backends", "CUDA", value)
    pip = f"{sys.executable} -m pip"
    mend = f"{pip} uninstall -y onnxruntime && {pip} install onnxruntime-gpu"
    return Finding("backends", "CUDA", "there is a GPU, but models run on the CPU", "advice", mend)


def _models() -> list[Finding]:
    findings = []
    for path in installed_bundles():
        try:
            bundle = Bundle.open(path)
            value = f"{bundle.task}, {', '.join(bundle.variants)}, {bundle.sha256[:12]}"
            findings.append(Finding("models", bundle.name, value))
        except BundleError as error:
            mend = error.hint or f"get {path} again"
            findings.append(Finding("models", path.name, error.message, "problem", mend))
    if not findings:
        mend = f"{sys.executable} -m pip install kittiwake-models (or set {MODELS_VARIABLE})"
        findings.append(Finding("models", "bundles", "none found", "advice", mend))
    return findings


def _gpu() -> str:
    columns = "name,compute_cap,memory.total,driver_version"
    query = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is not there
        return False


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    findings = examine()
    usable = not any(finding.status == "problem" for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": usable, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings, print)
        print("\nready" if usable else "\nnot ready: mend what is marked `!` first")
    return 0 if usable else 1


def _print(findings: list[Finding], write: Callable[[str], None]) -> None:
    marks = {"ok": " ", "advice": "·", "problem": "!"}
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            write(f"{section}:")
        write(f"{marks[finding.status]} {finding.name:24} {finding.value}")
        if finding.mend:
            write(f"  {'':24} mend: {finding.mend}")


command = Command(
    name="doctor",
    help="what this machine has, what is missing, and the command that mends it",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
