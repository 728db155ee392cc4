"""Windows that are all alike: the form for a GPU, computed on a CPU and held to the plain form; when it is taken."""

from __future__ import annotations

import pytest
import torch

from ktb.models.backbones.swin import shifted_window_attention
from ktb.models.layers import window_fast as layer
from ktb.models.layers.permuted_rows import take_rows
from ktb.models.layers.window_fast import Constants, window_attention
from ktb.models.layers.window_padded import padded_plan, region_code, worth_padding
from tests.ktb.models.layers.test_window_fast import attention

SIZES = [(5, 10), (7, 13), (1, 1), (3, 2), (11, 6), (23, 17)]


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on a GPU; how often that was asked."""
    asked: list[int] = []
    monkeypatch.setattr(layer, "_alike_costs_less", lambda *args: asked.append(1) or True)
    return asked


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("trained", [False, True])
def test_the_padded_form_is_the_plain_one(size: tuple[int, int], shift: int, trained: bool, forced: list[int]) -> None:
    attn = attention(trained=trained)
    x, weights = torch.randn(2, 3, *size, 16, dtype=torch.float64)
    constants, found = Constants(9), []
    for padded in (True, False):
        leaf = x.clone().requires_grad_()
        if padded:
            y = window_attention(attn, leaf, 5, shift, constants)
        else:
            y = shifted_window_attention(attn, leaf, 5, shift)
        after = [p for n, p in attn.named_parameters() if trained and not n.startswith("proj")]
        found.append((y.detach(), *torch.autograd.grad((y * weights).sum(), [leaf, *after])))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        again = window_attention(attn, x, 5, shift, constants)  # whose constants are made already
    assert torch.allclose(again, found[0][0], rtol=1e-10, atol=1e-10)
    assert len(forced) == 2


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-5), (torch.bfloat16, 3e-2)])
def test_in_lower_precision(dtype: torch.dtype, error: float, forced: list[int]) -> None:
    """A region's code is no number of bfloat16; it is the same one for all tokens, which is what counts."""
    attn = attention(trained=False).float()
    x = torch.randn(2, 13, 17, 16)
    with torch.no_grad():
        expected = shifted_window_attention(attn.double(), x.double(), 5, 2)
        attn.float()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            found = window_attention(attn, x, 5, 2, Constants(9))
    assert found.dtype == dtype
    assert forced
    assert float((found.double() - expected).norm() / expected.norm()) < error


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
def test_every_token_has_one_place(size: tuple[int, int], shift: int) -> None:
    h, w = size
    plan = padded_plan(2, h, w, 5, shift, torch.device("cpu"))
    code = region_code(plan, 0.25, torch.float64)
    windows = 2 * -(-h // 5) * -(-w // 5)
    assert plan.tokens.shape == (25 * windows,)
    assert torch.equal(plan.tokens[plan.place_of], torch.arange(2 * h * w))
    padding = torch.zeros(0, dtype=torch.long) if plan.padding is None else plan.padding
    assert torch.equal(torch.cat([plan.place_of, padding]).sort().values, torch.arange(25 * windows))
    if shift == 0:
        assert code is None
        return
    assert code is not None
    assert code.shape == (windows, 1, 25, 8)
    together = 0.25 * code[:, 0] @ code[:, 0].mT
    assert together.unique().tolist() == pytest.approx([0, 100])
    # The last window holds both ends of both axes: regions of 3 · 3, 3 · 2, 2 · 3 and 2 · 2 tokens.
    assert (together[-1].sum(1) / 100).round().unique().tolist() == [4, 6, 9]


def test_rows_and_their_gradient() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    index, inverse, holes = torch.tensor([3, 0, 0, 4, 1, 2]), torch.tensor([2, 4, 5, 0, 3]), torch.tensor([1])
    y = take_rows(x, index, inverse, holes=holes)
    assert not y[1].any()
    assert torch.equal(y[inverse], x)
    assert torch.autograd.gradcheck(lambda x: take_rows(x, index, inverse, holes=holes), x)
    back = take_rows(y, inverse, index, unused=holes)
    assert torch.equal(back, x)
    z = y.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: take_rows(z, inverse, index, unused=holes), z)


def test_padded_where_starting_kernels_takes_longer_than_computing() -> None:
    """Swin-B's first stage at 480 x 640 has 120 x 160 tokens: eight columns of padding."""
    for batch, padded in ((1, True), (16, True), (64, False)):
        padding = 2 * batch * 120 * 8
        assert worth_padding(128, 12, 6, kinds=6, padding=padding) == padded
    assert worth_padding(1024, 12, 0, kinds=1, padding=0)
    assert not worth_padding(1024, 12, 6, kinds=1, padding=1)
