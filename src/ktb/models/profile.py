"""What a model weighs: parameters by part, and operations per image size."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ktb.models.fusion.dscf import DSCF
from ktb.models.segmentor import KTBSegmentor, own_classes

COUNTED = "matrix products, convolutions and attention, two per multiply-add; one image, without side heads"
"""What `flops` counts, with LoRA folded into the weights as in predictions. Sums, normalisations, softmax and sampling
are left out: together a few percent."""


def parameters(model: KTBSegmentor) -> list[dict[str, Any]]:
    """Parts of the model with their total and trained numbers of parameters; the parts add up to the model."""
    names = (
        ("backbone", "frozen backbone", "backbone."),
        ("patch_embeds", "patch embeddings of the other modalities", "patch_embeds."),
        ("prompts", "prompts", "peft.prompts."),
        ("adapters", "adapters", "peft.adapters."),
        ("lora", "LoRA", "peft.lora."),
        ("peft", "PEFT method", "peft."),
        ("necks", "pyramid behind the backbone", "necks."),
        ("fusion", "fusion", "fusion."),
        ("norms", "output norms", ("norms.", "fused_norms.")),
        ("head", "fused head", "head."),
        ("side_heads", "side heads (training only)", "side_heads."),
    )
    parts, left = [], dict(model.named_parameters())
    for key, title, prefix in names:
        chosen = [left.pop(n) for n in list(left) if n.startswith(prefix)]
        trained = sum(p.numel() for p in chosen if p.requires_grad)
        parts.append({"part": key, "title": title, "total": sum(p.numel() for p in chosen), "trained": trained})
    return parts


def table_parameters(model: KTBSegmentor) -> int:
    """Parameters of DSCF's distance tables, a part of those of the fusion."""
    return sum(block.table.numel() for block in model.fusion if isinstance(block, DSCF))


def flops(model: KTBSegmentor, size: tuple[int, int]) -> int:
    """Floating-point operations for one image, see `COUNTED`.

    They are computed from shapes alone, unless a class of the user's own needs values.

    Args:
        model: any; it is not changed.
        size: height and width of the image in pixels.
    """
    try:
        with torch.device("meta"):
            shapes_only = KTBSegmentor.from_config(model.config).merged().eval()
        return _counted(shapes_only, size)
    except Exception:
        if not own_classes(model.config):
            raise
        return _counted(model.merged().eval(), size)


def _counted(model: KTBSegmentor, size: tuple[int, int]) -> int:
    device = next(model.fused_norms.parameters()).device
    inputs = {m: torch.empty(1, c, *size, device=device) for m, c in model.config["modalities"].items()}
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs, side=False)
    return int(counter.get_total_flops())
