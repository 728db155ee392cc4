"""Changes of normalised inputs that stand for failing sensors (docs/method.md#failing-sensors).

A missing modality is a tensor of zeros in EMM as defined ("zeros"). That is not what the model itself calls missing:
zeros still pass the patch embedding, whose bias and norm make tokens of them, whereas a modality left out of the inputs
("masked") has zero tokens, as under the masking of training (docs/method.md#mmst). "black" (MISS) is a black picture
before normalisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ktb.data.spec import ModalitySpec

MISSING = ("zeros", "black", "masked")
"""Ways a missing modality can reach the model."""

Inputs = dict[str, Tensor]
"""Modality → (B, C, H, W), normalised."""


class SampleNoise:
    """Random numbers for the samples of one batch.

    Seed, sample id, modality and purpose alone decide them, so that batch size, rank and device do not matter; rates
    and levels share their draws, so that a higher one only adds to a lower one.

    Args:
        seed: of the evaluation.
        ids: the batch's sample names.
    """

    def __init__(self, seed: int, ids: Sequence[str]) -> None:
        self.seed = seed
        self.ids = ids
        self._made: dict[tuple[str, str], Tensor] = {}

    def uniform(self, purpose: str, modality: str, like: Tensor) -> Tensor:
        """In [0, 1), of the shape, device and dtype of `like` (B, C, H, W)."""
        return self._draw(purpose, modality, like, lambda g, shape: g.random(shape, np.float32))

    def normal(self, purpose: str, modality: str, like: Tensor) -> Tensor:
        """Standard normal, of the shape, device and dtype of `like` (B, C, H, W)."""
        return self._draw(purpose, modality, like, lambda g, shape: g.standard_normal(shape, np.float32))

    def _draw(
        self, purpose: str, modality: str, like: Tensor, make: Callable[[np.random.Generator, torch.Size], Any]
    ) -> Tensor:
        key = (purpose, modality)
        if key not in self._made:
            samples = [make(self._generator(*key, name), like.shape[1:]) for name in self.ids]
            self._made[key] = torch.from_numpy(np.stack(samples)).to(like)
        return self._made[key]

    def _generator(self, *parts: str) -> np.random.Generator:
        digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest)])


def without(inputs: Inputs, missing: Sequence[str], way: str, modalities: Sequence[ModalitySpec]) -> Inputs:
    """Inputs in which some modalities are missing.

    Args:
        inputs: normalised.
        missing: modalities to take away.
        way: one of `MISSING`.
        modalities: how each is normalised.
    """
    if way == "masked":
        return {m: x for m, x in inputs.items() if m not in missing}
    specs = {m.name: m for m in modalities}

    def replacement(name: str, x: Tensor) -> Tensor:
        if way == "zeros":
            return torch.zeros_like(x)
        return specs[name].normalize(x.new_zeros(1, x.shape[1], 1, 1)).to(x).expand_as(x)

    return {m: replacement(m, x) if m in missing else x for m, x in inputs.items()}


def randomly_zeroed(inputs: Inputs, chosen: Sequence[str], rate: float, draws: SampleNoise) -> Inputs:
    """Inputs in which elements are zero, each independently of the others.

    Args:
        inputs: normalised.
        chosen: modalities this happens to.
        rate: probability of an element's being zeroed.
        draws: the batch's random numbers.
    """
    return {m: x.masked_fill(draws.uniform("rmm", m, x) < rate, 0.0) if m in chosen else x for m, x in inputs.items()}


def noisy(inputs: Inputs, density: float, sigma: float, draws: SampleNoise) -> Inputs:
    """Inputs with salt and pepper, then Gaussian noise on all but event.

    Args:
        inputs: normalised.
        density: share of the elements that are set to the sample's largest or smallest value, half of it each.
        sigma: standard deviation of the Gaussian noise.
        draws: the batch's random numbers.
    """
    result = {}
    for m, x in inputs.items():
        u = draws.uniform("salt and pepper", m, x)
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = torch.where(u < density, torch.where(u < density / 2, high, low), x)
        if m != "event":
            x = x + sigma * draws.normal("gaussian", m, x)
        result[m] = x
    return result
