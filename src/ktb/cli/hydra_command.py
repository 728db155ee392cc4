"""ktb-train and ktb-eval between the command line and `ktb.jobs.train`: settings checked, composed by Hydra, run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ktb.cli.arguments import config_dirs
from ktb.cli.hydra_flags import config_dir_flags, flags_parser
from ktb.cli.run_command import run_command
from ktb.cli.train_help import help_text
from ktb.cli.train_sweep import run_sweep, sweep_overrides, sweep_word
from ktb.config.checks import check
from ktb.config.compose import config_folders
from ktb.config.conf_folder import conf_dir
from ktb.config.mistakes import composition_error, mistake, several_of_one
from ktb.config.modality import settle
from ktb.config.overrides import as_override, at_home, overridden, quoted_paths, user_overrides
from ktb.config.saved import inherit
from ktb.errors import ConfigError
from ktb.io import expanded
from ktb.run_folder.names import CHECKPOINTS, LAST, LOG
from ktb.weights.by_name import fetched


def hydra_command(command: str, config_name: str) -> int:
    """Run ktb-train or ktb-eval.

    What Hydra raises here was raised before a job began; `_job` deals with what a job raises.

    Args:
        command: "ktb-train" or "ktb-eval".
        config_name: "train" or "eval".

    Returns:
        The exit code.

    Raises:
        ConfigError: a setting or a flag that there is not, or a value that cannot work.
        SystemExit: a job failed or was stopped, and that has been printed.
    """
    argv = sys.argv[1:]
    if "--version" in argv:
        from ktb import __version__

        print(f"{command} {__version__}")
        return 0
    # Hydra's own parser refuses settings that follow a flag: ktb-train seed=1 --cfg job optim.lr=1.
    args, unknown = flags_parser().parse_known_intermixed_args(argv)
    own = [expanded(args.config_dir)] if args.config_dir else []
    overrides = at_home(args.overrides)
    if not args.multirun:
        overrides = quoted_paths(overrides)
    if args.shell_completion:
        os.environ["COMP_LINE"] = _completable(os.environ.get("COMP_LINE", ""))
    try:
        if unknown:
            raise ConfigError(f"unknown option {unknown[0]}: settings are written without dashes, as key=value")
        config_dirs(own[0] if own else None)
        if args.help:
            print(help_text(config_name, own), end="")
            return 0
        if config_name == "eval":
            overrides = inherit(overrides, own, fetched=fetched)
        sweep = None
        if args.multirun:
            overrides = [sweep_word(text) for text in overrides]
            overrides, sweep = sweep_overrides(command, config_name, overrides, own)
        elif words := [text for text in overrides if sweep_word(text) != text]:
            raise ConfigError(f"'{words[0]}' is for sweeps: add -m")
        if wrong := several_of_one(config_name, overrides, own):
            raise ConfigError(wrong)
        flags = list(argv)
        for text in args.overrides:
            flags.remove(text)
        if own:
            flags = [
                re.sub(rf"(^|=){re.escape(args.config_dir)}$", lambda m: f"{m[1]}{own[0]}", text) for text in flags
            ]
        sys.argv[1:] = [*overrides, *flags]
        # Hydra then raises what it would otherwise print in its own way.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        task = {"ktb-train": _train, "ktb-eval": _evaluate}[command]
        run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)
        if sweep is None:
            run()
        else:
            run_sweep(command, [command, *argv], sweep, run)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        if args.shell_completion:  # of a line that is wrong: nothing to offer, and nothing to say while someone types
            return 0
        wrong = mistake(config_name, overrides, own, multirun=args.multirun)
        raise ConfigError(wrong or composition_error(error)) from None
    return 0


def _completable(line: str) -> str:
    """The line that a shell wants completed, with paths before its last word as Hydra's grammar takes them."""
    *finished, last = line.split(" ")
    return " ".join([*quoted_paths(at_home(finished)), last])


def _train(cfg: DictConfig) -> Any:
    return _job("ktb-train", cfg)


def _evaluate(cfg: DictConfig) -> Any:
    return _job("ktb-eval", cfg)


def _job(command: str, cfg: DictConfig) -> Any:
    """One job of a command, in this process or in that of a sweep's launcher.

    Raises:
        SystemExit: the job failed or was stopped, and that has been printed.
    """
    given = user_overrides(cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _job_of_another_launcher(command, given)
    result: Any = None

    def work() -> int:
        nonlocal result
        check(cfg)
        settle(cfg, overridden(given), config_folders())
        # PyTorch and Lightning: not before the settings are known to be right.
        if command == "ktb-train":
            from ktb.jobs.train import train as job
        else:
            from ktb.jobs.evaluate import evaluate as job
        result = job(cfg)
        return 0

    if code := run_command(command, work, stopped=lambda word: _resume(command, word, cfg, given)):
        sys.exit(code)
    return result


def _job_of_another_launcher(command: str, given: list[str]) -> str:
    """One job of a sweep for which the user chose a launcher that is not ours (basic, joblib, Ray, ...): in a process
    of its own here as well, as whatever one job leaves behind would be the next one's.

    Returns: its status, for the sweeper.
    """
    from ktb.sweeps import processes
    from ktb.sweeps.job import SweepJob

    job = SweepJob(Path(HydraConfig.get().runtime.output_dir), given)
    job.settle()
    if not job.is_done():
        processes.run(job, job.command(processes.program(command), *config_dir_flags()), processes.environment())
        if job.status == "failed":
            print(f"{command}: {job}: failed: {job.record['error']} ({job.folder / LOG})", file=sys.stderr)
    return job.status


def _resume(command: str, what: str, cfg: DictConfig, given: list[str]) -> str:
    """What to type to continue the interrupted job."""
    run_dir = str(cfg.run_dir)
    if command != "ktb-train":
        return what
    if not Path(run_dir, CHECKPOINTS, LAST).exists():
        return f"{what} before the first checkpoint"
    kept = [text for text in given if text.partition("=")[0] not in ("run_dir", "ckpt_path", "overwrite")]
    again = [
        command,
        *config_dir_flags(),
        *kept,
        "ckpt_path=last",
        as_override("run_dir", run_dir),
    ]
    return f"{what}; continue with: {shlex.join(again)}"
