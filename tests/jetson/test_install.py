"""install.sh on a made-up board: what it checks, what it would do, what it leaves to root, and once for real."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_a_dry_run_shows_all_and_changes_nothing(board: Any, tmp_path: Path) -> None:
    done = board.run("install.sh", "--dry-run", "--service", "--prefix", str(tmp_path / "opt"))
    assert done.returncode == 0, done.stderr
    assert board.files() == set()
    assert board.calls("sudo", "systemctl", "useradd") == []
    assert "L4T 36.4.3, JetPack 6" in done.stdout
    assert "Orin Nano Engineering Reference Developer Kit Super" in done.stdout
    assert f"+ python3 -m venv --system-site-packages {tmp_path}/opt/venv" in done.stdout
    assert "runtime\\[jetpack6\\]" in done.stdout
    assert "onnxruntime-gpu" not in done.stdout
    assert "sudo useradd --system" in done.stdout


def test_jetpack_7_gets_the_gpu_build_of_onnx_runtime_last_and_alone(board: Any, tmp_path: Path) -> None:
    board.jetpack(7)
    done = board.run("install.sh", "--dry-run", "--prefix", str(tmp_path / "opt"))
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if " -m pip " in line]
    assert ["runtime\\[jetpack7\\]" in commands[0], "uninstall --yes onnxruntime " in commands[1]] == [True, True]
    assert commands[2].endswith("install --no-deps onnxruntime-gpu\\>=1.31")


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda b: (b.folder / "root/etc/nv_tegra_release").unlink(), "this is no Jetson", "pip install ./runtime"),
        (
            lambda b: b.write("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1, GCID: 1\n"),
            "L4T 35.4.1 is not supported; expected 36.4 or newer",
            "flash JetPack 6.2 or 7.2",
        ),
        (lambda b: b.program("uname", "echo x86_64"), "x86_64 is no architecture of a Jetson", ""),
        (lambda b: b.python("3.8"), "Python 3.8 is too old", ""),
        (lambda b: b.program("python3", "exit 1"), "python3 does not start", ""),
        (
            lambda b: b.program("df", "printf 'Filesystem 1024-blocks Used Available\\n/dev/a 9 9 1048576\\n'"),
            "1024 MiB are free; expected 3000",
            "--prefix",
        ),
    ],
)
def test_a_machine_that_will_not_do_is_told_so_before_anything_is_done(
    change: Any, message: str, hint: str, board: Any, tmp_path: Path
) -> None:
    change(board)
    done = board.run("install.sh", "--prefix", str(tmp_path / "opt"))
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr or message in done.stderr
    assert hint in done.stderr
    assert board.files() == set()
    assert board.calls("sudo") == []


def test_what_is_unusual_is_noted(board: Any, tmp_path: Path) -> None:
    board.python("3.11", tensorrt="exit 1")
    board.write("proc/meminfo", "MemTotal:        3902784 kB\nMemAvailable:    521336 kB\n")
    done = board.run("install.sh", "--dry-run", "--prefix", str(tmp_path / "opt"))
    assert done.returncode == 0, done.stderr
    assert "python3 is 3.11, JetPack's is 3.10" in done.stdout
    assert "none that python3 can import" in done.stdout
    assert "sudo apt-get install --yes python3-libnvinfer" in done.stdout
    assert "without a desktop" in done.stdout


def test_what_needs_root_is_left_without_a_terminal_and_shown(board: Any, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    board.program("install", "exit 9")
    done = board.run("install.sh", "--prefix", str(locked / "opt"))
    assert done.returncode == 3
    assert board.calls("sudo", "install") == []
    assert "needs root, for a folder of your own" in done.stdout
    assert "sudo install -d -o " in done.stderr
    assert "--allow-root" in done.stderr


def test_nonsense_is_refused(board: Any) -> None:
    for words, message in ((["--what"], "unknown option --what"), (["--prefix", "relative"], "absolute path")):
        done = board.run("install.sh", *words)
        assert (done.returncode, message in done.stderr) == (2, True)
    assert "--dry-run" in board.run("install.sh", "--help").stdout


@pytest.mark.parametrize(("jetpack", "distribution"), [(6, "humble"), (7, "jazzy")])
def test_where_ros_is_there_the_node_is_built(jetpack: int, distribution: str, board: Any, tmp_path: Path) -> None:
    board.jetpack(jetpack)
    board.write(f"opt/ros/{distribution}/setup.bash", "")
    clone = tmp_path / "root" / "clone"
    shutil.copytree(ROOT / "jetson", clone / "jetson")
    for name in ("runtime", "models", "ros_nodes"):
        (clone / name).mkdir()
    done = board.run(str(clone / "jetson/install.sh"), "--dry-run", "--prefix", str(tmp_path / "opt"))
    assert done.returncode == 0, done.stderr
    assert f"opt/ros/{distribution}/setup.bash" in done.stdout
    (build,) = [line for line in done.stdout.splitlines() if "colcon\\ build" in line]
    assert "--base-paths\\ ros_nodes" in build
    assert f"{tmp_path}/opt/bin/run_localization" in done.stdout
    other = board.run("install.sh", "--dry-run", "--prefix", str(tmp_path / "opt"))
    assert ("colcon" in other.stdout) is (ROOT / "ros_nodes").is_dir()


@pytest.mark.slow
def test_it_installs_and_a_second_time_does_nothing(board: Any, tmp_path: Path) -> None:
    """For real, with this machine's Python, from the package index; only the board is made up."""
    (board.folder / "bin" / "python3").unlink()
    (board.folder / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    prefix = tmp_path / "opt"
    scratch = tmp_path / "clone"
    for name in ("runtime", "models", "jetson"):
        shutil.copytree(
            ROOT / name, scratch / name, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        )
    script = str(scratch / "jetson" / "install.sh")

    done = board.run(script, "--prefix", str(prefix), seconds=600)
    assert done.returncode in (0, 3), done.stderr  # 3: this machine has no TensorRT, which would need root
    (version,) = {path.name for path in prefix.glob("venv/lib/python*/site-packages/numpy-*.dist-info")}
    assert version.startswith("numpy-1.26")
    assert "\nready\n" in done.stdout
    again = board.run(script, "--prefix", str(prefix), seconds=600)
    assert "packages  are up to date" in again.stdout
    assert " -m venv " not in again.stdout
    assert " install " not in "".join(line for line in again.stdout.splitlines() if line.startswith("+"))

    with (scratch / "runtime" / "kittiwake_runtime" / "__init__.py").open("a") as file:
        file.write("# newer\n")
    assert "jetpack6" in board.run(script, "--dry-run", "--prefix", str(prefix)).stdout
