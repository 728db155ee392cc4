"""Patterns of file names: what they match below a data root, and which part of a file's path names its sample."""

from __future__ import annotations

import glob
from pathlib import Path


def fixed_parts(pattern: str) -> tuple[str, ...]:
    """The leading parts of a pattern's path that hold no wildcard, the file's name never among them."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return parts[:first]
