"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real sample data beside the checkout (or KTB_SHARED); tests that need it skip where there is none."""
    folder = Path(os.environ.get("KTB_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}")
    return folder


def pytest_configure() -> None:
    """A job in the background of a script ignores Ctrl-C, and so would the commands that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
