"""Which weights a state dict is."""

from __future__ import annotations

import torch

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.weights.states import fingerprint

ARCH = SwinArch(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=6)


def test_fingerprint_follows_values_and_names() -> None:
    torch.manual_seed(0)
    swin = FrozenSwin(ARCH)
    first = fingerprint(swin)
    assert first == fingerprint(swin)
    with torch.no_grad():
        swin.patch_embed.proj.bias[3] += 1e-6
    assert fingerprint(swin) != first
