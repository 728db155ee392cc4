"""What `ktb-data new` has found out about a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktb.data.readers.decode import MAX_PIXELS
from ktb.data.spec import Colour
from ktb.data.tools.new.recipe import Setting


@dataclass(frozen=True)
class Guess:
    """Settings of one modality or of the labels, and why.

    Args:
        name: of the modality, or "label".
        settings: as in `conf/dataset/folder.yaml`.
        reasons: in words.
    """

    name: str
    settings: dict[str, Any]
    reasons: tuple[str, ...]


def globs_of(guess: Guess) -> list[str]:
    """The patterns of its files, one for each file of a sample."""
    files = guess.settings["files"]
    return [files] if isinstance(files, str) else list(files)


@dataclass
class Survey:
    """What the folder holds. notes: what the user has to look at or do."""

    root: Path
    modalities: list[Guess]
    label: Guess
    classes: list[tuple[str, str]]
    """Name, and what is known of it."""
    palette: list[Colour] | None
    splits: dict[str, str | float]
    split_reason: str
    crop: tuple[int, int]
    batch_size: int
    notes: list[str] = field(default_factory=list)
    resized: bool = False
    """Files of one sample differ in size."""
    lists: dict[str, list[str]] = field(default_factory=dict)
    """Split → names of its samples, where lists have to be written."""
    max_pixels: int = MAX_PIXELS
    recipe: list[Setting] = field(default_factory=list)
    """Of the training; `write_yaml` finds it, as it needs the lists."""


def module_settings(found: Survey) -> dict[str, Any]:
    """The arguments of `FolderDataModule` that the survey found."""
    return {
        "root": found.root,
        "modalities": {g.name: g.settings for g in found.modalities},
        "label": found.label.settings,
        "classes": [name for name, _ in found.classes],
        "palette": found.palette,
        "splits": found.splits,
        "streams": [g.name for g in found.modalities],
        "crop": found.crop,
        "batch_size": found.batch_size,
        "max_pixels": found.max_pixels,
    }
