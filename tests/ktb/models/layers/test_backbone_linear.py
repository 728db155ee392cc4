from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.layers.backbone_linear import is_unwrapped, through, through_gelu


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Around(nn.Module):
    """As libraries wrap a layer: the layer's weight can be read off it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 1


def hooked(before: bool) -> nn.Linear:
    layer = nn.Linear(6, 5)
    if before:
        layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    else:
        layer.register_forward_hook(lambda module, args, out: out * 3)
    return layer


def parametrized() -> nn.Linear:
    layer = nn.Linear(6, 5)
    nn.utils.parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(1.5)
    return layer


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(6, 5),
        lambda: nn.Linear(6, 5, bias=False),
        lambda: Doubled(6, 5),
        lambda: Around(nn.Linear(6, 5)),
        lambda: hooked(True),
        lambda: hooked(False),
        parametrized,
    ],
)
def test_a_layer_gives_what_it_gives_when_called(make: object, grad: bool) -> None:
    torch.manual_seed(0)
    layer = make().requires_grad_(False)  # type: ignore[operator]
    x, add = torch.randn(3, 4, 6, requires_grad=grad), torch.randn(3, 4, 5)
    assert is_unwrapped(layer) == (
        type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks
    )
    expected = layer(x)
    assert torch.allclose(through(layer, x), expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(through(layer, x, add), expected + add, rtol=1e-5, atol=1e-6)
    assert torch.allclose(through_gelu(layer, x), F.gelu(expected), rtol=1e-5, atol=1e-6)


def test_what_tells_of_hooks_is_still_there() -> None:
    """`is_unwrapped` reads two private attributes of PyTorch; without them it would call wrapped layers plain."""
    assert is_unwrapped(nn.Linear(2, 2))
    assert not is_unwrapped(hooked(True))
    assert not is_unwrapped(hooked(False))
    assert not is_unwrapped(Doubled(2, 2))
    assert not is_unwrapped(nn.Identity())
