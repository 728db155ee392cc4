"""Joint geometry for all modalities and the label, photometry for RGB only (docs/method.md#augmentation), on
albumentations.

Images stay in their stored dtype throughout: a batch of bytes is normalised on the device, a quarter of the traffic of
normalised floats and no work per sample (docs/method.md#cheaper-forms).
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

# Without this, albumentations asks the network for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from ktb.data.arrays import Array, Label, Size

ALIGN = 32
"""Both sides of an evaluation image are rounded up to a multiple of this (docs/method.md#evaluation)."""

RGB_KEY = "rgb"
"""The modality that photometric augmentation applies to."""


class Transform(Protocol):
    """A joint transform of one sample. Images are (H, W, C), the label is (H, W), entropy names the random draw."""

    def __call__(
        self, images: Mapping[str, Array], label: Label, *, entropy: Sequence[int]
    ) -> tuple[dict[str, Array], Label]: ...


class ColorJitter(A.ColorJitter):
    """Brightness, then contrast, then saturation, each by a factor from U[0.5, 1.5] (docs/method.md#augmentation).

    albumentations shuffles the order, which gives other colours.
    """

    def __init__(self, factor: tuple[float, float] = (0.5, 1.5), p: float = 0.2) -> None:
        super().__init__(brightness=factor, contrast=factor, saturation=factor, hue=(0.0, 0.0), p=p)

    def get_params(self) -> dict[str, Any]:
        """Draw the factors; the order is fixed."""
        draw = [self.py_random.uniform(*limits) for limits in (self.brightness, self.contrast, self.saturation)]
        return {"brightness": draw[0], "contrast": draw[1], "saturation": draw[2], "hue": 0.0, "order": [0, 1, 2]}


class RandomResizedCrop(A.DualTransform):
    """Scale, crop and pad in one step (docs/method.md#augmentation).

    One ratio ρ from U[ratio] gives a target (tH·ρ, 4·tW·ρ); the image is scaled by
    min(max(target)/max(H, W), min(target)/min(H, W)), a crop of (tH, tW) is taken at random, and what is missing is
    padded at the right and at the bottom, images with 0, the label with void, the greatest
    value of its type. Images bilinear, the label nearest.

    Args:
        size: (tH, tW) of the result.
        ratio: limits of ρ.
    """

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.MASK)

    class InitSchema(A.core.transforms_interface.BaseTransformInitSchema):
        """The types of the constructor's arguments, by which albumentations checks them."""

        size: tuple[int, int]
        ratio: tuple[float, float]

    def __init__(self, size: Size, ratio: tuple[float, float] = (0.5, 2.0), p: float = 1.0) -> None:
        super().__init__(p=p)
        self.size = size
        self.ratio = ratio
        self._scratch = np.empty(0, np.uint8)

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        """Name further modalities, which are cropped as images."""
        super().add_targets(additional_targets)
        # Further modalities are declared as masks, which photometric transforms leave alone; here they are images.
        self._key2func.update(dict.fromkeys(additional_targets, self.apply))

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the ratio and the corner of the crop.

        Args:
            params: has "shape", (height, width, ...) of the images.
            data: the images; not used.

        Returns:
            "scaled": (height, width) after scaling; "corner": (row, column) of the crop in the scaled image.
        """
        height, width = params["shape"][:2]
        rho = self.py_random.uniform(*self.ratio)
        scaled = scaled_size((height, width), (self.size[0] * rho, 4 * self.size[1] * rho))
        corner = [self.py_random.randint(0, max(s - t, 0)) for s, t in zip(scaled, self.size, strict=True)]
        return {"scaled": scaled, "corner": tuple(corner)}

    def apply(self, img: Array, scaled: Size, corner: Size, **params: Any) -> Array:
        """(H, W, C) → (tH, tW, C), bilinear, padded with 0."""
        return self._crop(img, scaled, corner, cv2.INTER_LINEAR, fill=0)

    def apply_to_mask(self, mask: Array, scaled: Size, corner: Size, **params: Any) -> Array:
        """Label (H, W) → (tH, tW), nearest, padded with the greatest value of its type, which is void."""
        return self._crop(mask, scaled, corner, cv2.INTER_NEAREST_EXACT, fill=int(np.iinfo(mask.dtype).max))

    def _crop(self, image: Array, scaled: Size, corner: Size, interpolation: int, fill: int) -> Array:
        # Resizing the whole image into memory that is used again is faster than warping only the crop into new memory
        # (1.4 against 2.9 ms for 480x640x3 at ρ = 1.5; 2.7 ms where the resized image is allocated anew).
        shape = (*scaled, *image.shape[2:])
        size = math.prod(shape) * image.itemsize
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        resized = self._scratch[:size].view(image.dtype).reshape(shape)
        cv2.resize(image, scaled[::-1], dst=resized, interpolation=interpolation)
        (y, x), (height, width) = corner, self.size
        crop = resized[y : y + height, x : x + width]
        if crop.shape[:2] == self.size:
            return crop.copy()
        padded = np.full((height, width, *image.shape[2:]), fill, image.dtype)
        padded[: crop.shape[0], : crop.shape[1]] = crop
        return padded


def scaled_size(size: Size, target: tuple[float, float]) -> Size:
    """The largest size of the same aspect ratio that fits a target of either orientation.

    Args:
        size: (height, width) in pixels.
        target: limits of the two sides, in any order: the long side must be ≤ the greater, the short side ≤ the
            smaller.

    Returns:
        (height, width), rounded, each 1 or more.
    """
    scale = min(max(target) / max(size), min(target) / min(size))
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def resize(image: Array, size: Size) -> Array:
    """Resize an image bilinearly on half-pixel centres.

    Args:
        image: (H, W, C) of any type that OpenCV resizes.
        size: (height, width) of the result.

    Returns:
        (*size, C) of the same type; `image` itself if it has that size.
    """
    if image.shape[:2] == size:
        return image
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized if resized.ndim == image.ndim else resized[..., None]


def resize_nearest(label: Array, size: Size) -> Array:
    """Resize by the nearest pixel on half-pixel centres, so that a label stays where its bilinear image goes.

    Args:
        label: (H, W) or (H, W, C).
        size: (height, width) of the result.

    Returns:
        The same type at `size`; `label` itself if it has that size.
    """
    if label.shape[:2] == size:
        return label
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


class TrainTransform:
    """The published training augmentation of five of the six data sets (docs/method.md#augmentation).

    Colour jitter (p 0.2), horizontal flip (p 0.5), Gaussian blur 3×3 σ 0.8 (p 0.2), random resized crop, in this order;
    jitter and blur on the modality "rgb" only.

    Args:
        streams: names of the modalities that will come.
        crop: (height, width) of the result; None leaves the size alone.
    """

    def __init__(self, streams: Sequence[str], crop: Size | None) -> None:
        first = RGB_KEY if RGB_KEY in streams else streams[0]
        photometric = [ColorJitter()], [A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.8, 0.8), p=0.2)]
        jitter, blur = photometric if first == RGB_KEY else ([], [])
        geometry = [] if crop is None else [RandomResizedCrop(crop)]
        self.keys = {name: "image" if name == first else name for name in streams}
        self.compose = A.Compose(
            [*jitter, A.HorizontalFlip(p=0.5), *blur, *geometry],
            additional_targets={name: "mask" for name in streams if name != first},
        )

    def __call__(
        self, images: Mapping[str, Array], label: Label, *, entropy: Sequence[int]
    ) -> tuple[dict[str, Array], Label]:
        reseed(self.compose, entropy)
        out = self.compose(**{self.keys[name]: image for name, image in images.items()}, mask=label)
        return {name: out[self.keys[name]] for name in images}, out["mask"]


def reseed(compose: A.Compose, entropy: Sequence[int]) -> None:
    """Make what `compose` draws next depend on `entropy` alone.

    `set_random_seed` of albumentations would not do: it gives every transform a generator of its own with the same
    seed, so one random number would decide about jitter, flip and blur together.

    Args:
        compose: the transform.
        entropy: whole numbers, 0 or more, such as (seed, epoch, index).
    """
    sequence = np.random.SeedSequence(entropy)
    compose.set_random_state(
        np.random.Generator(np.random.PCG64(sequence)), random.Random(int(sequence.generate_state(1, np.uint64)[0]))
    )


class EvalTransform:
    """The evaluation transform (docs/method.md#evaluation): short side to `short_side`, then both sides up to a
    multiple of 32.

    Args:
        short_side: in pixels; None leaves the images as they are.
        resize_label: resize the label along (nearest) and so score at that size, as published; otherwise the label
            keeps its native size and the logits are resized to it.
    """

    def __init__(self, short_side: int | None, *, resize_label: bool = False) -> None:
        self.short_side = short_side
        self.resize_label = resize_label

    def __call__(
        self, images: Mapping[str, Array], label: Label, *, entropy: Sequence[int] = ()
    ) -> tuple[dict[str, Array], Label]:
        if self.short_side is None:
            return dict(images), label
        size = self.size(next(iter(images.values())).shape[:2])
        return (
            {name: resize(image, size) for name, image in images.items()},
            resize_nearest(label, size) if self.resize_label else label,
        )

    def size(self, native: Sequence[int]) -> Size:
        """(height, width) of the network input for an image of `native` (height, width)."""
        scale = self.short_side / min(native) if self.short_side is not None else 1.0
        height, width = (int(np.ceil(int(side * scale + 0.5) / ALIGN)) * ALIGN for side in native)
        return height, width
