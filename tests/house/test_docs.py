"""The pages for people: what they point at is there, and the trees that they draw are the trees on disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(("top", "folder"), [("kittiwake/", "."), ("kittiwake_runtime/", "runtime/kittiwake_runtime")])
def test_the_architectures_trees_are_true(top: str, folder: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (tree,) = re.findall(rf"^```\n{top}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    drawn = set(re.findall(r"^  (\S+)", tree, flags=re.MULTILINE))
    assert {name for name in drawn if not (ROOT / folder / name).exists()} == set()
    if folder != ".":
        modules = {path.name for path in (ROOT / folder).glob("[!_]*.py")}
        assert modules - drawn == set(), "modules that the page does not name"
