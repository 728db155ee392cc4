"""A backbone out of any model of timm, whichever family it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ktb.models.backbones.base import Backbone
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.timm_model import create, taps_of
from ktb.models.backbones.vit import ViT, is_plain


class AnyTimm(Backbone):
    """Builds a `ViT` where all of a model's feature maps are of one scale, else a `Pyramid`; settings are theirs."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Backbone:
        """Build the backbone that a `config` describes, with fresh weights.

        Raises:
            ConfigError: the model is none of the two; see `Pyramid` and `ViT`.
        """
        with torch.device("meta"):
            model = create(config["timm_name"], config.get("drop_path", 0.0), config.get("options") or {})
        family = ViT if is_plain(model) and len({tap["reduction"] for tap in taps_of(model)}) == 1 else Pyramid
        return family.from_config(config)
