"""The ktb-* commands: Hydra around `ktb.jobs.train`, and errors as one line.

Exit codes are those of `ktb.cli.common`; 1 also a sweep some of whose jobs failed.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ktb.cli import common as commands
from ktb.cli.arguments import config_dirs
from ktb.config.checks import check
from ktb.config.compose import conf_dir, groups, sweep_dir
from ktb.config.mistakes import composition_error, mistake
from ktb.config.overrides import as_override, at_home, quoted_paths, swept_keys, user_overrides
from ktb.config.saved import inherit
from ktb.errors import ConfigError
from ktb.io import expanded

_TRAIN_HELP = """\
Train an RGB+X segmentation model and score its best checkpoint on the test split.

Without settings: the frozen Swin with prompts, adapters and fusion, on synthetic RGB + depth scenes, with weights
that come with ktb; nothing is downloaded.

Usage: ktb-train [key=value ...]
"""
_TRAIN_EXAMPLES = """\
Often used:
  dataset.root=DIR           where the data set lies
  trainer.max_epochs=50      a shorter training            trainer.devices=2   more GPUs (with trainer=ddp)
  optim.lr=1e-4              learning rate                 seed=1              another seed
  backbone.weights=FILE      Swin weights from a file in timm, Microsoft, OpenMMLab or Hugging Face naming
  run_dir=DIR                where results go; default runs/DATASET/MODALITY_BACKBONE_LOSS/DATE
  ckpt_path=last run_dir=DIR continue that run
  init_from=RUN|FILE|BUNDLE  start from the weights of another model (fine-tuning), as far as they fit
  -m seed=1,2,3              a sweep: one job per value, all combinations of several lists. The same command again
                             goes on where it stopped

Examples:
  ktb-train
  ktb-train dataset=nyu backbone=swin_b dataset.root=/data/NYUDepthv2
  ktb-train experiment=mfnet_swin_b logger=wandb
  ktb-train -m dataset=nyu,mfnet backbone=swin_b,swin_l launcher=gpus

With -m also:
  jobs=2                     jobs at a time                launcher=gpus     each with GPUs of its own; local, slurm
  sweep=NAME                 where it goes: sweeps/NAME    launcher.KEY=...  settings of the launcher

A run folder holds config.yaml, result.json, metrics.csv, checkpoints/, pictures and report.html.
"""
_EVAL_HELP = """\
Score a checkpoint: a run of ktb-train (with its own config) or a published state dict.

Usage: ktb-eval checkpoint=RUN_FOLDER|FILE [key=value ...]
"""
_EVAL_EXAMPLES = """\
Often used:
  split=val                  another split than the one the literature reports on
  eval=published             score at the published code's resized size instead of the label's own
  robustness=all             also score with sensors missing or disturbed: a table and a plot
  eval=ms_flip               multi-scale and flip
  dataset.root=DIR           where the data set lies
  panels=8                   how many pictures of the best, the worst and random samples, each
  run_dir=DIR                where results go; default RUN_FOLDER/eval/DATE, beside the checkpoint

Examples:
  ktb-eval checkpoint=runs/synthetic/rgb_d_swin_nano_self_teaching/2025-06-01_12-00-00
  ktb-eval checkpoint=nyu_b.pth experiment=nyu_swin_b dataset.root=/data/NYUDepthv2

For a run of ktb-train its config.yaml counts, with what you set here put over it; for a published file the groups do.
"""
_FLAGS = """\
  --cfg job                  print the composed configuration and stop (--resolve: with all references followed)
  --config-dir DIR           your own members for the groups, as DIR/dataset/mine.yaml
  --shell-completion         ktb-train -sc install=bash
  --hydra-help, --version
"""


def train() -> None:
    """ktb-train: conf/train.yaml."""
    sys.exit(commands.run("ktb-train", lambda: _main("ktb-train", "train", _train)))


def evaluate() -> None:
    """ktb-eval: conf/eval.yaml."""
    sys.exit(commands.run("ktb-eval", lambda: _main("ktb-eval", "eval", _evaluate)))


def _train(cfg: DictConfig) -> Any:
    return _job("ktb-train", cfg)


def _evaluate(cfg: DictConfig) -> Any:
    return _job("ktb-eval", cfg)


def _main(command: str, config_name: str, task: Callable[[DictConfig], Any]) -> int:
    """One command. Whatever escapes Hydra was raised before a job began: `_job` deals with the rest itself."""
    argv = sys.argv[1:]
    if "--version" in argv:
        from ktb import __version__

        print(f"{command} {__version__}")
        return 0
    # Hydra's own parser refuses settings that follow a flag: ktb-train seed=1 --cfg job optim.lr=1.
    args, unknown = get_args_parser().parse_known_intermixed_args(argv)
    own = [expanded(args.config_dir)] if args.config_dir else []
    overrides = at_home(args.overrides)
    if not args.multirun:
        overrides = quoted_paths(overrides)
    try:
        if unknown:
            raise ConfigError(f"unknown option {unknown[0]}: settings are written without dashes, as key=value")
        config_dirs(own[0] if own else None)
        if args.help:
            print(_help(config_name, own), end="")
            return 0
        if config_name == "eval":
            overrides = inherit(overrides, own)
        sweep = None
        if args.multirun:
            overrides = [_sweep_word(text) for text in overrides]
            overrides, sweep = _sweep(command, config_name, overrides, own)
        elif words := [text for text in overrides if _sweep_word(text) != text]:
            raise ConfigError(f"'{words[0]}' is for sweeps: add -m")
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
        run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)
        if sweep is None:
            run()
        else:
            _run_sweep(command, [command, *argv], sweep, run)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        wrong = mistake(config_name, overrides, own, multirun=args.multirun)
        raise ConfigError(wrong or composition_error(error)) from None
    return 0


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
        from ktb.jobs import train as run  # PyTorch and Lightning: not before the settings are known to be right

        result = run.train(cfg) if command == "ktb-train" else run.evaluate(cfg)
        return 0

    if code := commands.run(command, work, stopped=lambda word: _resume(command, word, cfg, given)):
        sys.exit(code)
    return result


def _sweep_word(text: str) -> str:
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


def _sweep(command: str, config_name: str, overrides: list[str], own: list[Path]) -> tuple[list[str], Path]:
    """The overrides of a sweep, checked and with its folder among them, and that folder."""
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


def _run_sweep(command: str, argv: list[str], folder: Path, run: Callable[[], Any]) -> None:
    """Run a sweep alone in its folder, then say what came of it; exits with 1 if a job failed."""
    from ktb.sweeps.folder import Interrupted, Sweep

    again = f"the same command again goes on: {shlex.join(argv)}"
    sweep = Sweep(folder)
    with sweep.lock():
        sweep.save(shlex.join(argv))
        try:
            run()
        except Interrupted as stop:
            _stop(command, f"interrupted; {Sweep(folder).summary()}; {again}", stop.exit_code)
    sweep = Sweep(folder)
    if sweep.jobs:
        from rich.console import Console

        from ktb.report.sweep_summary import show

        show(folder, Console())
    print(f"sweep folder: {folder}")
    if sweep.count()["failed"]:
        _stop(command, f"{sweep.summary()}; {again}", 1)


def _job_of_another_launcher(command: str, given: list[str]) -> str:
    """One job of a sweep for which the user chose a launcher that is not ours (basic, joblib, Ray, ...): in a process
    of its own here as well, as whatever one job leaves behind would be the next one's.

    Returns: its status, for the sweeper.
    """
    from ktb.run_folder.names import LOG
    from ktb.sweeps import folder as sweep

    job = sweep.Job(Path(HydraConfig.get().runtime.output_dir), given)
    job.settle()
    if not job.is_done():
        own = get_args_parser().parse_known_args()[0].config_dir
        flags = ["--config-dir", own] if own else []
        sweep.run(job, job.command(sweep.program(command), *flags), sweep.environment())
        if job.status == "failed":
            print(f"{command}: {job}: failed: {job.record['error']} ({job.folder / LOG})", file=sys.stderr)
    return job.status


def _resume(command: str, what: str, cfg: DictConfig, given: list[str]) -> str:
    """What to type to continue the interrupted job."""
    run_dir = str(cfg.run_dir)
    if command != "ktb-train":
        return what
    if not Path(run_dir, "checkpoints", "last.ckpt").exists():
        return f"{what} before the first checkpoint"
    kept = [text for text in given if text.partition("=")[0] not in ("run_dir", "ckpt_path", "overwrite")]
    own = get_args_parser().parse_known_args()[0].config_dir
    again = [
        command,
        *(["--config-dir", own] if own else []),
        *kept,
        "ckpt_path=last",
        as_override("run_dir", run_dir),
    ]
    return f"{what}; continue with: {shlex.join(again)}"


def _help(config_name: str, extra: list[Path]) -> str:
    head, examples = {"train": (_TRAIN_HELP, _TRAIN_EXAMPLES), "eval": (_EVAL_HELP, _EVAL_EXAMPLES)}[config_name]
    lines = ["Groups, each chosen as group=member:"]
    for group, members in groups(config_name, extra).items():
        wrapped = textwrap.wrap(", ".join(members), 120 - 14)
        lines += [f"  {group if n == 0 else '':<11} {text}" for n, text in enumerate(wrapped)]
    return f"{head}\n" + "\n".join(lines) + f"\n\n{examples}\nFlags:\n{_FLAGS}"


def _stop(command: str, text: str, code: int) -> NoReturn:
    print(f"{command}: {text}", file=sys.stderr)
    sys.exit(code)
