"""Hooks of MkDocs (mkdocs.yml): what the documentation site has beside the files of docs/.

The home page is README.md, and CONTRIBUTING.md and CHANGELOG.md are pages; links between them and docs/ lead to the
same places as on GitHub. Notebooks become pages with the outputs that are stored in them. The pages "Settings" are made
from conf/ and the schema (`docs_keys`). Pages of docs/ that docstrings name become links.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

import docs_settings

ROOT = Path(__file__).parents[1]
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Files at the top of the repository → the pages that show them."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for name, page in TOP.items():
        text = from_top((ROOT / name).read_text(encoding="utf-8"))
        # The home page is alone in its part of the site.
        head = "---\nhide: [navigation]\n---\n" if page == "index.md" else ""
        files.append(File.generated(config, page, content=head + text))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        for name, content in converted(Path(str(notebook.abs_src_path))).items():
            files.append(File.generated(config, name, content=content))
    for name, text in docs_settings.pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/ lead to what the site has of them: source files, members of groups, pages at the top."""
    markdown = re.sub(r"\]\(\.\./src/([\w/]+)\.py\)", lambda m: f"][{m[1].replace('/', '.')}]", markdown)
    markdown = re.sub(
        r"\]\(\.\./conf/(\w+)/\w+\.yaml\)", lambda m: f"](settings/{docs_settings.page_of(m[1])})", markdown
    )
    markdown = re.sub(r"\]\(\.\./([A-Z]+\.md)", lambda m: f"]({TOP[m[1]]}", markdown)
    return re.sub(r"(\]\([\w/.]+)\.ipynb([)#])", r"\1.md\2", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In what comes from docstrings, the name of a page of docs/, with or without a heading, becomes a link."""
    if not page.file.src_uri.startswith("api/"):
        return html
    return re.sub(r"(?<![\w/\"])docs/(\w+)\.md(#[\w-]+)?", r'<a href="../\1.html\2">\1</a>', html)


def from_top(text: str) -> str:
    """A page at the top of the repository, as one of docs/."""
    text = re.sub(r"\[docs/(\w+)\.(?:md|ipynb)\]", r"[\1]", text)
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\]\(README\.md", "](index.md", text)


def converted(notebook: Path) -> dict[str, str | bytes]:
    """A notebook as the Markdown of a page, with its pictures beside it: file → content."""
    text, resources = MarkdownExporter().from_notebook_node(nbformat.read(notebook, as_version=4))
    pictures = {f"{notebook.stem}_{name}": content for name, content in (resources["outputs"] or {}).items()}
    for name in resources["outputs"] or {}:
        text = text.replace(f"]({name})", f"]({notebook.stem}_{name})")
    return {f"{notebook.stem}.md": text, **pictures}
