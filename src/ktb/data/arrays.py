"""The types of arrays and sizes that the data room passes around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Of any shape and type of number; where it is an image, (H, W, C)."""
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
"""(H, W), True where a sensor measured something."""
Label = NDArray[Any]
"""(H, W) class ids: uint8, or uint16 where there are more than 255 classes."""
Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """An array in the place of a file: what a program has in memory is read as if it came from the disk.

    Args:
        name: what messages call it, where they name the path of a file.
        array: (H, W) or (H, W, C), as the sensor gives it; it is never changed.
    """

    name: str
    array: Array

    def __str__(self) -> str:
        return self.name


Source = Path | InMemory
"""What a reader of images takes for each file of a sample."""


class Reading(NamedTuple):
    """An image (H, W, C), uint8, uint16 or float32, and where it is valid (H, W); None where there are no holes.

    converted: what was done to a picture that is no plain RGB, in words; empty otherwise.
    resized: files of a modality in several → their own (height, width), where it is not that of the first.
    stored: type of the values in the first file; empty: not known.
    """

    image: Array
    valid: Mask | None = None
    converted: str = ""
    resized: Mapping[str, Size] = MappingProxyType({})
    stored: str = ""
