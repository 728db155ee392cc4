"""Weights of timm's models in a backbone's names: timm's own, inside other models, and as their authors name them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.vit import ViT
from ktb.weights.states import load_exactly
from ktb.weights.timm_names import from_timm_names, to_timm_names

STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
TINY: dict[str, Any] = {"depth": 4, "embed_dim": 32, "num_heads": 2}


def whole(name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """A classifier's weights as timm saves them."""
    torch.manual_seed(5)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return {k: torch.randn_like(v) if v.is_floating_point() else v
            for k, v in timm.create_model(name, **options).state_dict().items()}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model.", "backbone.", "visual.trunk."])
@pytest.mark.parametrize(
    ("name", "options", "family"),
    [
        ("convnext_atto", STAGES, Pyramid),
        ("tf_efficientnet_lite0", {}, Pyramid),
        ("vit_small_patch14_reg4_dinov2", TINY, ViT),
        ("vit_small_patch16_dinov3", TINY, ViT),
    ],
)
def test_a_classifiers_file_fits_exactly(
    name: str, options: dict[str, Any], family: type[Pyramid | ViT], prefix: str
) -> None:
    file = whole(name, options)
    backbone = family(name, options=options)
    state = from_timm_names(backbone, {prefix + k: v for k, v in file.items()})
    load_exactly(backbone, state, "file")
    back = to_timm_names(backbone)
    assert back.keys() < file.keys()
    assert all(torch.equal(v, file[k]) for k, v in back.items())
    assert not [k for k in back if k.startswith(("head.", "fc.", "classifier.", "fc_norm."))]


def test_the_authors_names_are_translated_by_timm() -> None:
    """DINOv2's own file holds a mask token, ConvNeXt's own other names for everything."""
    backbone = ViT("vit_small_patch14_dinov2", options=TINY)
    file = whole("vit_small_patch14_dinov2", TINY)
    load_exactly(backbone, from_timm_names(backbone, {**file, "mask_token": torch.zeros(1, 32)}), "file")
    pyramid = Pyramid("convnext_atto", options=STAGES)
    theirs = {}
    for k, v in whole("convnext_atto", STAGES).items():
        k = k.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace("conv_dw", "dwconv")
        k = k.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2").replace("head.norm.", "norm.")
        if ".downsample." in k:
            stage, _, rest = k.removeprefix("stages.").split(".", 2)
            k = f"downsample_layers.{stage}.{rest}"
        theirs[k.replace("head.fc.", "head.")] = v
    load_exactly(pyramid, from_timm_names(pyramid, theirs), "file")
    assert torch.equal(pyramid.state_dict()["model.stem.0.weight"], theirs["downsample_layers.0.0.weight"])


def test_other_weights_are_refused() -> None:
    backbone = Pyramid("convnext_atto", options=STAGES)
    with pytest.raises(CheckpointError, match="not the weights of timm's convnext_atto; its first name is 'a.weight'"):
        from_timm_names(backbone, {"a.weight": torch.zeros(1)})
    file = whole("convnext_atto", {**STAGES, "dims": [8, 16, 24, 40]})
    with pytest.raises(CheckpointError, match="of another shape"):
        load_exactly(backbone, from_timm_names(backbone, file), "file")
    del file["stem.0.weight"]
    file["surplus.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 missing: model.stem.0.weight; 1 unknown: model.surplus.weight"):
        load_exactly(backbone, from_timm_names(backbone, file), "file")
