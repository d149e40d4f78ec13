"""Fresh virtual environments, made from copies of the packages so that the tree stays clean."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAKS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "KITTIWAKE_MODELS")


@dataclass(frozen=True)
class Venv:
    """A virtual environment under ``folder``; what it runs sees nothing of the environment of the tests."""

    folder: Path

    def run(self, *words: str, cwd: Path | None = None, seconds: float = 600) -> str:
        """Run a program of the environment's ``bin`` and return its stdout; fail with all that it said."""
        environment = {key: value for key, value in os.environ.items() if key not in LEAKS}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [str(self.folder / "bin" / words[0]), *words[1:]],
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


MakeVenv = Callable[..., Venv]


@pytest.fixture(scope="session")
def make_venv(tmp_path_factory: pytest.TempPathFactory) -> MakeVenv:
    """``make_venv(packages, interpreter=…, options=…)``: an environment with packages of this project."""

    def make(packages: Sequence[str], interpreter: str = sys.executable, options: Sequence[str] = ()) -> Venv:
        scratch = tmp_path_factory.mktemp("venv")
        unwanted = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        for package in packages:
            shutil.copytree(ROOT / package, scratch / package, ignore=unwanted)
        venv = Venv(scratch / "env")
        subprocess.run([interpreter, "-m", "venv", str(venv.folder)], check=True)
        sources = [str(scratch / package) for package in packages]
        venv.run("pip", "install", "--quiet", "--disable-pip-version-check", *options, *sources)
        return venv

    return make
