"""Small files written, and the one line of an error read, for tests of the readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.errors import DataError

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, **options) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def message(call, *args) -> str:
    """The error's message, which must be one line that begins with the file."""
    with pytest.raises(DataError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    path = args[0][0] if isinstance(args[0], list) else args[0]
    assert text.startswith(str(path)), text
    return text
