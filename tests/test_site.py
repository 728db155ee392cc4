"""The documentation site is built strictly, from here alone, and has every setting, class and link that it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf

import ktb
from ktb.config.compose import compose, groups
from ktb.config.conf_folder import conf_dir
from ktb.config.keys import setting_names
from ktb.config.moved import RENAMED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {value for value in (found.get("id"), found.get("name")) if value}
        if tag == "a" and found.get("href") is not None:
            self.links.append(found["href"] or "")
        if tag in ("img", "script", "iframe", "source") and found.get("src"):
            self.loads.append(found["src"] or "")
        if tag == "link" and found.get("rel") != "canonical" and found.get("href"):
            self.loads.append(found["href"] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@cache
def page(file: Path) -> Page:
    return Page(file.read_text(encoding="utf-8"))


def targets(site: Path, file: Path, links: list[str]) -> list[tuple[str, Path, str]]:
    """(link, file in the site, anchor) of the links that stay in the site."""
    found = []
    for link in links:
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            base = site / path.lstrip("/") if path.startswith("/") else file.parent / path if path else file
            found.append((link, base / "index.html" if base.is_dir() else base, unquote(anchor)))
    return found


def test_no_link_leads_nowhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    wrong, seen = [], 0
    for file in pages:
        for link, target, anchor in targets(site, file, page(file).links + page(file).loads):
            seen += 1
            if not target.is_file() or (anchor and target.suffix == ".html" and anchor not in page(target).ids):
                wrong.append(f"{file.relative_to(site)}: {link}")
    assert seen > 1000
    assert wrong == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = {link for file in site.rglob("*.html") for link in page(file).loads}
    assert len(loads) > 5
    assert sorted(link for link in loads if re.match(r"([a-z]+:)?//", link)) == []
    styles = [sheet for sheet in site.rglob("*.css") if re.search(r"url\((['\"]?)https?:", sheet.read_text())]
    assert styles == []


def settings_of(site: Path) -> dict[str, str]:
    """Anchor of each setting → what stands there, as text."""
    found = {}
    for file in sorted((site / "settings").glob("*.html")):
        text = file.read_text(encoding="utf-8")
        for entry in re.findall(r'<dt>(.*?class="setting".*?</dd>)', text, re.DOTALL):
            anchor = re.search(r'id="([^"]+)"', entry)
            assert anchor is not None
            assert anchor[1] not in found
            title, _, body = entry.partition("</dt>")
            found[anchor[1]] = unescape(re.sub(r"<[^>]+>", "", title) + "\n" + re.sub(r"<[^>]+>", "", body))
    return found


def test_every_setting_of_every_member_is_explained(site: Path) -> None:
    """Composed with each member of each group, a command has no setting that the pages do not know."""
    shown = settings_of(site)
    chosen = {group: members for group, members in groups("train").items() if group not in ("experiment", "modality")}
    unknown = set()
    for group, members in chosen.items():
        for member in members:
            cfg = compose("train", [f"{group}={member}"])
            names = set(setting_names(OmegaConf.create({group: cfg[group]}) if cfg[group] is not None else cfg))
            for name in names:
                parts = name.split(".")
                above = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
                apart = name in (group, "model", "published") or parts[-1] in ("name", "_target_")
                heads = any(key.startswith(f"{name}.") for key in shown)
                if not (apart or heads or above & (shown.keys() - {"dataset.recipe"}) or set(above) & RENAMED.keys()):
                    unknown.add(name)
    assert sorted(name for name in unknown if name.split(".")[0] in chosen) == []
    for command, prefix in (("train", ""), ("eval", "eval-")):
        cfg = compose(command, [])
        of_none = {name for name in setting_names(cfg) if name.split(".")[0] not in groups(command)}
        own = {prefix + name for name in of_none - RENAMED.keys() - {"model", "published", "fusion", "peft", "head"}}
        own = {name for name in own if name.removeprefix(prefix).split(".")[0] not in groups("train")}
        assert own <= shown.keys() | {f"{prefix}save"}


def test_every_setting_says_what_it_means(site: Path) -> None:
    shown = settings_of(site)
    assert len(shown) > 200
    for key, text in shown.items():
        lines = [
            line for line in text.split("\n")[1:] if line.strip() and not re.match(r"Default:|Only |All but ", line)
        ]
        assert lines, key


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("optim.lr", ("float | Tensor, above 0", "${dataset.recipe.lr}", "0.01 (sgd)", "data set's recipe")),
        ("trainer.precision", ("32-true", "bf16-mixed")),
        ("backbone.timm_name", ("swin_base_patch4_window12_384.ms_in22k (swin_b)", "null (swin_nano)")),
        ("dataset.depth_source", ("hha | depth", "Only deliver, nyu.", "raw, divided by 10 m")),
        ("dataset.modalities.NAME.hole_value", ("GDAL_NODATA", "Default: null")),
        ("dataset.label.offset", ("Class id minus stored id", "Default: 0", "int")),
        ("callbacks.ema.decay", ("0.999", "per optimiser step")),
        ("save.every_n_minutes", ("float | null, 0 or more", "Default: 10", "minutes of training")),
        ("launcher.parameters.mem", ("64GB, per node", "Only slurm.")),
        ("seed", ("int, 0 to 4,294,967,295", "3407")),
        ("eval-checkpoint", ("A run folder, a bundle", "Default: ???")),
    ],
)
def test_settings_have_type_default_and_meaning(site: Path, key: str, parts: tuple[str, ...]) -> None:
    text = " ".join(settings_of(site)[key].split())
    for part in parts:
        assert part in text, text


def test_groups_show_their_members(site: Path) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (site / "settings").glob("*.html"))
    for group, members in groups("train").items():
        for member in members:
            assert f"<td><code>{member}</code></td>" in text, f"{group}={member}"
    for group in ("launcher", "sweeper"):
        assert all(f"<code>{file.stem}</code>" in text for file in (conf_dir() / "hydra" / group).glob("*.yaml"))


def test_the_public_names_are_documented(site: Path) -> None:
    ids = set().union(*(page(file).ids for file in (site / "api").glob("*.html")))
    for name in set(ktb.__all__) - {"__version__"}:
        thing = getattr(ktb, name)
        assert f"{thing.__module__}.{thing.__qualname__}" in ids


def test_the_home_page_is_the_readme(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert f">{heading}<" in text
