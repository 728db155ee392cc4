from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ktb.models.backbones import swin
from ktb.models.layers.plain_or_fast import plain_forms
from ktb.models.peft.base import Peft
from ktb.models.peft.full import Full
from tests.ktb.models.peft.test_lora import Swin


class Backbone(nn.Module):
    """Two stages of 1 and 2 blocks, with an entry, a downsampling and a norm."""

    prompt_channels = (4, 8)
    adapter_channels = ((4,), (8, 8))

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(3, 4)
        self.first = nn.ModuleList([nn.Linear(4, 4)])
        self.down = nn.Linear(4, 8, bias=False)
        self.second = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.norm = nn.LayerNorm(8)
        self.requires_grad_(False)

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        return list((self.first, self.second)[stage])


def test_every_block_has_its_share_of_the_learning_rate() -> None:
    backbone = Backbone()
    peft = Full(("rgb",), backbone, lr_factor=0.2, layer_decay=0.5)
    assert all(p.requires_grad for p in backbone.parameters())
    assert list(peft.parameters()) == []
    of_module = {"entry": 0.025, "first.0": 0.05, "down": 0.05, "second.0": 0.1, "second.1": 0.2, "norm": 0.2}
    assert dict(peft.lr_factors(backbone)) == pytest.approx(
        {name: of_module[name.rpartition(".")[0]] for name, _ in backbone.named_parameters()}
    )
    with pytest.raises(ValueError, match="must be above 0, got 0.0 and 1.0"):
        Full(("rgb",), backbone, lr_factor=0.0)


def test_nothing_is_trained_by_default() -> None:
    backbone = Backbone()
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
