"""A training recipe for own data from what its training split holds: part of what `ktb-data new` writes.

Loss and learning rate follow short trainings of swin_nano and EfficientNet-Lite0 on field pictures with 92 % soil, 7 %
weeds and 2 % crop, and on road potholes (docs/datasets.md and docs/backbones.md have the scores). The number of steps,
and from which share on a class is rare, are judgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ktb.data.balance import MAX_RATIO, count_pixels
from ktb.data.module import RGBXDataModule
from ktb.errors import KTBError

STEPS = 4000
"""Optimiser steps that a training is given, within `EPOCHS`."""
EPOCHS = (40, 300)
RARE = 0.05
"""Share of the pixels below which a class is rare."""
LEARNING_RATE = "by backbone: 2e-3 for efficientnet_lite0 and swin_nano, 4e-4 (as published) for larger ones"
LOVASZ = "Lovasz goes by the IoU of each class, cross-entropy (ce) by pixels, of which a rare class has few"


@dataclass(frozen=True)
class Setting:
    """`key: value` of the data set's configuration, and why."""

    key: str
    value: Any
    reason: str


def guess_recipe(data: RGBXDataModule) -> list[Setting]:
    """Settings of `dataset.recipe` that fit the training split.

    Raises:
        KTBError: the split cannot be opened.
    """
    batches = max(1, len(data.dataset("train")) // data.batch_size)
    epochs = min(max(-(-STEPS // batches), EPOCHS[0]), EPOCHS[1])
    per_epoch = f"{batches} step{'s' * (batches > 1)} per epoch"
    settings = [
        Setting("epochs", epochs, f"{per_epoch}: {epochs * batches} steps; more if the report says so"),
        Setting("warmup_epochs", max(1, round(epochs / 20)), "the first twentieth"),
        Setting("lr", "${backbone.lr}", LEARNING_RATE),
    ]
    try:
        counts = count_pixels(data).counts
    except KTBError:  # `ktb-data check` or training will say what is wrong with the labels
        return settings
    shares = {name: n / sum(counts) for name, n in zip(data.spec.classes, counts, strict=True) if n}
    rare = sorted((name for name in shares if shares[name] < RARE), key=lambda name: shares[name])
    absent = [name for name in data.spec.classes if name not in shares]
    without = f"; without a training pixel, so never learned: {_few(absent)}" if absent else ""
    if rare and len(shares) > 1:
        named = _few([f"{name} {100 * shares[name]:.2g} %" for name in rare])
        why = f"rare in the training pixels: {named}. Weights are 1 / sqrt(share), {MAX_RATIO:g} : 1 at most{without}"
        settings.append(Setting("class_weights", "auto", why))
        settings.append(Setting("pixel_loss", {"ce": 1, "lovasz": 1}, LOVASZ))
    else:
        why = f"no class has less than {100 * RARE:g} % of the training pixels{without}"
        settings.append(Setting("class_weights", None, why))
    return settings


def _few(names: Sequence[str]) -> str:
    """The first of `names` and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(map(_plain, names[:4])) + more


def _plain(name: str) -> str:
    """A name as a comment of YAML can hold it."""
    return "".join(c if c.isprintable() else "?" for c in name)
