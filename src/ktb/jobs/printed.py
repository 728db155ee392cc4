"""What a job prints: what is about to be trained, and at the end the tables and places of its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from ktb.data.module import RGBXDataModule
from ktb.engine.callbacks.panels import Panels
from ktb.models.segmentor import KTBSegmentor
from ktb.report import result_tables as tables
from ktb.report.notices import notices
from ktb.report.runs import read_run
from ktb.run_folder.names import PAGE, PREDICTIONS, RESULT, ROBUSTNESS, ROBUSTNESS_PLOT
from ktb.run_folder.result import RunResult


def announce(
    trainer: L.Trainer, data: RGBXDataModule, model: KTBSegmentor, run_dir: Path, remarks: Sequence[str]
) -> None:
    """Print what is about to be trained, and remarks on it."""
    if not trainer.is_global_zero:
        return
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{split} {len(data.dataset(split))}" for split in ("train", data.spec.selection_split))
    print(
        f"{data.spec.name}: {sizes} samples, {' + '.join(m.name for m in data.modalities)}, "
        f"{data.spec.num_classes} classes; {trained:,} of {total:,} parameters are trained\nrun folder: {run_dir}",
        *(f"note: {text}" for text in remarks),
        sep="\n",
        flush=True,
    )


def report(result: RunResult, run_dir: Path, panels: Panels | None, disturbed: dict[str, Any] | None = None) -> None:
    """The tables a person reads at the end."""
    from rich.console import Console

    unlabelled = "predictions" in result
    blocks = [tables.score_tables(result)] if "metrics" in result and not unlabelled else []
    blocks += [tables.robustness_tables(disturbed)] if disturbed else []
    for block in blocks:
        print(tables.heading(result))
        for table in block:
            Console().print(table)
    if blocks:
        print(tables.score_line(result))
    for text in notices(read_run(run_dir)):
        print(f"note: {text}")
    if unlabelled:
        print(f"{result['dataset']} {result['split']} split has no labels, so there are no scores")
        print(f"predictions, in stored ids: {run_dir / PREDICTIONS}")
    if panels is not None and panels.path.exists():
        print(f"pictures: {panels.path}")
    if disturbed:
        print(f"sensors:  {run_dir / ROBUSTNESS}, {ROBUSTNESS_PLOT}")
    print(f"results:  {run_dir / RESULT}\nreport:   {run_dir / PAGE}")
