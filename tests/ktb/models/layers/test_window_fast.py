"""Window attention: the fast form against the plain one beside the backbone, and the fast form's parts."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor

from ktb.models.backbones.base import Tokens
from ktb.models.backbones.swin import FrozenSwin, SwinArch, shifted_window_attention
from ktb.models.layers import window_fast as layer
from ktb.models.layers.window_fast import Constants, _attend_windows, _mask, _plan, relative_bias, window_attention


def attention(*, trained: bool) -> WindowAttention:
    """Of windows of 5 x 5 tokens and two heads, every parameter random and large enough to show."""
    torch.manual_seed(0)
    attn = WindowAttention(16, num_heads=2, window_size=5).double().requires_grad_(trained)
    with torch.no_grad():
        for p in attn.parameters():
            p.normal_(std=0.5)
    return attn


@pytest.mark.parametrize("size", [(5, 10), (7, 13), (1, 1), (3, 2), (11, 6), (23, 17)])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("trained", [False, True])
def test_the_fast_form_is_the_plain_one(size: tuple[int, int], shift: int, trained: bool) -> None:
    """Values and gradients; windows that fit, padded ones, maps smaller than a window, masks of shifted windows."""
    attn = attention(trained=trained)
    x = torch.randn(3, *size, 16, dtype=torch.float64)
    weights = torch.randn(3, *size, 16, dtype=torch.float64)
    found = []
    for fast in (True, False):
        leaf = x.clone().requires_grad_()
        if fast:
            y = window_attention(attn, leaf, 5, shift, Constants(9))
        else:
            y = shifted_window_attention(attn, leaf, 5, shift)
        after = [p for n, p in attn.named_parameters() if trained and not n.startswith("proj")]  # what comes later
        found.append((y.detach(), *torch.autograd.grad((y * weights).sum(), [leaf, *after])))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.allclose(window_attention(attn, x, 5, shift, Constants(9)), found[0][0], rtol=1e-10, atol=1e-10)


def test_timm_still_makes_the_bias_of_the_table() -> None:
    """By a method that is not public: this is where its absence or change shows."""
    attn = attention(trained=False)
    bias = relative_bias(attn)
    assert bias.shape == (1, 2, 25, 25)
    for query, key in ((0, 0), (3, 21), (24, 0)):
        y, x = (query // 5 - key // 5 + 4, query % 5 - key % 5 + 4)
        assert torch.equal(bias[0, :, query, key], attn.relative_position_bias_table[9 * y + x])


def test_constants_are_bounded_and_copies_begin_empty() -> None:
    constants = Constants(2)
    built: list[int] = []

    def value(n: int) -> int:
        return constants.get((n,), lambda: built.append(n) or n)  # type: ignore[func-returns-value]

    assert [value(n) for n in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert built == [1, 2, 3, 2]  # 1 was used more recently than 2 when 3 came
    for copied in (copy.deepcopy(constants), pickle.loads(pickle.dumps(constants))):
        assert copied.get((1,), lambda: 5) == 5


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
            weights = _mask(block.attn, kind, dtype, Constants(9))[0, 0].exp()
            assert weights.unique().tolist() == pytest.approx([weight, 1.0], rel=1e-12)


def test_a_backbone_in_training_keeps_no_masks() -> None:
    backbone = FrozenSwin(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).requires_grad_(True)
    for _ in range(2):  # would go through the first graph again
        x = backbone.stage(0, Tokens(torch.randn(2, 7, 9, 32))).map
        x.square().sum().backward()
    assert all(b.attn.relative_position_bias_table.grad.abs().sum() > 0 for b in backbone.layers[0].blocks)


@pytest.mark.parametrize("windows", [2, 5, 7])
def test_windows_attend_in_groups_as_all_at_once(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients, on a CPU: products of several heads or windows; the last group is a smaller one."""
    monkeypatch.setattr(layer, "CPU_SCORES", 4 * 9 * 10)
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
    backbone = FrozenSwin(SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0)).double().requires_grad_(True).eval()
    block = backbone.layers[0].blocks[0]
    x = torch.randn(1, 3, 4, 32, dtype=torch.float64)  # one window, a row of which is padding
    weights = torch.randn(1, 3, 4, 32, dtype=torch.float64)
    attn = block.attn

    def plain() -> Tensor:
        rows = torch.cat([x, x.new_zeros(1, 1, 4, 32)], dim=1).view(16, 32)
        q, k, v = attn.qkv(rows).view(16, 3, 1, 32).permute(1, 2, 0, 3)
        out = ((q * attn.scale) @ k.mT + attn._get_rel_pos_bias()).softmax(-1) @ v
        return out[0].view(1, 4, 4, 32)[:, :3]

    found, expected = window_attention(attn, x, 4, 0, Constants(9)), plain()
    assert torch.allclose(found, expected, rtol=1e-12)
    parameters = [attn.qkv.weight, attn.qkv.bias]
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), parameters) for y in (found, expected)), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
