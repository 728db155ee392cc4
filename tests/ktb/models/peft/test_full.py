from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.backbones import swin
from ktb.models.backbones.base import Backbone, Tokens
from ktb.models.layers.plain_or_fast import plain_forms
from ktb.models.peft.base import Adapt, Peft
from ktb.models.peft.full import Full
from tests.ktb.models.peft.test_lora import Swin


class TwoStages(Backbone):
    """Two stages of 1 and 2 blocks, with an entry, positions, a downsampling and norms, registered in no good order."""

    channels = prompt_channels = (4, 8)
    adapter_channels = ((4,), (8, 8))

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.second = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.between = nn.Parameter(torch.ones(8))
        self.down = nn.Linear(4, 8, bias=False)
        self.first = nn.ModuleList([nn.Linear(4, 4)])
        self.entry = nn.Conv2d(3, 4, 1)
        self.places = nn.Parameter(torch.zeros(4))
        self.unused = nn.Parameter(torch.zeros(1))
        self.requires_grad_(False)

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        return list((self.first, self.second)[stage])

    def embed(self, images: Tensor, entry: nn.Module | None = None) -> Tokens:
        assert self.norm.weight.dtype == images.dtype  # to look at a weight is not to use it
        return Tokens(self.entry(images).movedim(1, -1) + self.places)

    def enter(self, stage: int, tokens: Tokens) -> Tokens:
        return Tokens(self.down(tokens.map))

    def stage(
        self, stage: int, tokens: Tokens, adapters: Sequence[Adapt] | None = None, *, recompute: bool = False
    ) -> Tokens:
        assert not self.training  # nothing is drawn
        if stage == 0:
            return Tokens(self.first[0](tokens.map))
        x = torch.stack([self.second[0](tokens.map), self.between.expand_as(tokens.map)]).sum(0)
        last = self.second[1]
        return Tokens(self.norm(F.linear(x, last.weight, last.bias)))  # read, not called


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_block_has_its_share_of_the_learning_rate(dtype: torch.dtype) -> None:
    backbone = TwoStages().to(dtype).train()
    peft = Full(("rgb",), backbone, lr_factor=0.2, layer_decay=0.5)
    assert all(p.requires_grad for p in backbone.parameters())
    assert list(peft.parameters()) == []
    entry, first, second = ("entry", "places", "unused"), ("first.0", "down"), ("second.0", "between")
    of_part = dict.fromkeys(entry, 0.025) | dict.fromkeys(first, 0.05) | dict.fromkeys(second, 0.1)
    of_part |= {"second.1": 0.2, "norm": 0.2}
    with torch.no_grad():
        found = peft.lr_factors(backbone)
    assert found.keys() == dict(backbone.named_parameters()).keys()
    assert {k.removesuffix(".weight").removesuffix(".bias"): v for k, v in found.items()} == pytest.approx(of_part)
    assert backbone.training
    with pytest.raises(ValueError, match="must be above 0, got 0.0 and 1.0"):
        Full(("rgb",), backbone, lr_factor=0.0)


def test_nothing_is_trained_by_default() -> None:
    backbone = TwoStages()
    peft = Peft(("rgb",), backbone)
    streams = torch.randn(1, 2, 3, 3, 4)
    assert peft.prompt(0, streams) is streams
    assert peft.adapters_of(1) is None
    assert not any(p.requires_grad for p in (*peft.parameters(), *backbone.parameters()))
    assert peft.lr_factors(backbone) == {}


@pytest.mark.parametrize("lean", [False, True])
def test_every_weight_of_our_own_swin_gets_its_gradient(lean: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fast forms keep constants of frozen weights, and forget what a frozen layer does not need."""
    if lean:
        monkeypatch.setattr(swin, "LEAN_VALUES", 0)
    torch.manual_seed(0)
    backbone = Swin().double()
    with torch.no_grad():
        backbone(torch.randn(2, 11, 14, 16, dtype=torch.float64))  # constants of a time when it was frozen
    Full(("rgb",), backbone)
    parameters = {k: p for k, p in backbone.named_parameters() if not k.startswith("patch_embed.")}
    for p in parameters.values():
        nn.init.normal_(p, std=0.2)
    x, found = torch.randn(2, 11, 14, 16, dtype=torch.float64), []
    for form in (nullcontext(), plain_forms()):
        with form:
            found.append(torch.autograd.grad(backbone(x).square().sum(), list(parameters.values())))
    for name, fast, plain in zip(parameters, *found, strict=True):
        assert plain.abs().sum() > 0, name
        assert (fast - plain).abs().max() <= 1e-8 * plain.abs().max(), name
