"""What the argparse commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ktb.errors import ConfigError
from ktb.io import absent


class HelpFormatter(argparse.HelpFormatter):
    """Wraps text, but leaves an example, which is there to be copied, on a line of its own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        head, colon, example = text.partition("Example: ")
        if not colon:
            return super()._fill_text(text, width, indent)
        return f"{head}example:\n  {example}\n"


def home(text: str) -> str:
    """A path or pattern with a leading `~` or `~user` replaced by that home, as text."""
    return os.path.expanduser(text)  # noqa: PTH111


def config_dirs(folder: Path | None) -> list[Path]:
    """The folders that --config-dir adds to those of ktb.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is {absent(folder, 'not a folder')}")
    return [folder]
