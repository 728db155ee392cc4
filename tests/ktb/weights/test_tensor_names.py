"""Names of tensors, translated both ways."""

from __future__ import annotations

import torch

from ktb.weights.tensor_names import (
    from_published,
    merging_from_openmmlab,
    merging_to_openmmlab,
)
from tests.ktb.reference import load_json


def test_patch_merging_order_by_definition() -> None:
    """Published inputs are ordered c·4 + row·2 + col, timm's (col·2 + row)·C + c."""
    channels = 5
    values = torch.empty(2, 4 * channels)
    expected = torch.empty(2, 4 * channels)
    for c in range(channels):
        for row in range(2):
            for col in range(2):
                values[:, c * 4 + row * 2 + col] = 100 * c + 10 * row + col
                expected[:, (col * 2 + row) * channels + c] = 100 * c + 10 * row + col
    assert torch.equal(merging_from_openmmlab(values), expected)
    assert torch.equal(merging_to_openmmlab(expected), values)


def test_published_translation_covers_swin_b() -> None:
    names = load_json("swin_b.json")["state_dict"]
    with torch.device("meta"):
        state = {k: torch.empty(tuple(s)) for k, s in names.items()}
    ours = from_published(state, ("rgb", "depth"))
    assert len(ours) == len(names)
    assert not any(k.startswith(("decode_head", "backbone.stages", "backbone.MPG", "backbone.Deform")) for k in ours)
