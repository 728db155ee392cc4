"""What code and pages say about other pages is there: every file, and every heading that is named with #."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/*.ipynb"), *ROOT.glob("*.md")])


def markdown(page: Path) -> str:
    """The text of a page; of a notebook that of its cells, code as a block."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(cell if kind == "markdown" else f"```{_as_block(cell)}\n```" for kind, cell in cells)


def _as_block(cell: str) -> str:
    return "bash\n" + cell.removeprefix("%%bash\n") if cell.startswith("%%bash") else "python\n" + cell


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", markdown(page), flags=re.DOTALL)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages(page: Path) -> None:
    text = re.sub(r"```.*?```", "", markdown(page), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", text)
    wrong = []
    for target, anchor in links:
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            wrong.append(f"{target}#{anchor}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_belongs_to_an_entry_of_a_list_is_indented_by_four(page: Path) -> None:
    """By less, it ends the list on the documentation site, though not on GitHub."""
    text = re.sub(r"^ *```.*?^ *```", "", markdown(page), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"\n\n {1,3}(\S.*)", text) == []
    assert re.findall(r"^ {1,3}(?:[-*]|\d+\.) .*", text, re.MULTILINE) == []


def test_nothing_refers_to_texts_outside_the_repository() -> None:
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "src", "conf", "scripts", "tests", "docs", "README.md", "Makefile"],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    texts = {f: (ROOT / f).read_text(encoding="utf-8") for f in files if f.endswith((".py", ".yaml", ".md"))}
    assert [f for f, text in texts.items() if re.search("METHOD " + "§|DATASETS" + "[.]md", text)] == []
