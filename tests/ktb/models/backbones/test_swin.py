"""Parts of the backbone that the comparison of whole models does not reach."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor

from ktb.models.backbones import swin
from ktb.models.backbones.base import Tokens
from ktb.models.backbones.swin import FrozenSwin, PatchEmbed, SwinArch, _add_branch
from ktb.weights.backbone import load_backbone
from tests.ktb.jobs.test_finetune import NANO


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
        y = backbone.enter(1, backbone.stage(0, Tokens(x))).map
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
        assert len(calls) == 5  # twice attention and MLP of the first round, its merging; none in the second
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_no_linear_is_passed_by() -> None:
    """A hook on any Linear of the backbone, which triples what comes out of it, gives what a tripled layer gives."""
    torch.manual_seed(0)
    backbone = FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 2, 2, 4), 4, 2.0)).double().eval()
    for p in backbone.parameters():
        torch.nn.init.normal_(p, std=0.2)
    start = torch.randn(1, 7, 9, 16, dtype=torch.float64)

    def result() -> Tensor:
        tokens = Tokens(start)
        with torch.no_grad():
            for i in range(4):
                tokens = backbone.stage(i, backbone.enter(i, tokens) if i else tokens)
        return tokens.map

    unchanged, layers = result(), [m for m in backbone.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 4 * 4 + 3
    for layer in layers:
        hook = layer.register_forward_hook(lambda module, args, out: 3 * out)
        found = result()
        hook.remove()
        parameters = [p for p in (layer.weight, layer.bias) if p is not None]
        with torch.no_grad():
            torch._foreach_mul_(parameters, 3.0)
            expected = result()
            torch._foreach_div_(parameters, 3.0)
        assert (expected - unchanged).abs().max() > 1e-6
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [2, 4, 13, 18, 64])
@pytest.mark.parametrize(
    ("shared", "low", "high"), [(1.0, 0.99, 2.1), (0.9, 0.8, 1.9), (0.0, 0.2, 1.3)], ids=["equal", "alike", "unlike"]
)
def test_the_first_features_of_many_bands_have_the_scale_of_those_of_rgb(
    channels: int, shared: float, low: float, high: float
) -> None:
    """With the weights that a training starts from. shared: of the bands' variance; low, high: of the filters' response
    compared with RGB's. The norm behind the filters leaves nothing of it."""
    torch.manual_seed(0)
    backbone = load_backbone(FrozenSwin(NANO).spec(), "bundled", name="swin_nano").eval()
    own, plain = cast(PatchEmbed, backbone.entry_for(channels)), cast(FrozenSwin, backbone).patch_embed

    def images(bands: int) -> Tensor:
        smooth = F.interpolate(torch.randn(8, bands + 1, 24, 32), scale_factor=4, mode="bicubic")
        mixed = shared**0.5 * smooth[:, :1] + (1 - shared) ** 0.5 * smooth[:, 1:]
        return mixed / mixed.std(dim=(0, 2, 3), keepdim=True)

    with torch.no_grad():
        rgb, bands = images(3), images(channels)
        response = (own.proj(bands) - own.proj(0 * bands)).std() / (plain.proj(rgb) - plain.proj(0 * rgb)).std()
        assert low < response < high
        of_bands, of_rgb = backbone.embed(bands, own), backbone.embed(rgb)
        assert of_bands.map.std() / of_rgb.map.std() == pytest.approx(1, abs=0.02)
        first = backbone.stage(0, of_bands).map.std() / backbone.stage(0, of_rgb).map.std()
        assert first == pytest.approx(1, abs=0.2)
