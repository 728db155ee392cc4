"""The words in names of folders and files that say what they hold."""

from __future__ import annotations

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


def split_of(name: str) -> str | None:
    """The split that a folder or list of this name is for."""
    return next((split for split, words in SPLIT_WORDS.items() if name.lower() in words), None)
