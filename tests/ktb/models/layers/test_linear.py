"""Frozen Linears against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.models.layers.linear import linear, linear_gelu


def operands(*, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, add = torch.randn(2, 3, 5, 24, dtype=dtype), torch.randn(2, 3, 5, 40, dtype=dtype)
    return x, torch.randn(40, 24, dtype=dtype), torch.randn(40, dtype=dtype), add


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_add", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_values_and_gradients(dtype: torch.dtype, has_bias: bool, has_add: bool, contiguous: bool) -> None:
    x, weight, full_bias, full_add = operands(dtype=dtype)
    bias, add = full_bias if has_bias else None, full_add if has_add else None
    if not contiguous:
        x = x.movedim(1, 2).contiguous().movedim(2, 1)
    results = []
    for ours in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, add) if t is not None]
        if ours:
            out = linear(leaves[0], weight, bias, *leaves[1:])
        else:
            out = F.linear(leaves[0], weight, bias) + (leaves[1] if has_add else 0)
        gradients = torch.autograd.grad((out * out.detach().cos()).sum(), leaves)
        with torch.no_grad():
            hidden = linear_gelu(x, weight, bias) if ours else F.gelu(F.linear(x, weight, bias))
            plain = linear(x, weight, bias, add) if ours else out
        results.append([out, plain, hidden, *gradients])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 1e-12)


def test_a_trained_weight_gets_its_gradient() -> None:
    x, weight, bias, add = operands()
    weight.requires_grad_()
    (linear(x, weight, bias, add).sum() + linear_gelu(x, weight, bias).sum()).backward()
    ours = weight.grad
    weight.grad = None
    ((add + F.linear(x, weight, bias)).sum() + F.gelu(F.linear(x, weight, bias)).sum()).backward()
    assert ours is not None
    assert weight.grad is not None
    assert torch.allclose(ours, weight.grad)


def test_a_trained_bias_gets_its_gradient() -> None:
    x, weight, bias, add = operands()
    x.requires_grad_()
    bias.requires_grad_()
    (linear(x, weight, bias, add).sum() + linear_gelu(x, weight, bias).sum()).backward()
    ours, bias.grad = bias.grad, None
    ((add + F.linear(x, weight, bias)).sum() + F.gelu(F.linear(x, weight, bias)).sum()).backward()
    assert ours is not None
    assert bias.grad is not None
    assert torch.allclose(ours, bias.grad)


def test_autocast_decides_the_type() -> None:
    x, weight, bias, _ = operands()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
        assert linear_gelu(x, weight, bias).dtype == torch.bfloat16


def test_nothing_is_kept_for_the_gradient() -> None:
    x, weight, bias, add = operands()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(x.requires_grad_(), weight, bias, add.requires_grad_())
    assert not kept


def test_what_follows_may_change_the_result_in_place() -> None:
    """As the ReLU does that stands behind a Linear of Swin V2."""
    x, weight, bias, add = operands()
    results = []
    for ours in (True, False):
        leaf = x.clone().requires_grad_()
        y = linear(leaf, weight, bias, add) if ours else add + F.linear(leaf, weight, bias)
        y.relu_()
        results.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4)
