"""Which modalities are used, and what their selection is called: the one place where that is settled.

A configuration says it twice: the group modality has a name and `streams`, and the data set has the `streams` that it
is built with, by default a reference to those of the group. Either may be overridden, and a saved configuration has no
references any more. After `settle` both agree, and the name, which run folders and dashboards show, is theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from ktb.config.compose import groups
from ktb.config.conf_folder import conf_dir
from ktb.config.keys import resolved
from ktb.errors import ConfigError


def settle(
    cfg: DictConfig, given: Collection[str] = (), folders: Sequence[Path] = (), before: DictConfig | None = None
) -> None:
    """Let the data set's streams, the group's streams and the group's name agree.

    Args:
        cfg: a composed configuration, or a saved one with overrides put over it; changed in place.
        given: the groups and settings that the user overrode. A name of the user's own stays.
        folders: further config folders, whose members of the group modality count too.
        before: of a saved configuration, what it was without the overrides.

    Raises:
        ConfigError: the data set's streams are no list.
    """
    if {"dataset", "modality"}.intersection(cfg.get("inherited") or ()):
        return  # they will come from the checkpoint's run, and are settled then
    chosen = {"dataset", "modality", "modality.streams"}.intersection(given) and "dataset.streams" not in given
    if before is not None and chosen:
        OmegaConf.update(cfg, "dataset.streams", resolved(cfg, "modality.streams"), force_add=True)
    elif (streams := resolved(cfg, "dataset.streams")) is not None:
        if not isinstance(streams, list):
            raise ConfigError(f"dataset.streams={streams}: expected a list: [a,b]")
        OmegaConf.update(cfg, "modality.streams", streams)
    streams, name = resolved(cfg, "modality.streams"), str(cfg.modality.name)
    if "modality.name" in given:
        return
    known = _streams_of(name, folders)
    if known is None and before is not None:  # the name of a member that lies elsewhere
        known = resolved(before, "modality.streams")
    if known != streams:
        OmegaConf.update(cfg, "modality.name", name_of(streams))


def name_of(streams: Sequence[str]) -> str:
    """What a selection of modalities is called: as ktb's own member of the group with these, `rgb_d` for rgb and
    depth, else by their names, `rgb_red_edge`."""
    joined = "_".join(streams)
    members = [name for name in groups("train")["modality"] if _streams_of(name, ()) == list(streams)]
    return joined if joined in members or not members else members[0]


def _streams_of(name: str, folders: Sequence[Path]) -> list[str] | None:
    """The streams of a member of the group modality; None if there is none of this name, or they depend on others."""
    for folder in (*folders, conf_dir()):
        file = folder / "modality" / f"{name}.yaml"
        if file.is_file():
            streams = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("streams")
            return streams if isinstance(streams, list) else None
    return None
