from __future__ import annotations

import torch

from ktb.models.fusion.base import Fused
from ktb.models.fusion.concat import Concat


def test_concat_is_a_convolution_over_all_channels() -> None:
    torch.manual_seed(0)
    block = Concat(("rgb", "depth", "event"), 8, stage=1, stride=8).double()
    torch.nn.init.normal_(block.mix.bias)
    streams = torch.randn(3, 2, 5, 4, 8, dtype=torch.float64)
    maps = torch.cat(list(streams), dim=-1).movedim(-1, 1)
    expected = torch.nn.functional.conv2d(maps, block.mix.weight[..., None, None], block.mix.bias)
    assert torch.allclose(Fused.of(block(streams), streams, block).map, expected.movedim(1, -1), rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in block.parameters()) == 3 * 8 * 8 + 8
