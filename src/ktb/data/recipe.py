"""A training recipe for own data from what its training split holds: part of what `ktb-data new` writes.

The rules come from short trainings of swin_nano on two small data sets, one of field pictures with 92 % soil, 7 % weeds
and 2 % crop, one of road potholes (docs/datasets.md has the scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ktb.data.balance import MAX_RATIO, count_pixels
from ktb.data.base import RGBXDataModule
from ktb.errors import KTBError

STEPS = 4000
"""Optimiser steps that a training is given, within `EPOCHS`."""
EPOCHS = (40, 300)
RARE = 0.05
"""Share of the pixels below which a class is rare."""


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
        Setting("lr", "${backbone.lr}", "by backbone: 2e-3 for swin_nano, 4e-4 (as published) for larger ones"),
    ]
    try:
        counts = count_pixels(data).counts
    except KTBError:  # whoever opens the data next says what is wrong with its labels
        return settings
    shares = {name: n / sum(counts) for name, n in zip(data.spec.classes, counts, strict=True) if n}
    rare = sorted((name for name in shares if shares[name] < RARE), key=lambda name: shares[name])
    if rare and len(shares) > 1:
        named = ", ".join(f"{_plain(name)} {100 * shares[name]:.2g} %" for name in rare[:4])
        more = f" and {len(rare) - 4} more" if len(rare) > 4 else ""
        why = f"rare in the training pixels: {named}{more}. Weights are 1 / sqrt(share), {MAX_RATIO:g} : 1 at most"
        settings.append(Setting("class_weights", "auto", why))
    else:
        settings.append(Setting("class_weights", None, f"no class has less than {100 * RARE:g} % of the pixels"))
    return settings


def _plain(name: str) -> str:
    """A name as a comment of YAML can hold it."""
    return "".join(c if c.isprintable() else "?" for c in name)
