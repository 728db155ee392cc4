"""What ktb-train --help and ktb-eval --help say."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ktb.config.compose import groups

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
  robustness=emm             the final test also with sensors missing
  init_from=RUN|FILE|NAME    start from the weights of another model (fine-tuning), as far as they fit
  fusion._target_=my_lab.MyFusion
                             a class of your own in my_lab.py of this folder, for any part (docs/extend.md)
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
Score a checkpoint: a run of ktb-train (with its own config), a published state dict, or a model by name.

Usage: ktb-eval checkpoint=RUN_FOLDER|FILE|zoo:NAME|OWNER/NAME [key=value ...]
"""
_EVAL_EXAMPLES = """\
Often used:
  split=val                  another split than the one the literature reports on
  eval=published             score at the published code's resized size instead of the label's own
  robustness=all             also score with sensors missing or disturbed: a table and a plot
  eval=ms_flip               multi-scale and flip
  dataset.root=DIR           where the data set lies
  trust=my_lab               whose classes, beside those of ktb, the checkpoint may name (docs/extend.md)
  panels=8                   how many pictures of the best, the worst and random samples, each
  run_dir=DIR                where results go; default eval/DATE beside the checkpoint, by name runs/NAME/eval/DATE

Examples:
  ktb-eval checkpoint=runs/synthetic/rgb_d_swin_nano_self_teaching/2025-06-01_12-00-00
  ktb-eval checkpoint=nyu_b.pth experiment=nyu_swin_b dataset.root=/data/NYUDepthv2
  ktb-eval checkpoint=zoo:nyu_swin_b dataset.root=/data/NYUDepthv2     (ktb-model zoo lists the names)

For a run of ktb-train its config.yaml counts, with what you set here put over it; for a published file the groups do.
"""
_FLAGS = """\
  --cfg job                  print the composed configuration and stop (--resolve: with all references followed)
  --config-dir DIR           your own members for the groups, as DIR/dataset/mine.yaml
  --shell-completion         eval "$({command} -sc install=bash)" for Tab in bash: groups, members, settings
  --hydra-help, --version
"""


def help_text(config_name: str, extra: Sequence[Path]) -> str:
    """The help of a command, with the members of its configuration groups.

    Args:
        config_name: "train" or "eval".
        extra: further config folders of the user (--config-dir).
    """
    head, examples = {"train": (_TRAIN_HELP, _TRAIN_EXAMPLES), "eval": (_EVAL_HELP, _EVAL_EXAMPLES)}[config_name]
    lines = ["Groups, each chosen as group=member:"]
    for group, members in groups(config_name, extra).items():
        wrapped = textwrap.wrap(", ".join(members), 120 - 14)
        lines += [f"  {group if n == 0 else '':<11} {text}" for n, text in enumerate(wrapped)]
    return f"{head}\n" + "\n".join(lines) + f"\n\n{examples}\nFlags:\n{_FLAGS.format(command=f'ktb-{config_name}')}"
