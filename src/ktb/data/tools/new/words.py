"""The words in names of folders and files that say what they hold."""

from __future__ import annotations

import re

LABEL_WORDS = ("label", "mask", "annotation", "annot", "semantic", "segmentation", "seg", "truth", "gt", "target")
RGB_WORDS = ("rgb", "color", "colour", "image", "img", "visible", "vis", "photo", "picture", "left")
X_WORDS = {
    "depth": ("depth", "dep"),
    "disparity": ("disparity", "disp"),
    "thermal": ("thermal", "ther", "infrared", "lwir", "tir", "ir"),
    "nir": ("nir",),
    "event": ("event",),
    "lidar": ("lidar",),
    "hha": ("hha",),
    "aolp": ("aolp",),
    "dolp": ("dolp",),
}
ALL_X_WORDS = tuple(word for words in X_WORDS.values() for word in words)
SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


BAND_WORDS = (
    *("coastal", "ultrablue", "blue", "green", "yellow", "red", "rededge", "rededge1", "rededge2", "rededge3", "re"),
    *("nir", "nir1", "nir2", "swir", "swir1", "swir2"),
)
"""Names of bands, by wavelength."""


def band_of(word: str) -> tuple[int, str] | None:
    """The band that a word names: (its number, a letter after it) as in B8A, or (0, its name), in their order.

    Returns:
        None if it names none.
    """
    text = re.sub(r"[\W_]+", "", word).lower()
    if match := re.fullmatch(r"(?:b|band|ch|channel)0*(\d{1,3})(a?)", text):
        return int(match[1]), match[2]
    return (0, f"{BAND_WORDS.index(text):02d} {text}") if text in BAND_WORDS else None


def split_of(name: str) -> str | None:
    """The split that a folder or list of this name is for."""
    return next((split for split, words in SPLIT_WORDS.items() if name.lower() in words), None)
