"""Parts of the backbone that the comparison of whole models does not reach."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor

from ktb.models.backbones import swin
from ktb.models.backbones.swin import FrozenSwin, SwinArch, _add_branch, _attend_windows, _plan


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


def test_tokens_apart_weigh_nothing_and_no_denormal_number() -> None:
    """e⁻¹⁰⁰ is one in float32: products with it take a CPU several times as long. float64 has room for it."""
    for dtype, weight in ((torch.float32, 0.0), (torch.float64, math.exp(-100))):
        backbone = FrozenSwin(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).to(dtype)
        block = backbone.layers[0].blocks[1]
        with torch.no_grad():
            block.attn.relative_position_bias_table.zero_()
        kinds = [kind for kind in _plan(1, 8, 8, 4, 2, torch.device("cpu")).kinds if kind.regions is not None]
        assert kinds
        for kind in kinds:
            weights = backbone._mask(block, kind, dtype)[0, 0].exp()
            assert weights.unique().tolist() == pytest.approx([weight, 1.0], rel=1e-12)


def test_what_is_made_again_has_the_gradient_of_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = FrozenSwin(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).double().eval()
    start = torch.randn(2, 7, 9, 32, dtype=torch.float64)
    found, calls = [], []
    again = swin._again
    monkeypatch.setattr(swin, "_again", lambda *args, **kwargs: calls.append(1) or again(*args, **kwargs))
    for least in (start.numel(), start.numel() + 1):  # made again; kept
        monkeypatch.setattr(swin, "LEAN_VALUES", least)
        x = start.clone().requires_grad_()
        y = backbone.merge(1, backbone.stage(0, x, [lambda _, add: add] * 2))
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
        assert len(calls) == 5  # twice attention and MLP of the first round, its merging; none in the second
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


class Trained(FrozenSwin):
    """As scripts/make_swin_nano.py trains one."""

    def _bias(self, block: SwinTransformerBlock, dtype: torch.dtype) -> Tensor:
        return block.attn._get_rel_pos_bias().to(dtype)


def test_a_backbone_in_training_keeps_no_masks() -> None:
    backbone = Trained(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).requires_grad_(True)
    for _ in range(2):  # would go through the first graph again
        x = backbone.stage(0, torch.randn(2, 7, 9, 32), [lambda _, add: add] * 2)
        x.square().sum().backward()
    assert all(b.attn.relative_position_bias_table.grad.abs().sum() > 0 for b in backbone.layers[0].blocks)


@pytest.mark.parametrize("windows", [2, 5, 7])
def test_windows_attend_in_groups_as_all_at_once(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients, on a CPU: products of several heads or windows; the last group is a smaller one."""
    monkeypatch.setattr(swin, "CPU_SCORES", 4 * 9 * 10)
    torch.manual_seed(0)
    q, k, v = (torch.randn(windows, n, 5, 8, dtype=torch.float64).transpose(1, 2) for n in (9, 10, 10))
    mask = torch.randn(1, 5, 9, 10, dtype=torch.float64)
    expected = ((q * 0.3) @ k.mT + mask).softmax(-1) @ v
    found = torch.full((windows * 9, 5 * 8), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        _attend_windows(q, k, v, mask, 0.3, out=found)
    assert torch.allclose(found, expected.transpose(1, 2).reshape(-1, 5 * 8), rtol=1e-12)


def test_padding_takes_part_in_the_gradient_of_a_trained_backbone() -> None:
    """Padded tokens have the bias as key and value, so what attends to them has a say in it."""
    backbone = Trained(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).double().requires_grad_(True).eval()
    block = backbone.layers[0].blocks[0]
    x = torch.randn(1, 3, 4, 32, dtype=torch.float64)  # one window, a row of which is padding
    weights = torch.randn(1, 3, 4, 32, dtype=torch.float64)
    attn = block.attn

    def plain() -> Tensor:
        rows = torch.cat([x, x.new_zeros(1, 1, 4, 32)], dim=1).view(16, 32)
        q, k, v = attn.qkv(rows).view(16, 3, 1, 32).permute(1, 2, 0, 3)
        out = ((q * attn.scale) @ k.mT + attn._get_rel_pos_bias()).softmax(-1) @ v
        return out[0].view(1, 4, 4, 32)[:, :3]

    found, expected = backbone._attend(block, x), plain()
    assert torch.allclose(found, expected, rtol=1e-12)
    parameters = [attn.qkv.weight, attn.qkv.bias]
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), parameters) for y in (found, expected)), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
