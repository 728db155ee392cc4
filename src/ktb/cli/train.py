"""The `ktb-train` and `ktb-eval` commands.

Exit codes are those of `ktb.cli.run_command`; 1 also a sweep some of whose jobs failed.
"""

from __future__ import annotations

import sys

from ktb.cli.run_command import run_command


def train() -> None:
    """ktb-train: conf/train.yaml."""
    sys.exit(run_command("ktb-train", lambda: _hydra_command("ktb-train", "train")))


def evaluate() -> None:
    """ktb-eval: conf/eval.yaml."""
    sys.exit(run_command("ktb-eval", lambda: _hydra_command("ktb-eval", "eval")))


def _hydra_command(command: str, config_name: str) -> int:
    from ktb.cli.hydra_command import hydra_command

    return hydra_command(command, config_name)
