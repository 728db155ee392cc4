"""Every setting of ktb-train and ktb-eval with type, default and meaning, read off `conf/`, the schema and the classes
that the members of the groups name; the pages "Settings" of the documentation are made of it (`docs_site`).

Meanings are the comments in conf/, and where a setting has none, what the class says of the argument of that name.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from griffe import Docstring, DocstringSectionParameters, parse_google

from ktb.config import schema
from ktb.config.checks import ABOVE, RANGES
from ktb.config.conf_folder import conf_dir
from ktb.data.sets.folder_settings import FolderLabel, FolderModality
from ktb.models.imports import imported_class

CLASSES_OF_PARTS = {"dataset.modalities.NAME": FolderModality, "dataset.label": FolderLabel}
"""Settings of `dataset=folder` that are themselves arguments of a class."""
SAID_ONCE = ("name", "_target_")
"""Settings that every member of a group has, with one meaning for all."""
WIDEST_TYPE = 70
"""Types of more letters are said in short."""


@dataclass
class Line:
    """A setting as a YAML file has it."""

    value: str  # as written; "" where settings of its own follow
    comment: str
    flow: bool  # its own settings stand in {}


@dataclass
class Member:
    """One file of a group.

    Attributes:
        about: what it is.
        target: dotted name of its class, "" for none.
        lines: dotted key within the group → the setting, those of the members it builds on included.
    """

    name: str
    about: str
    target: str
    lines: dict[str, Line] = field(default_factory=dict)


@dataclass
class Setting:
    """One setting, of the commands or of a group.

    Attributes:
        key: dotted, as on the command line.
        type: of its value, in Python's words, with null for None.
        defaults: member of the group ("" for a setting of no group) → value as written.
        meanings: text → the members whose setting means that.
        limits: least and largest value in words, "" for none.
    """

    key: str
    type: str
    defaults: dict[str, str]
    meanings: dict[str, list[str]]
    limits: str


def read(file: Path) -> dict[str, Line]:
    """The settings of a YAML file, without its defaults list and Hydra's own, by dotted name."""
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    found: dict[str, Line] = {}
    if isinstance(root, yaml.MappingNode):
        _collect(root, "", text.splitlines(), found)
    return {key: line for key, line in found.items() if key.split(".")[0] not in ("defaults", "hydra", "_recursive_")}


def header(file: Path) -> str:
    """The comment at the top of a YAML file, in one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line != "# @package _global_"]
    top = [line[1:].strip() for line in lines[: next((i for i, li in enumerate(lines) if li[:1] != "#"), len(lines))]]
    return " ".join(top)


def _collect(node: yaml.MappingNode, path: str, lines: list[str], found: dict[str, Line]) -> None:
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else str(key.value)
        inner = isinstance(value, yaml.MappingNode) and bool(value.value)
        mark = key.end_mark if inner and not value.flow_style else value.end_mark
        behind = re.match(r"[:\s]*#\s*(.*)", lines[mark.line][mark.column :]) if mark.line < len(lines) else None
        above = _above(key.start_mark.line, key.start_mark.column, lines) if not node.flow_style else []
        written = "" if inner and not value.flow_style else _slice(lines, value.start_mark, value.end_mark)
        comment = "\n".join([*above, *([behind[1]] if behind else [])])
        found[name] = Line(written, comment, inner and bool(value.flow_style))
        if inner:
            _collect(value, name, lines, found)


def _above(line: int, column: int, lines: list[str]) -> list[str]:
    """The comment right above a key; that at the top of a file belongs to the file."""
    first = line
    while first > 0 and re.match(rf" {{{column}}}#", lines[first - 1]):
        first -= 1
    if first == 0 or lines[first - 1] == "# @package _global_":
        return []
    return [text[column + 1 :].removeprefix(" ") for text in lines[first:line]]


def _slice(lines: list[str], start: yaml.Mark, end: yaml.Mark) -> str:
    if start.line == end.line:
        return lines[start.line][start.column : end.column].strip()
    return " ".join(part.strip() for part in lines[start.line : end.line + 1])[start.column :].strip()


def members(group: str) -> list[Member]:
    """The members of a group, each with the settings of those it builds on."""
    folder = conf_dir() / group
    found: dict[str, Member] = {}

    def member(name: str) -> Member:
        if name not in found:
            file = folder / f"{name}.yaml"
            lines: dict[str, Line] = {}
            for base in (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", ()):
                if isinstance(base, str) and base != "_self_":
                    lines |= {key: dataclasses.replace(line) for key, line in member(base).lines.items()}
            for key, line in read(file).items():
                comment = line.comment or (lines[key].comment if key in lines else "")
                lines[key] = dataclasses.replace(line, comment=comment)
            target = lines["_target_"].value if "_target_" in lines else ""
            found[name] = Member(name, header(file) or _summary(target), target, lines)
        return found[name]

    return [member(file.stem) for file in sorted(folder.glob("*.yaml"))]


def _summary(target: str) -> str:
    """The first sentence of a class's description."""
    text = inspect.getdoc(imported_class(target)) or "" if target else ""
    return re.split(r"(?<=\.)\s", text.partition("\n\n")[0].replace("\n", " "))[0]


def settings(group: str, prefix: str | None = None) -> list[Setting]:
    """The settings of a group's members, those that several have once.

    Args:
        group: folder of conf/.
        prefix: what stands before them on the command line; None: the group's name.
    """
    prefix = group if prefix is None else prefix
    every = members(group)
    blocks = {
        key.rpartition(".")[0] for m in every for key, line in m.lines.items() if "." in key and not _in_flow(m, key)
    }
    by_key: dict[str, list[tuple[Member, Line]]] = {}
    for m in every:
        for key, line in m.lines.items():
            of_whole = key.rpartition(".")[0]
            apart = key in SAID_ONCE or key.endswith("_target_") or key.startswith(("modalities.", "label."))
            if not apart and (not of_whole or of_whole in blocks):
                by_key.setdefault(key, []).append((m, line))
    found = []
    for key, lines in by_key.items():
        meanings: dict[str, list[str]] = {}
        for m, line in lines:
            text = line.comment or documented(_target_of(m, key), key.rpartition(".")[2])
            if text:
                meanings.setdefault(text, []).append(m.name)
        # A group of settings is shown itself only where something is said of it, or it is one value elsewhere.
        if key in blocks and not meanings:
            continue
        types_ = [_type(_target_of(m, key), key.rpartition(".")[2]) for m, _ in lines]
        kind = next((text for text in types_ if text), "") or _type_of_value(lines[0][1].value)
        defaults = {m.name: "" if key in blocks else line.value for m, line in lines}
        found.append(Setting(f"{prefix}.{key}", kind, defaults, meanings, _limits(f"{prefix}.{key}")))
    return found


def _in_flow(member: Member, key: str) -> bool:
    """Whether a setting stands within {} of its member's file."""
    parts = key.split(".")
    return any(member.lines[".".join(parts[:n])].flow for n in range(1, len(parts)))


def _target_of(member: Member, key: str) -> str:
    """The class whose argument a setting is: that of its own level."""
    level = key.rpartition(".")[0]
    line = member.lines.get(f"{level}._target_" if level else "_target_")
    if line is not None:
        return line.value
    return "lightning.pytorch.Trainer" if member.lines.keys() >= {"accelerator", "max_epochs"} and not level else ""


def _limits(key: str) -> str:
    for name, low, high in RANGES:
        if name == key:
            least = f"above {low:g}" if key in ABOVE else f"{low:g} or more"
            return least if high == float("inf") else f"{low:g} to {high:,.0f}" if high > 1 else f"{low:g} to {high:g}"
    return ""


def parts_of_folder(path: str) -> list[Setting]:
    """The settings of a modality or of the label of `dataset=folder`, which its comment lists one a line."""
    cls = CLASSES_OF_PARTS[path]
    lines = next(m for m in members("dataset") if m.name == "folder").lines
    listed = dict(sub_settings(lines[path.removeprefix("dataset.").removesuffix(".NAME")].comment))
    found = []
    for f in dataclasses.fields(cls):
        text = listed.get(f.name) or documented(f"{cls.__module__}.{cls.__qualname__}", f.name)
        default = "???" if f.default is dataclasses.MISSING else _yaml(f.default)
        found.append(
            Setting(
                f"{path}.{f.name}",
                _words(_annotation(_meant(f.type, cls))),
                {"": default},
                {text: [""]} if text else {},
                "",
            )
        )
    return found


def _yaml(value: Any) -> str:
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).split("\n")[0]


SUB_SETTING = re.compile(r"  (\w+: \S+(?: \S+\])?(?:, \w+: \S+)*)(?: {2,}|(?<=null) )(\S.*)")


def sub_settings(comment: str) -> Iterator[tuple[str, str]]:
    """Name and meaning of the settings that a comment lists, as "  name: default   meaning" and lines that go on."""
    names: list[str] = []
    text = ""
    for line in [*comment.split("\n"), ""]:
        started = SUB_SETTING.fullmatch(line)
        if names and (started or not line.startswith("      ")):
            yield from ((name, text) for name in names)
            names = []
        if started:
            names, text = re.findall(r"(\w+):", started[1]), started[2]
        elif names:
            text += " " + line.strip()


def prose(comment: str) -> str:
    """A comment in one line, without the settings that it lists."""
    kept: list[str] = []
    listing = False
    for line in comment.split("\n"):
        listing = bool(SUB_SETTING.fullmatch(line)) or (listing and line.startswith("      "))
        if not listing:
            kept.append(line.strip())
    return " ".join(kept)


def of_command(name: str) -> list[Setting]:
    """The settings of a command that belong to no group.

    Args:
        name: "train" or "eval".
    """
    file = conf_dir() / f"{name}.yaml"
    cls = {"train": schema.TrainSettings, "eval": schema.EvalSettings}[name]
    found = []
    for key, line in read(file).items():
        if line.value or line.comment:
            kind = _words(_schema_type(cls, key.split("."))) if line.value else ""
            meanings = {line.comment: [""]} if line.comment else {}
            found.append(Setting(key, kind, {"": line.value}, meanings, _limits(key)))
    return found


def _schema_type(cls: type[Any], path: list[str]) -> str:
    hint = typing.get_type_hints(cls)[path[0]]
    return _annotation(hint) if len(path) == 1 else _schema_type(hint, path[1:])


def groups(name: str) -> dict[str, tuple[str, str]]:
    """Group → (the member it has by default, what it is for), as the defaults list of a command says."""
    text = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    rows = re.findall(r"^  - (\w+): (\S+)(?: +# *(.*))?$", text, re.MULTILINE)
    return {group: (default, about) for group, default, about in rows}


def documented(target: str, argument: str) -> str:
    """What a class, or one it derives from, says of an argument: the first sentence. "" if nothing."""
    for cls in inspect.getmro(imported_class(target)) if target else ():
        for holder in (cls, cls.__dict__.get("__init__")):
            text = getattr(holder, "__doc__", None)
            if text and argument in (args := _arguments(text)):
                sentence = re.split(r"(?<=[a-z)`]\.)\s", args[argument])[0]
                return re.sub(r"\W*\bdefault: [^)]*\)?", "", sentence, flags=re.IGNORECASE)
    return ""


def _arguments(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for section in parse_google(Docstring(inspect.cleandoc(docstring)), warnings=False):
        if isinstance(section, DocstringSectionParameters):
            for item in section.value:
                for name in item.name.split(","):
                    found[name.strip()] = " ".join(item.description.split())
    return found


def _type(target: str, argument: str) -> str:
    """The annotation of a class's argument, or of that of a class it derives from. "" if there is none."""
    for cls in inspect.getmro(imported_class(target)) if target else ():
        if cls is not object and "__init__" in cls.__dict__:
            found = inspect.signature(cls.__dict__["__init__"]).parameters.get(argument)
            if found is not None and found.annotation is not inspect.Parameter.empty:
                return _words(_annotation(_meant(found.annotation, cls)))
    return ""


def _meant(hint: Any, cls: type[Any]) -> Any:
    """An annotation of a class, or what it stands for if it is another name of a type, which would say little."""
    named = vars(sys.modules[cls.__module__]).get(hint) if isinstance(hint, str) else None
    return hint if named is None or inspect.isclass(named) else named


def _annotation(hint: Any) -> str:
    if isinstance(hint, str):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        text = " | ".join(dict.fromkeys(_annotation(part) for part in typing.get_args(hint)))
        return text if len(text) < WIDEST_TYPE else " | ".join(dict.fromkeys(map(_in_short, typing.get_args(hint))))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    return inspect.formatannotation(hint)


def _in_short(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(dict.fromkeys(type(value).__name__ for value in typing.get_args(hint)))
    return _annotation(hint)


def _words(annotation: str) -> str:
    """An annotation without the modules of its names, with null for None."""
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", annotation)
    text = re.sub(r"\bOptional\[(.*)\]$", r"\1 | None", text)
    return text.replace("NoneType", "null").replace("None", "null")


def _type_of_value(written: str) -> str:
    """The type of a value whose class says none."""
    if written.startswith("${") or not written:
        return ""
    value = yaml.safe_load(written)
    return "" if value is None else type(value).__name__
