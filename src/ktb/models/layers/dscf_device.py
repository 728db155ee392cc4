"""How DSCF's attention is computed on a device that is no CPU: how much of it at a time, and by which kernel."""

from __future__ import annotations

import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from ktb.errors import ConfigError

SHARE = 128
"""The scores that are held at a time take one part in so many of the device's memory; a few more tensors of that size
exist beside them for a moment, in the backward pass about six."""

LEAST = 1 << 22
"""Scores held at a time where PyTorch does not say how much memory there is, and at least."""

SWITCH = "KTB_TRITON"
"""Environment variable that asks for the Triton kernel: 1, or 0 (as without it)."""


@torch.compiler.assume_constant_result
@lru_cache
def entries_at_a_time(device: torch.device) -> int:
    """Attention entries (batch · heads · queries · points) that fit: few, large kernels where there is memory for them.

    The device's whole memory counts, not what is free of it: that is asked for once, and so the same inputs are divided
    alike in every run.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return LEAST
    scores = int(torch.cuda.get_device_properties(device).total_memory) // (SHARE * 4)
    return max(LEAST, scores)


def triton_kernel(query: Tensor) -> ModuleType | None:
    """`ktb.models.layers.dscf_triton` where the environment asks for it and the device of the queries has it.

    Not under the compiler, and not where PyTorch is asked for deterministic algorithms: the gradient of the table is a
    sum without a fixed order.

    Raises:
        ConfigError: the variable is neither 0 nor 1, or Triton is not installed.
    """
    if query.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    asked = os.environ.get(SWITCH, "0")
    if asked not in ("0", "1"):
        raise ConfigError(f"environment variable {SWITCH}={asked}: expected 0 or 1")
    if asked == "0" or query.numel() == 0 or torch.are_deterministic_algorithms_enabled():
        return None
    try:
        from ktb.models.layers import dscf_triton
    except ImportError as error:
        raise ConfigError(
            f"environment variable {SWITCH}=1 needs the package triton, which PyTorch brings on Linux only ({error}): "
            "install it, or leave the variable out"
        ) from None
    return dscf_triton
