from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from ktb.engine.draws import per_sample, uniform

KEYS = torch.tensor([11, -7, 2**31 - 1, 0]).int()


def test_draws_are_uniform_and_independent() -> None:
    x = uniform(KEYS, 3, (2, 4, 50, 50, 4)).double() / 2**31
    assert x.mean().abs() < 0.01
    assert x.var() == pytest.approx(1 / 3, rel=0.01)
    other = uniform(KEYS, 4, (2, 4, 50, 50, 4)).double() / 2**31
    for a, b in ((x, other), (x[0], x[1]), (x[:, 0], x[:, 1]), (x[..., 1:, :], x[..., :-1, :]), (x[..., 0], x[..., 1])):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.02


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [(nn.Dropout(0.3), (2, 4, 20, 20, 5), 1), (nn.Dropout2d(0.3), (4, 500, 2, 2), 0), (DropPath(0.3), (4, 3), 0)],
)
def test_a_sample_keeps_its_draws_wherever_it_is(layer: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    model = nn.Sequential(layer)
    draws = per_sample(model)
    x = torch.ones(shape)
    draws.keys = KEYS
    whole = model(x)
    assert torch.equal(whole[whole != 0].unique(), torch.tensor([1 / 0.7]))
    if whole.numel() > 1000:
        assert (whole == 0).double().mean() == pytest.approx(0.3, abs=0.05)
    for mine in ([0, 2], [3, 1]):
        draws.keys = KEYS[mine]
        assert torch.equal(
            model(x.index_select(axis, torch.tensor(mine))), whole.index_select(axis, torch.tensor(mine))
        )
    assert torch.equal(model.eval()(x), x)
