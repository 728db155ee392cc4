"""The settings of a configuration by their dotted names, such as `optim.lr`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf


def setting_names(cfg: DictConfig, path: str = "") -> Iterator[str]:
    """Dotted names of all settings, interpolations not followed."""
    key: Any
    for key in cfg:  # not all are text: label.map of a data set has stored ids
        here = f"{path}.{key}" if path else str(key)
        yield here
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            node = cfg[key]
            if isinstance(node, DictConfig):
                yield from setting_names(node, here)


def missing_names(cfg: DictConfig, path: str = "") -> Iterator[str]:
    """Dotted names of the mandatory settings without a value, interpolations not followed."""
    key: Any
    for key in cfg:
        here = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(cfg, key):
            yield here
        elif not OmegaConf.is_interpolation(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from missing_names(cfg[key], here)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that holds nothing further; `_target_` in any case."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here, value
            else:
                yield from leaves(value, here)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, node


def resolved(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def unresolved(cfg: Any) -> dict[str, Any]:
    """A configuration as plain values, references (`${...}`) as they are written."""
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
