"""Models of timm with stages: the same features as timm's own, with something beside each block."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from ktb.errors import ConfigError
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.timm_model import taps_of
from tests.ktb.models.backbones.members import PYRAMIDS, Beside, beside, features, lively, member


def timms_own(name: str, backbone: Pyramid, **given: Any) -> Any:
    """The model as timm builds it, with a backbone's weights."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in PYRAMIDS[name].items()}
    if "swin" in name:
        options["strict_img_size"] = False
    model = lively(timm.create_model(name, pretrained=False, num_classes=0, **options, **given)).eval()
    state = {k.removeprefix("model."): v for k, v in backbone.state_dict().items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    return model


def timms_features(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    scales = [tap["reduction"] for tap in taps_of(model)]
    last = [max(i for i, s in enumerate(scales) if s == scale) for scale in sorted(set(scales))[-4:]]
    found: list[torch.Tensor] = model.forward_intermediates(images, indices=last, intermediates_only=True)
    return [x.permute(0, 2, 3, 1) for x in found]


@pytest.mark.parametrize("name", PYRAMIDS)
def test_without_adapters_the_features_are_timms(name: str) -> None:
    backbone = member(name, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert isinstance(backbone, Pyramid)
    model = timms_own(name, backbone)
    for size in ((64, 96), (33, 70)):
        images = torch.randn(2, 3, *size)
        h, w = backbone.covers(*size)
        with torch.no_grad():
            expected = timms_features(model, F.pad(images, (0, w - size[1], 0, h - size[0])))
            found = features(backbone, images)
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", ["convnext_atto", "tf_efficientnet_lite0", "resnet18"])
def test_features_only_gives_the_same(name: str) -> None:
    backbone = member(name, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    options = {k: tuple(v) for k, v in PYRAMIDS[name].items()}
    model = timm.create_model(name, pretrained=False, features_only=True, **options).eval()
    theirs = {re.sub(r"^(stem|stages|blocks)_", r"\1.", k): v for k, v in model.state_dict().items()}
    ours = {k.removeprefix("model."): v for k, v in backbone.state_dict().items()}
    assert theirs.keys() == ours.keys()
    for k, v in theirs.items():
        v.copy_(ours[k])
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(features(backbone, images), model(images)[-4:], strict=True):
            assert torch.allclose(a, b.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_the_adapter_stands_beside_the_block() -> None:
    """y = block(x) + A(x), written down with timm's own blocks, of ConvNeXt with its downsampling before the blocks."""
    backbone = member("convnext_atto", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    adapters = beside(backbone)
    model = timms_own("convnext_atto", backbone)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = features(backbone, images, adapters)
        x = model.stem(images)
        for i, stage in enumerate(model.stages):
            x = stage.downsample(x)
            for block, adapter in zip(stage.blocks, adapters[i], strict=True):  # type: ignore[arg-type]
                x = adapter(x.permute(0, 2, 3, 1), block(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            assert torch.allclose(found[i], x.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_behind_a_block_that_changes_the_map_the_adapter_takes_what_the_block_gives() -> None:
    backbone = member("resnet18", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    adapters = beside(backbone)
    model = timms_own("resnet18", backbone)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = features(backbone, images, adapters)
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        for i, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
            for block, adapter in zip(layer, adapters[i], strict=True):  # type: ignore[arg-type]
                y = block(x)
                given = x if x.shape == y.shape else y
                x = adapter(given.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            assert torch.allclose(found[i], x.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_tokens_come_to_the_adapter_as_a_map() -> None:
    backbone = member("pvt_v2_b0")
    seen = []

    class Look(Beside):
        def forward(self, tokens: torch.Tensor, add: torch.Tensor) -> torch.Tensor:
            seen.append((tuple(tokens.shape), tuple(add.shape)))
            return super().forward(tokens, add)

    features(backbone, torch.randn(2, 3, 64, 96), [[Look(c) for c in cs] for cs in backbone.adapter_channels])
    maps = [(2, 16, 24, 8), (2, 8, 12, 16), (2, 8, 12, 16), (2, 4, 6, 24), (2, 2, 3, 32)]
    assert seen == [(shape, shape) for shape in maps]


def test_efficientnet_begins_at_stride_4_and_keeps_its_widths() -> None:
    backbone = member("tf_efficientnet_lite0")
    assert backbone.strides == (4, 8, 16, 32)
    assert backbone.channels == (24, 40, 112, 320)
    assert backbone.prompt_channels == (32, 24, 40, 112)  # of the maps that come into the stages
    assert backbone.adapter_channels == ((16, 24, 24), (40, 40), (80,) * 3 + (112,) * 3, (192,) * 4 + (320,))
    # Of the 296 tensors of the classifier's file, all but the last convolution, its norm and the classifier.
    assert len(backbone.state_dict()) == 288


def test_norms_and_activations_between_blocks_are_no_blocks() -> None:
    backbone = member("densenet121")
    assert [[type(block).__name__ for block in backbone.blocks(i)] for i in range(4)] == [
        ["DenseBlock"], ["Conv2d", "DenseBlock"], ["Conv2d", "DenseBlock"], ["Conv2d", "DenseBlock"],
    ]  # fmt: skip


def test_stochastic_depth_follows_the_mode() -> None:
    backbone = member("convnext_atto", drop_path=0.9)
    images = torch.randn(4, 3, 64, 64)
    still = features(backbone, images)[3]
    assert torch.equal(features(backbone, images)[3], still)
    backbone.train()
    assert not torch.equal(features(backbone, images)[3], features(backbone, images)[3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_atom", "has no model 'convnext_atom'; did you mean 'convnext_atto'"),
        ("convnext_atto.no_such_tag", "can't be built: .*no_such_tag"),
        ("levit_128s", r"feature maps of 3 scales \(pixels per position: 16, 32, 64\); needed are four"),
        ("vit_tiny_patch16_224", r"feature maps of 1 scales"),
        ("dla46_c", "needs more than the map before it"),
        ("coat_lite_tiny", "takes none of the sizes tried: Input height"),
        ("hrnet_w18_small", "its feature map 'stage1' is not one of its parts"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        Pyramid(name)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_arguments_of_timm_that_do_not_fit_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="efficientvit_b0 has no stochastic depth: drop_path must be 0, got 0.1"):
        Pyramid("efficientvit_b0", 0.1)
    with pytest.raises(ConfigError, match="convnext_atto can't be built: .*no_such_argument"):
        Pyramid("convnext_atto", options={"no_such_argument": 1})
    with pytest.raises(ConfigError, match="mean and std must be three numbers each, std above 0"):
        Pyramid("convnext_atto", mean=[0.5], std=[0.5, 0.5, 0.0])
