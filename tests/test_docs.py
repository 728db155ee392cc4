"""What code and pages say about other pages is there: every file, and every heading that is named with #."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def references_in_code() -> list[tuple[str, str, str]]:
    """(file, page, anchor) of every docs/PAGE.md and docs/PAGE.md#ANCHOR."""
    files = [f for room in ("src", "conf", "scripts", "tests") for f in (ROOT / room).rglob("*")]
    return [
        (str(file.relative_to(ROOT)), page, anchor)
        for file in files
        if file.suffix in (".py", ".yaml") and file != Path(__file__)
        for page, anchor in re.findall(r"\b(docs/\w+\.md)(?:#([\w-]+))?", file.read_text(encoding="utf-8"))
    ]


def test_references_in_code() -> None:
    found = references_in_code()
    assert len(found) > 40
    wrong = [
        f"{file}: {page}#{anchor}"
        for file, page, anchor in found
        if not (ROOT / page).is_file() or (anchor and anchor not in anchors(ROOT / page))
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8"))
    wrong = []
    for target, anchor in links:
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            wrong.append(f"{target}#{anchor}")
    assert wrong == []


def test_nothing_refers_to_texts_outside_the_repository() -> None:
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "src", "conf", "scripts", "tests", "docs", "README.md", "Makefile"],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    texts = {f: (ROOT / f).read_text(encoding="utf-8") for f in files if f.endswith((".py", ".yaml", ".md"))}
    assert [f for f, text in texts.items() if re.search("METHOD " + "§|DATASETS" + "[.]md", text)] == []
