"""The statistics that RGB images arrive with, and those that weights were trained with."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

from ktb.data.spec import IMAGENET_MEAN, IMAGENET_STD
from ktb.errors import ConfigError
from ktb.models.backbones import entry
from ktb.models.backbones.entry import Normalisation
from ktb.models.backbones.pyramid import Pyramid
from tests.ktb.models.backbones.members import features, lively, member


def as_data(pixels: torch.Tensor) -> torch.Tensor:
    """RGB in [0, 1] as the data modules hand it over."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), (IMAGENET_MEAN, IMAGENET_STD)],
)
def test_images_get_the_statistics_of_the_weights(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    pixels = torch.rand(2, 3, 4, 5)
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    normalisation = Normalisation(mean, std)
    assert torch.allclose(normalisation(as_data(pixels)), expected, atol=1e-6)
    assert normalisation.needed == (mean != IMAGENET_MEAN)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_base_patch16_siglip_224"])
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_features_are_those_of_timm_with_its_own_normalisation(name: str, size: tuple[int, int]) -> None:
    """Whose weights were trained with mean and deviation 0.5; padding is zero after normalisation there too."""
    from tests.ktb.models.backbones.members import ALL

    backbone = member(name)
    assert backbone.config["mean"] == [0.5, 0.5, 0.5]
    options = {"dynamic_img_size": True} if "vit" in name else {}
    model = lively(timm.create_model(name, pretrained=False, num_classes=0, **ALL[name], **options)).eval()
    model.load_state_dict({k.removeprefix("model."): v for k, v in backbone.state_dict().items()}, strict=False)
    pixels = torch.rand(1, 3, *size)
    h, w = backbone.covers(*size)
    images = F.pad((pixels - 0.5) / 0.5, (0, w - size[1], 0, h - size[0]))
    with torch.no_grad():
        expected = model.forward_intermediates(images, indices=4, intermediates_only=True)
        found = features(backbone, as_data(pixels))
    assert (found[3].permute(0, 3, 1, 2) - expected[3]).abs().max() <= 1e-5 * max(1.0, float(expected[3].abs().max()))


def test_another_modality_arrives_as_it_is() -> None:
    """Its own entry is trained, from values in [0, 1]."""
    backbone = member("tf_efficientnet_lite0")
    entry = backbone.entry_for(1)
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(backbone.embed(images, entry).map, entry(images).permute(0, 2, 3, 1))


def test_every_branch_that_begins_at_the_image_takes_other_channels() -> None:
    """FastViT's first layer is a sum of two convolutions of the image."""
    backbone = Pyramid("fastvit_t8")
    grey = torch.rand(1, 1, 64, 64)
    expected = backbone.embed(grey.expand(-1, 3, -1, -1), backbone.entry_for(3)).map
    for channels in (1, 4, 6):
        found = backbone.embed(grey.expand(-1, channels, -1, -1), backbone.entry_for(channels)).map
        if channels == 4:  # the first filter is there twice
            assert found.shape == expected.shape
        elif channels == 6:
            assert torch.allclose(found, expected, atol=1e-5)


def test_first_layers_for_three_channels_only_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "widen", lambda module, channels: None)
    with pytest.raises(ConfigError, match=r"convnext_atto can't be .*: its first layers take three channels only "):
        member("convnext_atto")
