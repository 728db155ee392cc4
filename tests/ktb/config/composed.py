"""Configurations for the tests of this room."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from ktb.config.compose import compose
from ktb.config.saved import resume_saved

OWN_DATA = (  # what dataset=folder leaves to the user
    "dataset.modalities={rgb: {files: rgb/*.png}, red_edge: {files: re/*.tif}}",
    "dataset.label={files: label/*.png}",
    "dataset.classes=[crop, weed]",
    "dataset.splits={train: 0.8, val: 0.2}",
)


def composed(*overrides: str, name: str = "train") -> DictConfig:
    return compose(name, overrides)


def resumed(saved: DictConfig, *overrides: str) -> DictConfig:
    return resume_saved(saved, composed(*overrides, "run_dir=r"), overrides, "last.ckpt: its configuration")


def started(*overrides: str) -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(composed(*overrides, "run_dir=r"), resolve=True))  # type: ignore[return-value]
