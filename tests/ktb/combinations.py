"""Whole models out of every part that the configuration offers, as small as they come, each pair of parts at least
once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ktb.config.compose import conf_dir, groups
from ktb.models.backbones.base import Backbone
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from tests.ktb.models.backbones.members import FEW, lively, member

BACKBONES = ("swin", *FEW)
"""Families, and of timm's models one of each way in which blocks are called and positions are told."""
MODALITIES: dict[str, dict[str, int]] = {
    "rgb": {"rgb": 3},
    "lidar": {"lidar": 1},
    "rgb_polar": {"rgb": 3, "polar": 4},
    "nir_rgb_polar": {"nir": 1, "rgb": 3, "polar": 4},
}
OFFERED = groups("train")


class Combination(NamedTuple):
    """One choice of every part, by the names of the groups' members."""

    backbone: str
    peft: str
    fusion: str
    head: str
    modalities: str

    def __str__(self) -> str:
        return "-".join(self)


def pairwise(*choices: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Rows with one value of each list, in which every two values of two lists meet at least once: always the row that
    brings most pairs that have not been."""

    def pairs(row: Sequence[str]) -> set[tuple[tuple[int, str], ...]]:
        return set(itertools.combinations(enumerate(row), 2))

    rows = {row: pairs(row) for row in itertools.product(*choices)}
    missing = set().union(*rows.values())
    while missing:
        row = max(rows, key=lambda row: len(rows[row] & missing))
        missing -= rows[row]
        yield row


COMBINATIONS = [
    Combination(*row)
    for row in pairwise(BACKBONES, OFFERED["peft"], OFFERED["fusion"], OFFERED["head"], tuple(MODALITIES))
]


EACH = [
    Combination(backbone, *(OFFERED[part][i % len(OFFERED[part])] for part in ("peft", "fusion", "head")), modalities)
    for i, (backbone, modalities) in enumerate(
        zip(BACKBONES, itertools.cycle([*MODALITIES, *reversed(MODALITIES)]), strict=False)
    )
]
"""A few, with each part at least once, for what takes long."""


def settings(group: str, name: str) -> dict[str, Any]:
    """A member of a group of parts as plain values, its widths small."""
    small = {"backbone": {"head_dim": 16, "side_head_dim": 8}, "dataset": {}}
    cfg = OmegaConf.create({**small, group: OmegaConf.load(conf_dir() / group / f"{name}.yaml")})
    values: Any = OmegaConf.to_container(cfg[group], resolve=True)
    return {key: value for key, value in values.items() if key != "name"}


def small_backbone(name: str) -> Backbone:
    if name == "swin":
        return lively(FrozenSwin(SwinArch(16, (2, 1, 1, 1), (1, 2, 2, 4), 4, 2.0))).eval()  # type: ignore[no-any-return]
    return member(name)


def build(one: Combination, num_classes: int = 5, modalities: Mapping[str, int] | None = None) -> KTBSegmentor:
    """The model of a combination, all of its weights away from the zeros of the start, in evaluation mode.

    Args:
        one: its parts.
        num_classes: K.
        modalities: name → channels; None: those of the combination.
    """
    torch.manual_seed(0)
    head = settings("head", one.head)
    side = head.pop("side")
    model = KTBSegmentor(
        small_backbone(one.backbone),
        modalities or MODALITIES[one.modalities],
        num_classes,
        peft=settings("peft", one.peft),
        fusion=settings("fusion", one.fusion),
        head=head,
        side_head={**head, **side},
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and not name.startswith("backbone."):
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@functools.cache
def built(one: Combination) -> KTBSegmentor:
    """The same, built once; not to be changed."""
    return build(one)


def images(model: KTBSegmentor, batch: int, height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    channels: Mapping[str, int] = model.config["modalities"]
    return {m: torch.rand(batch, c, height, width, generator=generator) for m, c in channels.items()}
