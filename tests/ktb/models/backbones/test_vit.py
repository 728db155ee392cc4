"""Plain vision transformers of timm: the same features as timm's own at any size, and a trained pyramid of them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from ktb.errors import ConfigError
from ktb.models.backbones.vit import Neck, ViT
from tests.ktb.models.backbones.members import VITS, beside, features, lively, member


def timms_own(name: str, backbone: Any) -> Any:
    """The model as timm builds it, with a backbone's weights."""
    model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **VITS[name])
    state = {k.removeprefix("model."): v for k, v in backbone.state_dict().items()}
    assert not lively(model).load_state_dict(state, strict=False).unexpected_keys
    return model.eval()


@pytest.mark.parametrize("name", VITS)
def test_without_adapters_the_features_are_timms(name: str) -> None:
    """At the size of timm's weights, at another one, and at one that is padded."""
    backbone = member(name, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert isinstance(backbone, ViT)
    model = timms_own(name, backbone)
    native = 2 * backbone.patch * (model.patch_embed.img_size[0] // (2 * backbone.patch))
    ends = [(len(model.blocks) * (i + 1) + 2) // 4 - 1 for i in range(4)]
    for size in ((native, native), (4 * backbone.patch, 6 * backbone.patch), (33, 70)):
        images = torch.randn(1, 3, *size)
        h, w = backbone.covers(*size)
        with torch.no_grad():
            expected = model.forward_intermediates(
                F.pad(images, (0, w - size[1], 0, h - size[0])), indices=ends, intermediates_only=True
            )
            found = features(backbone, images)
        for a, b in zip(found, expected, strict=True):
            assert (a.permute(0, 3, 1, 2) - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_adapters_stand_beside_the_blocks_for_all_tokens(name: str) -> None:
    backbone = member(name, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    adapters = beside(backbone)
    model = timms_own(name, backbone)
    images = torch.randn(2, 3, 4 * backbone.patch, 6 * backbone.patch)  # type: ignore[operator]
    with torch.no_grad():
        found = features(backbone, images, adapters)
        x = model._pos_embed(model.patch_embed(images))
        x, given = (x[0], {"rope": x[1]}) if isinstance(x, tuple) else (x, {})
        x = model.norm_pre(x)
        for block, adapter in zip(model.blocks, [a for stage in adapters for a in stage], strict=True):  # type: ignore[attr-defined]
            x = adapter(x, block(x, **given))
    assert x.shape[1] == 5 + 4 * 6
    assert torch.allclose(found[3].flatten(1, 2), x[:, 5:], rtol=1e-4, atol=1e-5)


def test_class_and_register_tokens_go_along() -> None:
    backbone = member("vit_small_patch14_reg4_dinov2")
    tokens = backbone.embed(torch.randn(2, 3, 56, 56))
    assert tokens.extra is not None
    assert tokens.extra.shape == (2, 5, 32)
    changed = backbone.stage(0, tokens._replace(extra=tokens.extra + 1))
    assert changed.extra is not None
    assert changed.extra.shape == (2, 5, 32)
    assert not torch.allclose(changed.map, backbone.stage(0, tokens).map)
    assert member("vit_base_patch16_siglip_224").embed(torch.randn(1, 3, 32, 32)).extra is None


def test_blocks_come_in_four_groups() -> None:
    assert [len(member("vit_small_patch16_rope_mixed_224").blocks(i)) for i in range(4)] == [2, 1, 2, 1]
    backbone = member("vit_small_patch14_dinov2")
    assert backbone.strides == (3.5, 7, 14, 28)
    assert backbone.channels == (8, 16, 32, 32)
    with pytest.raises(ConfigError, match="it has 3 blocks, needed are 4 or more"):
        ViT("vit_tiny_patch16_224", options={"depth": 3, "embed_dim": 32, "num_heads": 2})


@pytest.mark.parametrize("scale", [4, 2, 1, 0.5])
def test_a_neck_moves_nothing_away_from_its_place(scale: float) -> None:
    """Only positions that lie on a patch depend on it."""
    neck = Neck(16, 8, scale)
    tokens = torch.zeros(1, 4, 6, 16)
    before = neck(tokens)
    assert before.shape == (1, 4 * scale, 6 * scale, 8)
    tokens[0, 2, 3] += torch.randn(16)
    changed = (neck(tokens) != before).any(-1)[0].nonzero()
    rows, columns = changed[:, 0] / scale, changed[:, 1] / scale
    assert len(changed) == max(1, scale**2)
    assert (rows >= 2).all()
    assert (rows < 3).all()
    assert (columns >= (2 if scale < 1 else 3)).all()
    assert (columns < 4).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_atto", "no list of blocks, patch embedding and position embedding"),
        ("cait_xxs24_224", "no list of blocks, patch embedding and position embedding"),
        ("deit_tiny_distilled_patch16_224", "takes only images of one size: Input height"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        ViT(name)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_rotary_embeddings_are_made_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are not learned."""
    for name, sizes in (
        ("vit_small_patch16_dinov3", [(4, 4), (4, 6)]),
        ("vit_small_patch16_rope_mixed_224", [(4, 4)] * 10 + [(4, 6)] * 5 + [(4, 4)] * 5),
    ):
        backbone: Any = member(name)
        family = type(backbone.model.rope)
        made = []

        def count(self: Any, shape: Any, theirs: Any = family.get_embed, made: list[Any] = made) -> Any:
            made.append(tuple(shape))
            return theirs(self, shape=shape)

        monkeypatch.setattr(family, "get_embed", count)
        for size in ((64, 64), (64, 64), (64, 96), (64, 64)):
            features(backbone, torch.randn(1, 3, *size))
        assert made == sizes
