from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ktb.models.peft.mapa import MAPA, Adapter, Prompt

MODALITIES = ("rgb", "depth", "event")


class Backbone(nn.Module):
    """Widths alone: MAPA stands beside the blocks and needs nothing of theirs."""

    prompt_channels = (16, 24, 40)
    adapter_channels = ((16,), (24, 20), (40,))

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        raise AssertionError("MAPA does not work inside the blocks")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def of_prompt(c: int, rank: int, m: int) -> int:
    return m * (c * rank + rank) + m * rank * rank + rank + rank * c + c + 2 * m * c


def of_adapter(c: int, rank: int, m: int) -> int:
    return m * (2 * c * rank + rank + c)


def test_the_papers_parameters_and_names() -> None:
    peft = MAPA(MODALITIES, Backbone())
    assert count(peft.prompts) == sum(of_prompt(c, c // 8, 3) for c in (16, 24, 40))
    assert count(peft.adapters) == sum(of_adapter(c, max(1, c // 16), 3) for c in (16, 24, 20, 40))
    names = set(peft.state_dict())
    assert {"prompts.2.project.weight", "prompts.0.gamma.depth", "adapters.1.1.down.event.weight"} <= names
    assert count(peft) == count(peft.prompts) + count(peft.adapters)


def test_every_setting_is_a_number_of_parameters() -> None:
    peft = MAPA(MODALITIES, Backbone(), stages=[1], prompt_ratio=0.25, reduction=5)
    assert count(peft) == of_prompt(24, 6, 3) + of_adapter(24, 4, 3) + of_adapter(20, 4, 3)
    assert {name.split(".")[1] for name in peft.state_dict()} == {"1"}
    assert count(MAPA(MODALITIES, Backbone(), prompts=False)) == count(MAPA(MODALITIES, Backbone()).adapters)
    assert count(MAPA(MODALITIES, Backbone(), adapters=False)) == count(MAPA(MODALITIES, Backbone()).prompts)
    with pytest.raises(ValueError, match="stages of MAPA must be from 0 to 2, got 3"):
        MAPA(MODALITIES, Backbone(), stages=[0, 3])


def test_what_a_stage_is_given() -> None:
    torch.manual_seed(0)
    peft = MAPA(MODALITIES, Backbone(), stages=[1]).eval()
    streams = torch.randn(3, 2, 4, 5, 24)
    assert torch.equal(peft.prompt(0, streams), streams)
    assert isinstance(peft.prompts[1], Prompt)
    assert torch.equal(peft.prompt(1, streams), peft.prompts[1](streams))
    assert peft.adapters_of(0) is None
    adapters = peft.adapters_of(1)
    assert adapters is not None
    assert [isinstance(a, Adapter) for a in adapters] == [True, True]
    only = MAPA(MODALITIES, Backbone(), prompts=False)
    assert torch.equal(only.prompt(1, streams), streams)
    assert MAPA(MODALITIES, Backbone(), adapters=False).adapters_of(1) is None


@pytest.mark.parametrize("scale", [0.5, 0.1])
def test_an_adapter_by_hand(scale: float) -> None:
    torch.manual_seed(0)
    adapter = Adapter(("rgb", "depth"), 8, reduction=4, scale=scale).double().eval()
    tokens, add = torch.randn(2, 4, 3, 2, 8, dtype=torch.float64).unbind(0)
    assert torch.equal(adapter(tokens, add), add)
    for p in adapter.parameters():
        nn.init.normal_(p)

    def one(m: str, x: Tensor) -> Tensor:
        down, up = adapter.down[m], adapter.up[m]
        return scale * ((x @ down.weight.T + down.bias).relu() @ up.weight.T + up.bias)

    expected = add + torch.cat([one("rgb", tokens[:2]), one("depth", tokens[2:])])
    assert torch.allclose(adapter(tokens, add), expected, rtol=1e-12, atol=1e-12)
