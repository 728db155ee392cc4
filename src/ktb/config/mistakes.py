"""What cannot be composed, in words: the first override that is wrong, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ktb.config.compose import compose, groups
from ktb.config.keys import setting_names
from ktb.config.moved import RENAMED
from ktb.config.overrides import parse, parse_or_none, values
from ktb.errors import did_you_mean, first_line, nearest

SEVERAL = ("callbacks", "logger", "experiment")
"""Groups of which several members may be chosen, as a list."""


def mistake(
    config_name: str, overrides: Sequence[str], extra: Sequence[Path] = (), *, multirun: bool = False
) -> str | None:
    """One line for the first override that cannot be composed: what was found, what there is, what was probably meant.

    Hydra's own messages name neither the nearest key nor, for most errors, the alternatives, so the overrides are
    looked at here in the order in which they can go wrong. None: nothing wrong with them was found.
    """
    if wrong := several_of_one(config_name, overrides, extra):
        return wrong
    offered = groups(config_name, extra)
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(parse(text))
        except HydraException as broken:
            return _unreadable(text, broken, config_name)

    choices: list[str] = []
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if override.is_sweep_override() and not multirun:
            written = text.partition("=")[2]
            return (
                f"'{text}' lists several values: add -m for one job each, or write {key}=[{written}] for a list, or "
                f"'{key}=\"{written}\"' for a text with a comma"
            )
        if key not in offered or override.is_delete():
            continue
        if override.is_add() and key != "experiment":
            return f"'{text}' adds a group that is there already: write {text[1:]}"
        for value in values(override):
            if value is None and key not in ("experiment", "logger", "robustness"):
                return f"{key}=null: one of them is needed: {', '.join(offered[key])}"
            for member in value if isinstance(value, list) else [value]:
                if member is not None and member not in offered[key]:
                    near = did_you_mean(str(member), offered[key], cutoff=0.5, before=": ")
                    return f"unknown {key} '{member}'{near} (there are: {', '.join(offered[key])})"
        choices += [f"{key}={_written(value)}" for value in values(override)[:1]]

    try:
        cfg = compose(config_name, choices, extra)
    except OSError:  # a file that can't be read, or no current folder: no override is at fault
        raise
    except Exception as error:
        return composition_error(error)

    by_name = {override.key_or_group for override in parsed}
    keys = [*offered, *setting_names(cfg)]
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if override.is_add() and key in keys and key not in offered:
            return f"'{text}' adds a setting that is there already: write {text[1:]}"
        if key in offered or override.is_hydra_override() or override.is_add() or override.is_force_add():
            continue
        if key not in keys:
            meant = _nearest_key(key, [k for k in keys if k not in RENAMED])
            if meant in offered:
                members = ", ".join(offered[meant])
                return f"unknown setting '{key}': did you mean '{meant}'? (there are: {members})"
            group = key.partition(".")[0]
            member = OmegaConf.select(cfg, f"{group}.name") if group in offered else None
            of = f" of {group}={member}" if member else ""
            if member and {"ckpt_path", "init_from"} & set(by_name) and group not in by_name:
                return f"unknown setting '{key}'{of}, the default: say which {group} the run has: {group}=... {text}"
            hint = f": did you mean '{meant}'?" if meant else ""
            adds = "" if override.is_delete() else f" (+{text} adds a new one)"
            return f"unknown setting '{key}'{of}{hint}{adds}"
        if override.is_delete():
            continue
        for value in values(override):
            try:
                OmegaConf.update(cfg, key, value, merge=True)
            except OmegaConfBaseException as error:
                wanted = "expected a list: [a,b]" if "ListConfig" in str(error) else _first_line(error)
                return f"{key}={value}: {wanted}"
    return None


def several_of_one(config_name: str, overrides: Sequence[str], extra: Sequence[Path] = ()) -> str | None:
    """One line for a list of members of a group of which one is chosen.

    Hydra puts them on top of each other, so that `loss=[ce,dice]` would train with dice alone, without a word.

    Args:
        config_name, overrides, extra: as in `mistake`.

    Returns:
        None: there is no such list.
    """
    for override in filter(None, map(parse_or_none, overrides)):
        key = override.key_or_group
        given = [] if override.is_delete() else values(override)
        lists = [value for value in given if isinstance(value, list) and len(value) > 1]
        if lists and key not in SEVERAL and key in groups(config_name, extra):
            members = ",".join(map(str, lists[0]))
            return f"{key}=[{members}]: one is chosen, and the last would win; for a job each: -m {key}={members}"
    return None


def composition_error(error: Exception) -> str:
    """One line for an error of Hydra's that no single override explains."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        there = f" (there are: {', '.join(error.options)})" if error.options else ""
        return f"unknown {group} '{name}'{there}" if group else f"no config '{name}'"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return _first_line(error)


def _unreadable(text: str, error: HydraException, config_name: str) -> str:
    if "=" not in text and not text.startswith("~"):
        if config_name == "eval" and ("/" in text or Path(text).exists()):
            return f"cannot read '{text}': write checkpoint={text}"
        return f"cannot read '{text}': settings are written as key=value"
    key, _, value = text.partition("=")
    quoted = f'"{value}"'
    if re.fullmatch(r"\[[^\[\]{}\"']+\]", value):  # a list in quotes would be a text
        quoted = "[" + ",".join(f'"{item.strip()}"' for item in value[1:-1].split(",")) + "]"
    return (
        f"cannot read the value of '{key}' in '{text}' ({_first_line(error)}); "
        f"text with special characters needs quotes within quotes: '{key}={quoted}'"
    )


def _written(value: Any) -> str:
    """A member of a group, none or several of them, as an override has them."""
    return f"[{','.join(value)}]" if isinstance(value, list) else "null" if value is None else str(value)


def _nearest_key(key: str, keys: Sequence[str]) -> str | None:
    leaf = key.rpartition(".")[2]
    if same := [k for k in keys if k.rpartition(".")[2] == leaf]:
        return same[0]
    if close := nearest(key, keys, cutoff=0.7):
        return close
    leaves = {k.rpartition(".")[2]: k for k in reversed(keys)}
    close = nearest(leaf, leaves, cutoff=0.7)
    return leaves[close] if close else None


def _first_line(error: Exception) -> str:
    """The first line of an error, or of OmegaConf's behind it, where Hydra leaves its own empty."""
    cause = error.__cause__
    return first_line(cause if isinstance(cause, OmegaConfBaseException) else error, limit=None)
