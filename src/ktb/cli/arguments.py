"""Arguments that several of the argparse commands have: paths, numbers, sizes, and how their help is laid out."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TypeAlias

from ktb.errors import ConfigError
from ktb.io import absent, expanded

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns, to which a subcommand is added; argparse has no public name for it."""


class HelpFormatter(argparse.HelpFormatter):
    """Wraps text, but leaves an example, which is there to be copied, on a line of its own."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        head, colon, example = text.partition("Example: ")
        if not colon:
            return super()._fill_text(text, width, indent)
        return f"{head}example:\n  {example}\n"


def home(text: str) -> str:
    """A path or pattern with a leading `~` or `~user` replaced by that home, as text, for argparse.

    Raises:
        argparse.ArgumentTypeError: it is empty, which would mean the current folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; is a variable of the shell not set?")
    return os.path.expanduser(text)  # noqa: PTH111


def named_path(text: str) -> Path:
    """A path as the user writes it, for argparse; see `ktb.io.expanded`.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    return expanded(home(text))


def config_dirs(folder: Path | None) -> list[Path]:
    """The folders that --config-dir adds to those of ktb.

    Raises:
        ConfigError: there is no such folder, a part of it may not be read, or it has a file that ktb has by the same
            name.
    """
    from ktb.config.conf_folder import refuse_namesakes, refuse_unreadable  # here: not before Ctrl-C has words

    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is {absent(folder, 'not a folder')}")
    refuse_unreadable(folder)
    refuse_namesakes(folder)
    return [folder]


def positive(text: str, least: int = 1) -> int:
    """A whole number, for argparse.

    Args:
        text: what the user wrote.
        least: the smallest that is taken.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH as (height, width) in pixels, for argparse.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 480x640")
    return int(match[1]), int(match[2])


def picture_size(text: str) -> tuple[int, int]:
    """As `size`, no larger than a picture that ktb reads.

    Raises:
        argparse.ArgumentTypeError: something else.
    """
    from ktb.data.readers.decode import MAX_PIXELS

    height, width = size(text)
    if height * width > MAX_PIXELS:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {MAX_PIXELS:,} pixels (8192x8192)")
    return height, width


def add_trust(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The option --trust of a command that opens a checkpoint."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module or package of your own whose classes the checkpoint may name, such as my_lab; may be given "
        "repeatedly (docs/extend.md)",
    )
