"""ktb-train -m and ktb-eval -m: the short settings of a sweep, its folder, and what came of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ktb.config.compose import sweep_dir
from ktb.config.mistakes import mistake
from ktb.config.overrides import as_override, swept_keys
from ktb.errors import ConfigError


def sweep_word(text: str) -> str:
    """What the short settings of a sweep stand for in Hydra's own terms; other settings as they are."""
    key, equals, value = text.partition("=")
    name = key.lstrip("+~")
    group, dot, rest = name.partition(".")
    if group in ("launcher", "sweeper"):
        return f"{key.removesuffix(name)}hydra{'.' if dot else '/'}{group}{dot}{rest}{equals}{value}"
    if key == "jobs":
        return f"hydra.launcher.jobs={value}"
    if key == "sweep":
        folder = "/" in value or value.strip("'\"").startswith("~")
        return f"hydra.sweep.dir={value if folder else f'sweeps/{value}'}"
    return text


def sweep_overrides(command: str, config_name: str, overrides: list[str], own: list[Path]) -> tuple[list[str], Path]:
    """What a sweep is started with.

    Args:
        command: "ktb-train" or "ktb-eval".
        config_name: "train" or "eval".
        overrides: what the user wrote, the short settings as `sweep_word` gives them.
        own: further config folders of the user (--config-dir).

    Returns:
        The overrides with the sweep's folder among them, and that folder, absolute.

    Raises:
        ConfigError: a setting that there is not, or one that a sweep can't have.
    """
    from ktb.sweeps.folder import sweep_name

    if text := mistake(config_name, overrides, own, multirun=True):
        raise ConfigError(text)
    if places := [text for text in overrides if text.partition("=")[0].lstrip("+~") == "run_dir"]:
        raise ConfigError(f"'{places[0]}': a sweep gives every job a folder of its own, below sweep=NAME")
    if not any(text.startswith("hydra.sweep.dir=") for text in overrides):
        prefix = command.removeprefix("ktb-").removeprefix("train")
        # How many run where does not make it another sweep.
        apart = ("hydra.launcher", "hydra/launcher", "hydra.sweeper.n_trials")
        counted = [text for text in overrides if not text.startswith(apart)]
        counted += [f"--config-dir {folder.absolute()}" for folder in own]
        name = sweep_name(counted, swept_keys(overrides))
        overrides.append(f"hydra.sweep.dir=sweeps/{prefix and f'{prefix}_'}{name}")
    folder = sweep_dir(config_name, overrides, own)
    kept = [text for text in overrides if not text.startswith("hydra.sweep.dir=")]
    return [*kept, as_override("hydra.sweep.dir", str(folder))], folder


def run_sweep(command: str, argv: list[str], folder: Path, run: Callable[[], Any]) -> None:
    """Run a sweep, alone in its folder, then say what came of it.

    Args:
        command: "ktb-train" or "ktb-eval".
        argv: the command line, to be typed again.
        folder: of the sweep.
        run: Hydra's part, which runs all jobs.

    Raises:
        SystemExit: it was interrupted, or a job failed.
        ConfigError: another process runs it, or its folder can't be written.
    """
    from ktb.sweeps.folder import SweepFolder
    from ktb.sweeps.signals import Interrupted

    again = f"the same command again goes on: {shlex.join(argv)}"
    sweep = SweepFolder(folder)
    with sweep.lock():
        sweep.save(shlex.join(argv))
        try:
            run()
        except Interrupted as stop:
            _stop(command, f"interrupted; {SweepFolder(folder).summary()}; {again}", stop.exit_code)
    sweep = SweepFolder(folder)
    if sweep.jobs:
        from rich.console import Console

        from ktb.report.sweep_summary import show

        show(folder, Console())
    print(f"sweep folder: {folder}")
    if sweep.count()["failed"]:
        _stop(command, f"{sweep.summary()}; {again}", 1)


def _stop(command: str, text: str, code: int) -> NoReturn:
    print(f"{command}: {text}", file=sys.stderr)
    sys.exit(code)
