"""The flags of ktb-train and ktb-eval, which are Hydra's: --multirun, --config-dir, --cfg and so on."""

from __future__ import annotations

import argparse

from hydra._internal.utils import get_args_parser


def flags_parser() -> argparse.ArgumentParser:
    """Hydra's parser of a command line.

    Hydra has no public function for it, and reads the command line itself only after ktb has looked at the settings.
    """
    parser: argparse.ArgumentParser = get_args_parser()
    return parser


def config_dir() -> str | None:
    """The --config-dir of this process's command line, as the user wrote it; None: there is none."""
    found: str | None = flags_parser().parse_known_args()[0].config_dir
    return found


def config_dir_flags() -> list[str]:
    """--config-dir of this process's command line, to be written again; empty where there is none."""
    own = config_dir()
    return ["--config-dir", own] if own else []
