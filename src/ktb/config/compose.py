"""What the groups of `conf/` offer, and composing a configuration out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import ktb.config.schema  # noqa: F401  what is composed is checked against
from ktb.config.conf_folder import conf_dir
from ktb.config.overrides import parse
from ktb.io import expanded, is_hidden


def groups(config_name: str, extra: Sequence[Path] = ()) -> dict[str, tuple[str, ...]]:
    """Config group → its members, for the groups that `config_name`'s defaults list offers, in that order.

    extra: further config folders of the user (--config-dir), whose members count too.
    """
    primary = yaml.safe_load((conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8"))
    names = [key for item in primary["defaults"] if isinstance(item, dict) for key in item if " " not in key]
    folders = (conf_dir(), *extra)
    found = {name: [f for d in folders for f in (d / name).glob("*.yaml") if not is_hidden(f.name)] for name in names}
    return {name: tuple(sorted({f.stem for f in files})) for name, files in found.items()}


def compose(
    config_name: str, overrides: Sequence[str], folders: Sequence[Path] = (), *, with_hydra: bool = False
) -> DictConfig:
    """The configuration of a command, as Hydra composes it.

    Args:
        config_name: "train" or "eval".
        overrides: of one job, in Hydra's grammar.
        folders: further config folders of the user (--config-dir).
        with_hydra: keep Hydra's own settings, as `hydra`.

    Raises:
        HydraException, OmegaConfBaseException, yaml.YAMLError: an override that is wrong; `ktb.config.mistakes` has
            the words for it.
    """
    search = [f"hydra.searchpath=[{','.join(repr(f'file://{p.resolve()}') for p in folders)}]"] if folders else []
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # it would refuse to compose beside a command's own
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return hydra_compose(config_name, overrides=[*overrides, *search], return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = running


def config_folders() -> list[Path]:
    """The folders that the running job's configuration was composed from."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def sweep_dir(config_name: str, overrides: Sequence[str], extra: Sequence[Path] = ()) -> Path:
    """Where Hydra would put this sweep, absolute; what is wrong with its launcher or sweeper is raised here.

    Raises:
        HydraException, OmegaConfBaseException: a launcher, a sweeper or one of their settings that there is not.
    """
    ours = [text for text in overrides if parse(text).is_hydra_override() and not parse(text).is_sweep_override()]
    cfg = compose(config_name, ours, extra, with_hydra=True)
    return expanded(cfg.hydra.sweep.dir).absolute()
