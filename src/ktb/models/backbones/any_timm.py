"""A backbone out of any model of timm, whichever family it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ktb.models.backbones.base import Backbone
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.timm_model import create, taps_of
from ktb.models.backbones.vit import ViT, is_plain


def any_timm(
    timm_name: str,
    drop_path: float = 0.0,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Backbone:
    """A `ViT` where all feature maps are of one scale, else a `Pyramid`; see there for arguments and errors."""
    with torch.device("meta"):
        model = create(timm_name, drop_path, options or {})
    family = ViT if is_plain(model) and len({tap["reduction"] for tap in taps_of(model)}) == 1 else Pyramid
    return family(timm_name, drop_path, mean=mean, std=std, options=options)
