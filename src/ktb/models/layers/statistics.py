"""Norms with running statistics inside frozen layers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def keep_statistics(module: nn.Module) -> None:
    """Set the norms that hold running statistics to evaluation: they are used as they are, and not changed."""
    for part in module.modules():
        if isinstance(part, _NormBase) and part.track_running_stats:
            part.training = False
