"""The types of arrays and sizes that the data room passes around."""

from __future__ import annotations

from typing import Any

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
