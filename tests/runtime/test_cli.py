"""The command line as a shell sees it: what it prints where, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kittiwake_runtime
from kittiwake_runtime import Bundle

Make = Callable[..., Bundle]
ROOT = Path(kittiwake_runtime.__file__).parents[1]

EXTENSION = """
import os, sys, time
from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import MapError

def add_arguments(parser):
    parser.add_argument("how")

def run(arguments):
    if arguments.how == "user-error":
        raise MapError("area.tif: no CRS\\nat all", "set one with gdal_edit")
    if arguments.how == "no-module":
        import somebodys_missing_package
    if arguments.how == "no-file":
        open("absent.tif")
    if arguments.how == "defect":
        return 1 // 0
    if arguments.how == "much":
        for _ in range(100_000):
            print("a line that nobody reads")
    if arguments.how == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    return 3

command = Command("probe", "say 100 % what happens", add_arguments, run, "examples:\\n  kittiwake probe it")
"""


@pytest.fixture
def extended(tmp_path: Path) -> dict[str, str]:
    """An environment where two other packages add a subcommand each, one of them broken."""
    (tmp_path / "probe_package.py").write_text(EXTENSION)
    metadata = tmp_path / "probe_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[kittiwake.commands]\nprobe = probe_package:command\nbroken = somebodys_missing_package:command\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "KITTIWAKE_TRACEBACK": ""}


def kittiwake(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    env = env or {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "kittiwake_runtime", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_help_lists_all_subcommands_and_survives_a_broken_one(extended: dict[str, str]) -> None:
    done = kittiwake("--help", env=extended)
    assert done.returncode == 0
    for name in ("demo", "map", "locate", "bundle", "doctor", "probe", "examples:"):
        assert name in done.stdout
    assert "say 100 % what happens" in done.stdout
    assert "can't be loaded: No module named 'somebodys_missing_package'" in " ".join(done.stdout.split())
    assert "kittiwake probe it" in kittiwake("probe", "--help", env=extended).stdout


def test_version() -> None:
    assert kittiwake("--version").stdout == f"kittiwake {kittiwake_runtime.__version__}\n"


def test_the_exit_status_is_the_commands(extended: dict[str, str]) -> None:
    done = kittiwake("probe", "it", env=extended)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize(
    ("how", "status", "stderr"),
    [
        ("user-error", 2, "error: area.tif: no CRS at all\nhint: set one with gdal_edit\n"),
        ("no-file", 2, "error: absent.tif: No such file or directory\n"),
        ("no-module", 2, "error: the Python package `somebodys_missing_package` is not installed\nhint: "
                         "`kittiwake doctor` lists what is missing and the command that installs it\n"),
        ("defect", 70, "error: unexpected ZeroDivisionError: integer division or modulo by zero\nhint: this "
                       "is a defect; run it again as `kittiwake --traceback …` and report what it prints\n"),
    ],
)  # fmt: skip
def test_an_error_is_a_line_and_a_hint(extended: dict[str, str], how: str, status: int, stderr: str) -> None:
    done = kittiwake("probe", how, env=extended)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", stderr)


def test_a_traceback_is_printed_when_asked_for(extended: dict[str, str]) -> None:
    for words, env in (
        (("--traceback", "probe", "defect"), extended),
        (("probe", "defect", "--traceback"), extended),
        (("probe", "defect"), {**extended, "KITTIWAKE_TRACEBACK": "1"}),
    ):
        done = kittiwake(*words, env=env)
        assert done.stderr.startswith("Traceback")
        assert "probe_package.py" in done.stderr
        assert done.returncode == 70


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("bundle",), "ACTION"),
        (("bundle", "info", "-x"), "-x"),
    ],
)
def test_wrong_usage_is_a_line_and_a_hint(words: tuple[str, ...], message: str) -> None:
    done = kittiwake(*words)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: see `kittiwake")


def test_nothing_at_all_prints_the_help() -> None:
    done = kittiwake()
    assert done.returncode == 2
    assert "examples:" in done.stderr


def test_a_reader_that_leaves_is_no_error(extended: dict[str, str]) -> None:
    command = [sys.executable, "-m", "kittiwake_runtime", "probe", "much"]
    with subprocess.Popen(command, env=extended, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_an_interrupt_is_no_traceback(extended: dict[str, str]) -> None:
    command = [sys.executable, "-m", "kittiwake_runtime", "probe", "wait"]

    def listen() -> None:  # a shell's background job ignores SIGINT, and so would its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, env=extended, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listen
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"interrupted\n"
        assert process.wait(60) == 130


def test_general_help_and_errors_import_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from kittiwake_runtime.cli import main\n"
        "for words in (['bundle', '--help'], ['bundle', 'info', '/nowhere']):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(words)\n"
        "heavy = 'numpy cv2 onnxruntime torch onnx pyproj rasterio yaml scipy matplotlib'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bundle_info(make_bundle: Make) -> None:
    bundle = make_bundle()
    done = kittiwake("bundle", "info", str(bundle.root))
    assert done.returncode == 0
    for text in ("test.affine", "Doubles and adds one.", "x: float32 (N, 2, L), m: a length", bundle.sha256):
        assert text in done.stdout
    read = json.loads(kittiwake("bundle", "info", str(bundle.root), "--json").stdout)
    assert read["inputs"][0] == {"name": "x", "dtype": "float32", "shape": ["N", 2, "L"], "units": "m",
                                 "meaning": "a length"}  # fmt: skip
    assert read["sha256"] == bundle.sha256


def test_bundles_are_listed(make_bundle: Make) -> None:
    env = {**os.environ, "KITTIWAKE_MODELS": str(make_bundle().root.parent), "PYTHONPATH": str(ROOT)}
    listed = json.loads(kittiwake("bundle", "info", "--json", env=env).stdout)
    assert "twice" in [entry["name"] for entry in listed]
    assert "test.affine" in kittiwake("bundle", "info", env=env).stdout


def test_bundle_verify(make_bundle: Make) -> None:
    done = kittiwake("bundle", "verify", str(make_bundle().root))
    assert done.returncode == 0
    assert "y: off the golden output by at most 0, within 1e-06" in done.stdout

    wrong = kittiwake("bundle", "verify", str(make_bundle(offset=0.25).root), "--json")
    assert wrong.returncode == 1
    result = json.loads(wrong.stdout)
    assert result["ok"] is False
    assert result["golden_errors"]["y"] == pytest.approx(0.25)
    assert result["engine"]["providers"] == ["CPUExecutionProvider"]

    root = make_bundle().root
    (root / "model.onnx").write_bytes(b"altered")
    altered = kittiwake("bundle", "verify", str(root))
    assert altered.returncode == 2
    assert altered.stderr.startswith(f"error: {root / 'model.onnx'}: altered or damaged")
