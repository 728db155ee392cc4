"""The pages "Settings" of the documentation site, written from what `docs_keys` reads."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import docs_keys
from docs_keys import Member, Setting
from ktb.config.moved import RENAMED

PAGES = {
    "dataset": ("Data set and modalities", ("dataset", "modality")),
    "model": ("Parts of the model", ("backbone", "peft", "fusion", "head")),
    "training": ("Loss and optimisation", ("loss", "optim", "schedule", "callbacks")),
    "evaluation": ("Evaluation", ("eval", "robustness")),
    "running": ("Where and how it runs", ("trainer", "logger", "launcher", "sweeper")),
    "experiments": ("Experiments", ("experiment",)),
}
"""Page → its title, and the groups on it."""
FOLDERS = {"launcher": "hydra/launcher", "sweeper": "hydra/sweeper"}
"""Groups that lie elsewhere in conf/."""
MOST_IN_A_LINE = 5
"""Values that differ between members stand in a list from so many on."""
_INTRO = """\
# Settings

Every setting of `ktb-train` and `ktb-eval`, with type, default and meaning, made from `conf/` when this site is built.
A setting is given as `key=value`; a **group** is a folder of `conf/`, of which `group=member` chooses a file. `???` has
to be given, `${...}` takes the value of another setting, `null` is no value. `+key=value` adds a setting that a member
does not list, if its class takes it. `ktb-train --cfg job` prints what a command line comes to.

"""


def pages() -> dict[str, str]:
    """Path of a page in the site → its Markdown."""
    found = {"settings/index.md": _index()}
    for name, (title, groups) in PAGES.items():
        found[f"settings/{name}.md"] = "\n".join([f"# {title}\n", *(_group(group) for group in groups)])
    return found


def _index() -> str:
    train, evaluate = docs_keys.groups("train") | _SWEEPS, docs_keys.groups("eval") | _SWEEPS
    rows = ["| group | by default | |", "|---|---|---|"]
    for page, (_, names) in PAGES.items():
        for group in names:
            default, about = train[group]
            only = "" if group in evaluate else " (`ktb-train`)"
            rows.append(f"| [`{group}`]({page}.md#{group}) | `{default}` | {text(about)}{only} |")
    parts = [
        _INTRO,
        "## Groups\n",
        *rows,
        "\n## Of ktb-train\n",
        *map(entry, docs_keys.of_command("train")),
        "## Of ktb-eval\n\nBeside the groups above that are not of `ktb-train` alone.\n",
        *(entry(setting, "eval-") for setting in docs_keys.of_command("eval")),
        "## Older names\n\nStill understood, on command lines and in files:\n",
        *(f"- `{then}`: now [`{now}`]({page_of(now)})" for then, now in RENAMED.items()),
        "",
    ]
    return "\n".join(parts)


_SWEEPS = {
    "launcher": ("local", "with -m: where the jobs of a sweep run (docs/sweeps.md#where-the-jobs-run)"),
    "sweeper": ("basic", "with -m: which jobs a sweep has; optuna searches instead of trying all"),
}
"""Groups that belong to Hydra: their default and what they are for."""


def page_of(key: str) -> str:
    """Where a group, or a setting of one, stands: page and anchor."""
    page = next(page for page, (_, groups) in PAGES.items() if key.split(".")[0] in groups)
    return f"{page}.md#{key}"


def _group(group: str) -> str:
    """The section of a group: its members, then their settings."""
    members = docs_keys.members(FOLDERS.get(group, group))
    _, about = (docs_keys.groups("train") | _SWEEPS)[group]
    parts = [f"## {group}\n", f"{sentence(about)}\n" if about else "", *_members(group, members)]
    settings = docs_keys.settings(FOLDERS.get(group, group), group)
    if group in ("modality", "experiment"):
        return "\n".join(parts)
    for setting in settings:
        parts.append(entry(setting, among=[m.name for m in members]))
        if setting.key == "dataset.modalities":
            parts += map(entry, docs_keys.parts_of_folder("dataset.modalities.NAME"))
        if setting.key == "dataset.label":
            parts += map(entry, docs_keys.parts_of_folder("dataset.label"))
    return "\n".join(parts)


def _members(group: str, members: Sequence[Member]) -> list[str]:
    rows = [f"| `{group}=` | |", "|---|---|"]
    for member in members:
        about = text(member.about)
        if group == "modality" and not about:
            about = member.lines["streams"].value.strip("[]")
        if member.target.startswith(("ktb.models", "ktb.losses", "ktb.data", "ktb.engine.schedules")):
            about += f" [`{member.target.rpartition('.')[2]}`][{member.target}]"
        elif member.target and not member.target.startswith("hydra_plugins"):
            about += f" `{member.target}`"
        rows.append(f"| `{member.name}` | {about} |")
    return [*rows, ""]


def entry(setting: Setting, prefix: str = "", among: Collection[str] = ()) -> str:
    """One setting as an entry of a definition list.

    Args:
        setting: what is shown.
        prefix: of its anchor, where another command has a setting of this name.
        among: the members of its group.
    """
    anchor = prefix + setting.key
    title = f"[`{setting.key}`](#{anchor}){{ #{anchor} .setting }}"
    if setting.type:
        title += f" <small>{text(setting.type)}{f', {setting.limits}' if setting.limits else ''}</small>"
    of, others = set(setting.defaults), set(among) - set(setting.defaults)
    lines = []
    if others and among:
        few = len(of) <= len(others)
        lines.append(f"Only {_names(setting.defaults)}." if few else f"All but {_names(sorted(others))}.")
    lines += [sentence(docs_keys.prose(meaning)) + whose for meaning, whose in _whose(setting.meanings)]
    values: dict[str, list[str]] = {}
    for member, value in setting.defaults.items():
        if value:
            values.setdefault(value, []).append(member)
    if values:
        shown = [code(value) + whose for value, whose in _whose(values)]
        together = "Default: " + "; ".join(shown)
        lines.append(together if len(shown) < MOST_IN_A_LINE else "\n    - ".join(["Default:\n", *shown]))
    body = "\n\n    ".join(lines)
    return f"{title}\n:   {body}\n"


def _whose(texts: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """What holds for which members of a group: that of most first, without their names if it holds for most of all."""
    ordered = sorted(texts.items(), key=lambda item: -len(item[1]))
    named = [(value, f" ({_names(names)})" if any(names) else "") for value, names in ordered]
    if ordered and len(ordered[0][1]) > sum(map(len, texts.values())) / 2:
        named[0] = (ordered[0][0], "")
    return named


def _names(members: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in members)


def code(value: str) -> str:
    """Code that holds anything, also where Markdown's own quotes do not reach (tables)."""
    escaped = re.sub(r"[\[\]*_`|{}#\\]", lambda mark: f"&#{ord(mark[0])};", html.escape(value, quote=False))
    return f"<code>{escaped}</code>"


def sentence(comment: str) -> str:
    """A comment as a sentence of a page, unless it begins with a value."""
    line = text(comment)
    return line[:1].upper() + line[1:] if re.match(r"(?!null|true|false)[a-z]+ ", comment) else line


def text(comment: str) -> str:
    """A comment, which is no Markdown but for `code`, as Markdown, with links to the pages that it names."""
    parts = re.split(r"`+([^`]+)`+", comment)
    return "".join(code(part) if n % 2 else _plain(part) for n, part in enumerate(parts))


def _plain(words: str) -> str:
    escaped = re.sub(r"([\\*_{}\[\]#])", r"\\\1", html.escape(words, quote=False)).replace("|", "&#124;")
    return re.sub(r"docs/(\w+)\.md(?:\\#([\w-]+))?", _link, escaped)


def _link(found: re.Match[str]) -> str:
    return f"[{found[1]}](../{found[1]}.md{f'#{found[2]}' if found[2] else ''})"
