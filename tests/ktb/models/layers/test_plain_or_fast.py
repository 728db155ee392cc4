"""A whole model in its plain forms and in its fast ones."""

from __future__ import annotations

import pytest
import torch

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.layers.plain_or_fast import is_plain, plain_forms
from ktb.models.segmentor import KTBSegmentor


@pytest.mark.parametrize("size", [(45, 67), (32, 64)])  # padding and shifted windows; maps of one pixel
def test_values_and_gradients_are_the_same(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    arch = SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 5)
    model = KTBSegmentor(FrozenSwin(arch), ("rgb", "depth"), 5, head={"width": 8}, side_head=None).double().eval()
    for name, p in model.named_parameters():
        if p.requires_grad or "table" in name:
            torch.nn.init.normal_(p, std=0.2)
    inputs = {m: torch.rand(2, 3, *size, dtype=torch.float64) for m in ("rgb", "depth")}
    masked = torch.tensor([[True, False], [False, False]])
    trained = [p for p in model.parameters() if p.requires_grad]

    def logits_and_gradients() -> list[torch.Tensor]:
        logits = model(inputs, masked=masked).logits
        return [logits.detach(), *torch.autograd.grad(logits.square().mean(), trained)]

    fast = logits_and_gradients()
    with plain_forms():
        plain = logits_and_gradients()
    with torch.no_grad():
        fast.append(model(inputs, masked=masked).logits)
    scale = max(float(x.norm()) for x in plain)
    for a, b in zip(fast, [*plain, plain[0]], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10 * scale)


def test_the_choice_ends_with_the_block_also_after_an_error() -> None:
    def fails() -> None:
        with plain_forms(), plain_forms():
            raise KeyError(is_plain())

    with pytest.raises(KeyError, match="True"):
        fails()
    assert not is_plain()
