"""Files of a sample as arrays: `decode` (any file, by its first bytes), the formats it calls (`png`, `tiff`, `lzw`,
`exr`, `npy`, `limits`), `image` and `label` (what a modality and a label are made of), `extras`, `label_palettes`,
`holes`, `plane`.

The names below are what scripts use; they load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {"ImageReader": "image", "LabelReader": "label", "id_table": "label"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
