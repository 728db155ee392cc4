"""A command's configuration with the user's settings, composed and checked, for commands and programs that are not
Hydra's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ktb.config.checks import check
from ktb.config.compose import compose
from ktb.config.mistakes import mistake
from ktb.config.modality import settle
from ktb.config.overrides import overridden
from ktb.errors import ConfigError


def checked(config_name: str, overrides: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """The configuration of ktb-train or ktb-eval with these settings.

    Args:
        config_name: "train" or "eval".
        overrides: as the user wrote them, paths quoted and homes replaced.
        folders: further config folders of the user (--config-dir).

    Raises:
        ConfigError: a setting that there is not, or a value that cannot work.
    """
    if text := mistake(config_name, overrides, folders):
        raise ConfigError(text)
    cfg = compose(config_name, overrides, folders)
    check(cfg)
    settle(cfg, overridden(overrides), folders)
    return cfg
