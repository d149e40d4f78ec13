"""What the files of the project may hold: no machine's paths, no unfinished marks, no heavy weights."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE_PATH = re.compile(r"(?<![\w.~}\])/:-])/(?:home|root|Users|work|farm|mnt|media|scratch)/[\w.]")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError\b|pytest\.mark\.xfail")
LARGEST_FILE_BYTES = 16 * 2**20
LARGEST_TREE_BYTES = 120 * 2**20


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def lines_that_match(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # an image, a network
        found += [f"{file}:{i}: {line.strip()}" for i, line in enumerate(lines, 1) if pattern.search(line)]
    return found


def test_no_file_names_a_path_of_a_machine(tracked: list[Path]) -> None:
    assert lines_that_match(MACHINE_PATH, tracked) == []


def test_nothing_is_marked_unfinished(tracked: list[Path]) -> None:
    here = Path(__file__).resolve()
    assert lines_that_match(UNFINISHED, [file for file in tracked if file.suffix == ".py" and file != here]) == []


def test_models_and_the_whole_tree_stay_small(tracked: list[Path]) -> None:
    sizes = {file: file.stat().st_size for file in tracked}
    assert {str(file): size for file, size in sizes.items() if size > LARGEST_FILE_BYTES} == {}
    assert sum(sizes.values()) <= LARGEST_TREE_BYTES


@pytest.mark.parametrize("folder", ["home", "root", "work"])
@pytest.mark.parametrize("line", ["x = '/{}/me/map.tif'", "cd /{}/.cache", "(see /{}/a)"])
def test_a_path_of_a_machine_is_found(line: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(line.format(folder))
    assert len(lines_that_match(MACHINE_PATH, [tmp_path / "a.md"])) == 1


@pytest.mark.parametrize("line", ["../shared/data", "https://host/{}/a", "/tmp/demo", "$HOME/{}/x", "a/{}/b"])
def test_other_paths_are_left_alone(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(line.format("work"))
    assert lines_that_match(MACHINE_PATH, [tmp_path / "a.md"]) == []
