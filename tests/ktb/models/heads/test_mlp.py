"""How the head resizes its logits; the head itself is in test_reference and test_wiring."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ktb.models.heads import mlp as heads


@pytest.mark.parametrize(
    ("small", "size"),
    [((24, 32), (96, 128)), ((23, 31), (90, 122)), ((1, 1), (5, 3)), ((9, 7), (4, 13)), ((6, 8), (6, 8))],
)
def test_small_maps_are_resized_as_torch_does(
    small: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    calls = []
    interpolate = F.interpolate
    monkeypatch.setattr(
        heads.F, "interpolate", lambda *args, **kw: calls.append(kw["mode"]) or interpolate(*args, **kw)
    )
    found = heads._resize(x, size)
    assert calls == ["linear"] * 2
    assert found.is_contiguous()
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(torch.autograd.grad((found * weights).sum(), x)[0], gradient, rtol=1e-12, atol=1e-13)
    heads._resize(torch.zeros(1, 1, 120, 160, requires_grad=True), (480, 640))
    assert calls == ["linear"] * 2 + ["bilinear"]  # of large ones the matrices would take longer
