"""Overrides as the user types them, `key=value`, in Hydra's grammar: reading, quoting and completing them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ktb.config.moved import RENAMED
from ktb.io import expanded


def parse(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def parse_or_none(text: str) -> Override | None:
    try:
        return parse(text)
    except HydraException:
        return None


def values(override: Override) -> list[Any]:
    """The values of an override: one, or those of a sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    try:
        return [value.text if isinstance(value, QuotedString) else value for value in override.sweep_iterator()]
    except HydraException:  # an interval or a pattern: nothing to enumerate
        return []


def user_overrides(cfg: DictConfig) -> list[str]:
    """What the user wrote on the command line of the running job, without what `inherit` filled in."""
    filled = {"inherited", *(cfg.get("inherited") or ())}
    # Not resolved: an override may itself hold a reference, optim.lr='${dataset.recipe.lr}'.
    task = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
    return [of_today(text) for text in task if parse(text).key_or_group not in filled]


def of_today(text: str) -> str:
    """An override of a setting that has another name now, under that name."""
    key, equals, value = text.partition("=")
    name = key.lstrip("+")
    return f"{RENAMED.get(name, name)}{equals}{value}" if name in RENAMED else text


def overridden(overrides: Sequence[str]) -> set[str]:
    """The groups and settings that overrides name, with or without "+" in front."""
    return {parse(text).key_or_group for text in overrides}


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The settings of which `overrides` give several values."""
    return [o.key_or_group for o in map(parse, overrides) if o.is_sweep_override()]


def as_override(key: str, value: str) -> str:
    """`key=value` as Hydra reads it back, quoted where its grammar needs that."""
    text = f"{key}={value}"
    parsed = parse_or_none(text)
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == value:
        return text
    # Of what stands between quotes, quotes need a backslash, and so do backslashes before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
    return f"{key}='{escaped}'"


PATHS = ("dataset.root", "run_dir", "ckpt_path", "init_from", "checkpoint", "backbone.weights")
"""Settings that are one path, or a word in its place."""


def quoted_paths(overrides: Sequence[str]) -> list[str]:
    """`overrides` of one job with quotes around paths that Hydra's grammar would take for something else: a comma for
    several values, a bracket for a list, digits for a number. What is quoted already, and null, stay as they are."""
    found = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") in PATHS and value:
            parsed = parse_or_none(text)
            if parsed is None or parsed.is_sweep_override() or not isinstance(parsed.value(), str | None):
                text = as_override(key, value)
        found.append(text)
    return found


def at_home(overrides: Sequence[str]) -> list[str]:
    """Overrides with the `~` of their paths replaced, which Hydra's grammar refuses (and bash replaces, zsh does not).

    In quotes it is left to `check`.
    """
    result = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if "~" in value and parse_or_none(text) is None:
            value = re.sub(r"(?<![^\[,{:(=\s])~[^/\\,\]})\s]*", lambda m: expanded(m[0]).as_posix(), value)
            text = f"{key}{equals}{value}"
            if parse_or_none(text) is None:
                text = as_override(key, value)
        result.append(text)
    return result
