"""The README does what it says: `console` blocks are run, what `text` blocks start is asked for its help."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("KITTIWAKE_DATA", ROOT.parent / "shared" / "data"))


def blocks(language: str, page: str = "README.md") -> list[str]:
    """The commands of each fenced block of a language: lines after `$ `, and after `> `, which go on."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return ["".join(re.findall(r"^[$>] (.*\n)", block, flags=re.MULTILINE)) for block in fenced]


def in_this_environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KITTIWAKE_DATA": str(DATA)}


@pytest.mark.slow
def test_console_blocks_run_in_order(tmp_path: Path) -> None:
    commands = blocks("console")
    assert commands
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # the only part of a clone that they need
    skipped = []
    for script in commands:
        if "KITTIWAKE_DATA" in script and not DATA.is_dir():
            skipped.append(script)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=in_this_environment(),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    if skipped:
        pytest.skip(f"ran {len(commands) - len(skipped)} blocks; no real data in {DATA} for: {skipped}")


def started(page: str) -> list[str]:
    lines = [line.removeprefix("$ ").partition("#")[0].strip() for line in "".join(texts(page)).splitlines()]
    return [line for line in lines if line.split(" ")[0] in ("make", "kittiwake", "python")]


def texts(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", sorted({*started("README.md"), *started("CONTRIBUTING.md")}))
def test_what_a_text_block_starts_is_there(line: str) -> None:
    program, *words = line.split()
    if program == "make":
        if shutil.which("make") is None:
            pytest.skip("no make on this machine")
        subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        if not words[0].startswith("bench-"):
            return
        command = [sys.executable, f"benchmarks/{words[0].removeprefix('bench-')}.py"]
    elif program == "python":
        command = [sys.executable, *words[: 2 if words[0] == "-m" else 1]]
    else:
        named = next((i for i, word in enumerate(words) if not re.fullmatch("[a-z]+", word)), len(words))
        command = [sys.executable, "-m", "kittiwake_runtime", *words[:named]]
    done = subprocess.run([*command, "--help"], cwd=ROOT, env=in_this_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
