"""The fill rule of the reference numbers: weights and inputs that follow from names alone."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent.parent / "data" / "reference"


def load_json(name: str) -> dict[str, Any]:
    return json.loads((DATA / name).read_text())


def rng(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def fill(name: str, shape: tuple[int, ...], prefix: str = "") -> Tensor:
    """Value of one state-dict entry: float32 numbers widened to float64; `prefix` comes before the name in the seed."""
    n = rng(prefix + name).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.long)
    if last == "running_mean":
        v = 0.1 * n
    elif last == "running_var":
        v = 1 + 0.2 * np.abs(n)
    elif last in ("relative_position_bias_table", "rpe_table"):
        v = 0.5 * n
    elif "gamma" in name:
        v = 1 + 0.1 * n
    elif "beta" in name:
        v = 0.1 * n
    elif last == "deform_weight":
        v = 0.5 + 0.1 * n
    elif last == "identity_weight":
        v = 1 + 0.1 * n
    elif last == "bias":
        v = 0.1 * n
    elif last == "weight" and len(shape) == 1:
        v = 1 + 0.1 * n
    elif last == "weight":
        v = n / np.sqrt(np.prod(shape[1:]))
    elif last.startswith("layer_scale"):
        v = 0.1 * n
    else:
        raise AssertionError(f"no fill rule for {name}")
    return torch.from_numpy(np.asarray(v).astype(np.float32).astype(np.float64))


def filled_state(reference: dict[str, Any]) -> dict[str, Tensor]:
    prefix = reference.get("prefix", "")
    return {name: fill(name, tuple(shape), prefix) for name, shape in reference["state_dict"].items()}


def inputs(tag: str, b: int, h: int, w: int) -> dict[str, Tensor]:
    return {
        "rgb": torch.from_numpy(rng(f"{tag}/rgb").standard_normal((b, 3, h, w))),
        "depth": torch.from_numpy(rng(f"{tag}/x").uniform(0, 1, (b, 3, h, w))),
    }


def label(tag: str, k: int, b: int, h: int, w: int) -> Tensor:
    y = rng(f"{tag}/label").randint(0, k, (b, h, w))
    y[rng(f"{tag}/void").uniform(size=(b, h, w)) < 0.1] = 255
    return torch.from_numpy(y)
