"""Parts of the backbone that the comparison of whole models does not reach."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor

from ktb.models.swin import FrozenSwin, SwinArch, _add_branch, _plan


@pytest.mark.parametrize("drop_prob", [0.0, 0.5, 0.999])
def test_a_dropped_branch_adds_nothing(drop_prob: float) -> None:
    """Stochastic depth as it is defined, though dropped samples are not computed."""
    drop_path = DropPath(drop_prob).train()
    computed = []

    def branch(t: Tensor) -> Tensor:
        computed.append(len(t))
        return t.sin() * t

    for seed in range(5):
        results = []
        for ours in (True, False):
            torch.manual_seed(seed)
            x = torch.linspace(-1, 1, 4 * 2 * 3 * 5, dtype=torch.float64).view(4, 2, 3, 5).requires_grad_()
            y = _add_branch(x, branch, drop_path) if ours else x + drop_path(x.sin() * x)
            results.append((y, *torch.autograd.grad((y * y.detach().cos()).sum(), x)))
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a, b, rtol=1e-12)
    assert sum(computed) < 5 * 4 or drop_prob == 0


@pytest.mark.parametrize("size", [(12, 24), (13, 17), (30, 40), (5, 3), (1, 1), (23, 12)])
@pytest.mark.parametrize("shift", [0, 6])
def test_every_token_is_asked_once(size: tuple[int, int], shift: int) -> None:
    h, w = size
    plan = _plan(2, h, w, 12, shift, torch.device("cpu"))
    tokens = torch.arange(2 * h * w)
    assert torch.equal(plan.queries.sort().values, tokens)
    assert torch.equal(plan.queries[plan.query_of], tokens)
    assert torch.equal(plan.keys[plan.key_of], tokens)
    padding = 0 if plan.padding is None else len(plan.padding)
    assert len(plan.keys) == len(tokens) + padding
    assert sum(kind.count * kind.keys for kind in plan.kinds) == len(plan.keys)
    assert all(len(kind.real) + len(kind.padding) == 144 for kind in plan.kinds)
    # Every window of the padded map is there, and has one key of padding if it has any.
    assert sum(kind.count for kind in plan.kinds) == 2 * -(-h // 12) * -(-w // 12)
    assert sum(kind.count for kind in plan.kinds if len(kind.padding)) == padding


class Trained(FrozenSwin):
    """As scripts/make_swin_nano.py trains one."""

    def _bias(self, block: SwinTransformerBlock, dtype: torch.dtype) -> Tensor:
        return block.attn._get_rel_pos_bias().to(dtype)


def test_a_backbone_in_training_keeps_no_masks() -> None:
    backbone = Trained(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).requires_grad_(True)
    for _ in range(2):  # would go through the first graph again
        x = backbone.stage(0, torch.randn(2, 7, 9, 32), [torch.zeros_like] * 2)
        x.square().sum().backward()
    assert all(b.attn.relative_position_bias_table.grad.abs().sum() > 0 for b in backbone.layers[0].blocks)
