"""The names of everything that a run writes into its folder, a sweep's into its own, and the run of a checkpoint."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"
"""The configuration that the run was started with, all references followed."""
RESULT = "result.json"
"""Scores and facts, once it has ended: `ktb.run_folder.result.RunResult`."""
CHECKPOINTS = "checkpoints"
LAST, BEST = "last.ckpt", "best.ckpt"
"""In `CHECKPOINTS`: what training continues from, and the best validation score so far."""
METRICS = "metrics.csv"
"""Curves of the training."""
PER_IMAGE = "per_image.csv"
PANELS, PANELS_SHEET = "panels", "panels.png"
"""Folder of pictures of samples, and the sheet of all of them."""
PANELS_INDEX, FUSION_INDEX = f"{PANELS}/panels.json", f"{PANELS}/fusion.json"
"""What the pictures show, and where the fusion looked in them."""
PREDICTIONS = "predictions"
"""Folder of masks, for a split without labels."""
ROBUSTNESS, ROBUSTNESS_PLOT = "robustness.json", "robustness.png"
PAGE = "report.html"
EVALUATIONS = "eval"
"""Folder of the evaluations of the run's checkpoints, each a folder like a run's."""
WANDB_ID = "wandb_id.txt"
WANDB, TENSORBOARD = "wandb", "tensorboard"

WRITTEN = (
    CONFIG, RESULT, METRICS, WANDB_ID, PER_IMAGE, CHECKPOINTS, PANELS, PANELS_SHEET, PAGE, TENSORBOARD, WANDB,
    EVALUATIONS, PREDICTIONS, ROBUSTNESS, ROBUSTNESS_PLOT,
)  # fmt: skip
"""What a training writes into its folder, and `overwrite=true` removes."""

SWEEP = "sweep.json"
"""In a sweep's folder: its jobs."""
JOB, LOG = "job.json", "log.txt"
"""In the folder of a sweep's job: how it stands, and what it printed."""


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint's file belongs to, or of the bundle that it lies in."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder
