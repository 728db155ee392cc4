"""Settings that take over the value of another one, such as `optim.lr: ${dataset.recipe.lr}`, in a saved config.

A saved config is resolved: the reference is gone. Where the user changes what was referred to, the setting changes
with it, as it would in a new run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from ktb.config.keys import resolved, setting_names


def follow_references(kept: DictConfig, before: DictConfig, composed: DictConfig, given: set[str]) -> None:
    """A saved config is resolved. What refers to a changed setting (`optim.lr: ${dataset.recipe.lr}`) changes with it,
    unless the run had a value of its own there."""
    references = {key: ref for key in setting_names(composed) if (ref := _reference(composed, key))}
    ours = set(setting_names(before))
    changed = set(given)

    def under_given(key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in given)

    def due(key: str) -> bool:
        if under_given(key):
            return True
        ref = references[key]
        touched = any(f"{ref.key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{ref.key}.") for name in changed)
        if not touched or not (ref.optional or OmegaConf.select(before, ref.key) is not None):
            return False
        was, now, own = ref.value(before), ref.value(kept), OmegaConf.select(before, key)
        if isinstance(was, str) and isinstance(own, ListConfig):  # loss.class_weights: the numbers a word stood for
            return bool(now != was)
        return bool(own == was)

    while waiting := [key for key in references if due(key)]:
        key = next((key for key in waiting if references[key].key not in waiting), waiting[0])
        ref = references[key]
        if ref.optional or OmegaConf.select(kept, ref.key) is not None:
            value = ref.value(kept)
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
            OmegaConf.update(kept, key, value, merge=False, force_add=True)
        elif key in ours:  # what it refers to is younger than the run, and composed for another one's groups
            OmegaConf.update(kept, key, resolved(before, key), merge=False, force_add=True)
        changed.add(key)
        del references[key]


@dataclass(frozen=True)
class _Reference:
    """A setting whose value another one takes over as it is.

    key: its dotted name.
    optional: whether `default` stands where there is no such setting.
    """

    key: str
    optional: bool
    default: Any

    def value(self, cfg: DictConfig) -> Any:
        return OmegaConf.select(cfg, self.key, default=self.default)


def _reference(cfg: DictConfig, key: str) -> _Reference | None:
    """What `key` refers to, if it is nothing but a reference: `${a.b}` or `${oc.select:a.b,default}`."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig) or not OmegaConf.is_interpolation(node, leaf):
        return None
    text = str(OmegaConf.to_container(node, resolve=False)[leaf])  # type: ignore[index, call-overload]
    found = re.fullmatch(r"\$\{(oc\.select:)?\s*([\w.]+)\s*(?:,([^{}]*))?\}", text)
    if found is None or (found[3] is not None and not found[1]):
        return None
    return _Reference(found[2], bool(found[1]), yaml.safe_load(found[3]) if found[3] else None)
