"""What images pass before the first stage: padding, a change of statistics, and a modality's own first layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeGuard

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ktb.errors import ConfigError
from ktb.models.layers.statistics import keep_statistics


class Entry(nn.Module):
    """Layers of a backbone that images pass before the first stage, as a modality's own copy.

    All of it is trained, but running statistics stay as they are: a batch is too small for better ones, and the scale
    and shift that follow them are trained.
    """

    def __init__(self, layers: Mapping[str, nn.Module], channels: int) -> None:
        """Copy `layers`, widened to `channels` channels."""
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, copy.deepcopy(layer))
        widen(self, channels)
        self.requires_grad_(True)
        self.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        with exact_on_cpu(x):
            for layer in self.children():
                x = layer(x)
        return x

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        keep_statistics(self)
        return self


def exact_on_cpu(images: Tensor) -> AbstractContextManager[Any]:
    """Without autocast on a CPU, for the first layers of modalities with any number of channels.

    PyTorch's convolution in bfloat16 on a CPU (2.14, oneDNN with AVX-512) gives other numbers, off by half their size,
    where the kernel is as large as the stride and channels are many: 4 with patches of 16 pixels, 16 with those of 4.
    """
    cpu = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return torch.autocast("cpu", enabled=False) if cpu else nullcontext()


def widen(module: nn.Module, channels: int) -> None:
    """Make the convolutions of RGB in `module` such of images with `channels` channels.

    Their filters are repeated in turn and scaled, so that the response to a constant image keeps its size.

    Raises:
        ValueError: there is no such convolution.
    """
    # More than one where branches begin at the image, as in FastViT.
    of_rgb = [part for part in module.modules() if takes_rgb(part)]
    if not of_rgb:
        raise ValueError("no convolution of three channels stands at its entry")
    for part in of_rgb if channels != 3 else ():
        weight = part.weight.detach()[:, [c % 3 for c in range(channels)]] * (3 / channels)
        part.weight = nn.Parameter(weight, requires_grad=part.weight.requires_grad)
        part.in_channels = channels


def takes_rgb(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution of three channels."""
    return isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1


def padded(images: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W) with zeros at the right and at the bottom, up to a multiple in both directions."""
    h, w = images.shape[-2:]
    return F.pad(images, (0, -w % multiple, 0, -h % multiple)) if h % multiple or w % multiple else images


class Normalisation(nn.Module):
    """From ImageNet's statistics, which RGB arrives with, to those that a backbone's weights were trained with.

    Args:
        mean, std: per channel, of RGB values in [0, 1].

    Raises:
        ConfigError: other than three numbers, or a deviation that is not positive.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(f"mean and std must be three numbers each, std above 0, got {list(mean)}, {list(std)}")
        scale = [s0 / s1 for s0, s1 in zip(IMAGENET_DEFAULT_STD, std, strict=True)]
        shift = [(m0 - m1) / s1 for m0, m1, s1 in zip(IMAGENET_DEFAULT_MEAN, mean, std, strict=True)]
        self.needed = scale != [1.0] * 3 or shift != [0.0] * 3
        # Buffers, not numbers: a GPU would have to wait for them at every call.
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), before they are padded: padding is zero, as in the training of the weights."""
        if not self.needed:
            return images
        return torch.addcmul(self.shift.to(images.dtype), images, self.scale.to(images.dtype))
