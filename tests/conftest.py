"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real sample data beside the checkout (or KTB_SHARED); tests that need it skip where there is none."""
    folder = Path(os.environ.get("KTB_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}")
    return folder
