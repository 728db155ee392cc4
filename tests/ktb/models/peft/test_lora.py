"""LoRA on real timm blocks: it starts as the frozen model, trains its own parameters only, folds away exactly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.backbones import swin
from ktb.models.backbones.base import Tokens
from ktb.models.backbones.pyramid import Pyramid
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.layers.plain_or_fast import plain_forms
from ktb.models.peft.lora import LoRA, LoRAConv2d, LoRALinear, LowRank, attach


class Timm(nn.Module):
    """A tiny timm model as the backbone of a test: its blocks in stages, and its forward pass."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        sizes: dict[str, dict[str, Any]] = {
            "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)},
            "swinv2_tiny_window8_256": {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)},
            "convnext_atto": {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)},
            "efficientnet_lite0": {},
            "beit_base_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 2},
            "resnet18": {},
        }
        torch.manual_seed(0)
        self.model = timm.create_model(kind, num_classes=0, **sizes[kind]).double().requires_grad_(False)
        for p in self.model.parameters():
            nn.init.normal_(p, std=0.2)  # also those that start at zero, such as layer scales
        self.prompt_channels = tuple(0 for _ in self.stages())
        self.adapter_channels = tuple((0,) * len(stage) for stage in self.stages())
        self.eval()

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        return list(self.stages()[stage])

    def stages(self) -> list[Sequence[nn.Module]]:
        model: Any = self.model
        if self.kind.startswith("swin"):
            return [layer.blocks for layer in model.layers]
        if self.kind.startswith("convnext"):
            return [stage.blocks for stage in model.stages]
        if self.kind == "resnet18":
            return [model.layer1, model.layer2]
        return list(model.blocks) if self.kind.startswith("efficientnet") else [model.blocks]

    def forward(self, x: Tensor) -> Tensor:
        return cast(Any, self.model).forward_features(x)


SIZE = {"swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256, "beit_base_patch16_224": 224}
KINDS = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "convnext_atto", "efficientnet_lite0",
         "beit_base_patch16_224", "resnet18"]  # fmt: skip


def images(kind: str) -> Tensor:
    size = SIZE.get(kind, 64)
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def lora(backbone: Timm, **settings: Any) -> LoRA:
    return LoRA(("rgb",), backbone, **settings)


def disturbed(peft: LoRA) -> LoRA:
    """With products that are not zero any more."""
    for p in peft.parameters():
        nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(2))
    return peft


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_frozen_model_and_folds_into_it(kind: str) -> None:
    """SwinV2 and BEiT read the weight of their q/k/v layer, ConvNeXt and Swin call theirs, EfficientNet has none but
    convolutions: in all of them every product changes the result, gets a gradient, and can be folded away."""
    backbone, x = Timm(kind), images(kind)
    frozen = {k: v.clone() for k, v in backbone.state_dict().items()}
    with torch.no_grad():
        before = backbone(x)
    peft = lora(backbone, rank=2)
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {k: v.shape for k, v in frozen.items()}
    with torch.no_grad():
        assert torch.allclose(backbone(x), before, rtol=1e-12, atol=1e-12)
    disturbed(peft)
    after = backbone(x)
    assert (after - before).abs().max() > 1e-3
    after.square().sum().backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert [name for name, p in peft.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(torch.equal(v, frozen[k]) for k, v in backbone.state_dict().items())

    peft.merge()
    assert list(peft.parameters()) == []
    assert not any(isinstance(m, LoRALinear | LoRAConv2d) for m in backbone.modules())
    assert backbone.state_dict().keys() == frozen.keys()
    with torch.no_grad():
        assert (backbone(x) - after).abs().max() <= 1e-9 * after.abs().max()


class Swin(FrozenSwin):
    def __init__(self) -> None:
        super().__init__(SwinArch(16, (1, 2, 1, 1), (1, 2, 2, 4), 4, mlp_ratio=2, drop_path=0.0))

    def forward(self, x: Tensor) -> Tensor:
        """All stages, without adapters."""
        tokens = Tokens(x)
        for i in range(4):
            tokens = self.stage(i, self.enter(i, tokens) if i else tokens)
        return tokens.map


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_our_own_swin_passes_no_product_by(lean: bool, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its fast form, its plain one, and where it computes things again in the backward pass, on padded maps."""
    if lean:
        monkeypatch.setattr(swin, "LEAN_VALUES", 0)
    torch.manual_seed(0)
    backbone = Swin().double().train(training)
    for p in backbone.parameters():
        nn.init.normal_(p, std=0.2)
    peft = disturbed(LoRA(("rgb",), backbone, rank=2))
    assert sorted(peft.lora[0][0]) == ["attn_proj", "attn_qkv", "mlp_fc1", "mlp_fc2"]  # type: ignore[index]
    x = torch.randn(2, 11, 14, 16, dtype=torch.float64)
    found = backbone(x)
    gradients = torch.autograd.grad(found.square().sum(), list(peft.parameters()))
    with plain_forms():
        plain = backbone(x)
        others = torch.autograd.grad(plain.square().sum(), list(peft.parameters()))
    assert torch.allclose(found, plain, rtol=1e-9, atol=1e-9)
    for (name, _), a, b in zip(peft.named_parameters(), gradients, others, strict=True):
        assert a.abs().sum() > 0, name
        assert (a - b).abs().max() <= 1e-8 * b.abs().max(), name
    peft.merge()
    with torch.no_grad():
        merged = backbone(x)
    assert (merged - found).abs().max() <= 1e-9 * found.abs().max()


def test_a_branch_that_all_samples_drop_has_gradients_of_zero() -> None:
    """Not none, for which DDP would stop; and nothing is added."""
    torch.manual_seed(0)
    backbone = FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 2, 2, 4), 4, mlp_ratio=2, drop_path=0.999999)).train()
    peft = disturbed(LoRA(("rgb",), backbone, rank=2))
    tokens = backbone.stage(3, Tokens(x := torch.randn(2, 2, 2, 128)))  # the last block drops most
    assert torch.equal(tokens.map, x)
    tokens.map.sum().backward()
    last = list(cast(nn.ModuleList, peft.lora[3]).parameters())
    assert last
    assert all(p.grad is not None and not p.grad.any() for p in last)


def test_numbers_of_parameters() -> None:
    backbone = Timm("convnext_atto")  # per block a Linear C → 4C and back
    peft = lora(backbone, rank=3)
    assert sum(p.numel() for p in peft.parameters()) == sum(3 * 2 * (c + 4 * c) for c in (8, 16, 24, 24, 32))
    assert [sorted(block) for stage in peft.lora for block in stage] == [["mlp_fc1", "mlp_fc2"]] * 5  # type: ignore[union-attr]
    assert len(lora(Timm("convnext_atto"), layers=["fc2"]).lora[2][1]) == 1  # type: ignore[index]


def test_a_product_by_hand() -> None:
    torch.manual_seed(0)
    layer, low = nn.Linear(5, 7).double(), LowRank(5, 7, rank=2, alpha=6).double()
    weight, x = layer.weight.detach().clone(), torch.randn(4, 5, dtype=torch.float64)
    nn.init.normal_(low.up)
    attach(layer, low)
    effective = weight + 3 * low.up @ low.down
    assert torch.allclose(layer(x), F.linear(x, effective, layer.bias), rtol=1e-12, atol=1e-12)
    assert torch.allclose(layer.weight, effective, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer.state_dict()["weight"], weight)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2).double()
    low = LowRank(36, 6, rank=2, alpha=1).double()
    weight, x = conv.weight.detach().clone(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    nn.init.normal_(low.up)
    attach(conv, low)
    effective = weight + (0.5 * low.up @ low.down).view_as(weight)
    expected = F.conv2d(x, effective, conv.bias, 2, 1, 2)
    assert torch.allclose(conv(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(conv.weight, effective, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["swinv2_tiny_window8_256", "efficientnet_lite0"])
def test_a_copy_has_products_of_its_own(kind: str) -> None:
    both = nn.ModuleDict({"backbone": (backbone := Timm(kind))})
    both["peft"] = disturbed(lora(backbone, rank=2))
    x = images(kind)
    with torch.no_grad():
        before = backbone(x)
        copied = copy.deepcopy(both)
        nn.init.zeros_(next(iter(p for name, p in both["peft"].named_parameters() if name.endswith("up"))))
        changed = backbone(x)
        assert not torch.equal(changed, before)
        assert torch.equal(copied["backbone"](x), before)
        copied.load_state_dict(both.state_dict())
        assert torch.equal(copied["backbone"](x), changed)


@pytest.mark.slow
def test_it_compiles_without_a_break() -> None:
    backbone = Timm("convnext_atto").float()
    peft = disturbed(lora(backbone, rank=2).float())
    x = images("convnext_atto").float()
    expected = backbone(x)
    found = torch.compile(backbone, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert all(p.grad is not None for p in peft.parameters())


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="the rank of LoRA must be 1 or more, got 0"):
        lora(Timm("convnext_atto"), rank=0)
    with pytest.raises(ValueError, match="no block has a layer called 'qkv'; there are mlp.fc1, mlp.fc2"):
        lora(Timm("convnext_atto"), layers=["qkv", "fc1"])
    with pytest.raises(ValueError, match="LoRA has no layer to stand beside"):
        lora(Timm("convnext_atto"), layers=[])


def test_a_block_may_be_a_convolution_itself() -> None:
    """As between the dense blocks of DenseNet."""
    backbone = Pyramid("densenet121", options={"block_config": [1, 1, 1, 1], "growth_rate": 8})
    lora = LoRA(("rgb",), backbone)
    assert list(cast(nn.ModuleDict, cast(nn.ModuleList, lora.lora[1])[0])) == ["layer"]
    tokens = backbone.enter(1, backbone.stage(0, backbone.embed(torch.randn(1, 3, 32, 32))))
    backbone.stage(1, tokens).map.square().mean().backward()
    assert all(p.grad is not None for p in cast(nn.ModuleList, lora.lora[1]).parameters())
