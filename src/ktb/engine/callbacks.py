"""What happens beside training: progress, speed, pictures. Nothing else talks to a logger."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from ktb.data.pictures import RGBImage, paint, to_picture
from ktb.data.spec import IGNORE, Batch, DatasetSpec, ModalitySpec


class Progress(RichProgressBar):
    """Rich bar on a terminal; in a log file one line per validation instead."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking or not trainer.is_global_zero or self._on_terminal():
            return
        metrics = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", f"step {trainer.global_step}"]
        parts += [f"{name} {float(metrics[key]):.4f}" for name, key in _SHOWN.items() if key in metrics]
        print(", ".join(parts), flush=True)

    def _on_terminal(self) -> bool:
        return self._console is not None and self._console.is_terminal


_SHOWN = {"loss": "train/loss", "val mIoU": "val/miou"}


class Speed(Callback):
    """Logs `train/samples_per_s`, over the steps since the last of every `every` steps, and `train/lr`."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._samples = time.perf_counter(), 0  # an epoch that is continued does not start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._samples = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._samples += len(batch["label"]) * trainer.world_size
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        pl_module.log_dict({"train/samples_per_s": self._samples / (now - self._since), "train/lr": lr})
        if (batch_idx + 1) % self.every == 0:
            self._since, self._samples = now, 0


class Panels(Callback):
    """Pictures of test samples: inputs | truth | prediction.

    Writes `panels/*.png`, one sample each, and `panels.png`, all of them with a legend, and shows them in the loggers
    that can show pictures.

    Args:
        folder: where `panels/` and `panels.png` are written.
        spec: classes and colours.
        modalities: in the model's order.
        count: samples, spread evenly over the split.
    """

    def __init__(self, folder: Path, spec: DatasetSpec, modalities: Sequence[ModalitySpec], count: int = 8) -> None:
        self.folder = folder
        self.spec = spec
        self.modalities = tuple(modalities)
        self.count = count
        self._rows: list[tuple[str, dict[str, RGBImage]]] = []

    @property
    def path(self) -> Path:
        return self.folder / "panels.png"

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._rows = []
        total = int(sum(trainer.num_test_batches))
        self._wanted = set(np.linspace(0, total - 1, min(self.count, total)).round().astype(int)) if total else set()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx in self._wanted:
            row = {m.title or m.name: to_picture(batch["inputs"][m.name][0], m) for m in self.modalities}
            truth, prediction = batch["label"][0].cpu().numpy(), outputs[0].cpu().numpy()
            row["truth"] = paint(truth, self.spec.palette)
            row["prediction"] = paint(np.where(truth == IGNORE, IGNORE, prediction), self.spec.palette)
            self._rows.append((batch["id"][0], row))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._rows or not trainer.is_global_zero:
            return
        from PIL import Image

        (self.folder / "panels").mkdir(parents=True, exist_ok=True)
        strips = []
        for i, (name, row) in enumerate(self._rows):
            height = max(picture.shape[0] for picture in row.values())
            strip = np.concatenate([_pad_to(picture, height) for picture in row.values()], axis=1)
            Image.fromarray(strip).save(self.folder / "panels" / f"{i:02d}_{name.replace('/', '_')}.png")
            strips.append((name, strip))
        self._sheet().savefig(self.path, dpi=110, bbox_inches="tight")
        for logger in trainer.loggers:
            _show(logger, strips)

    def _sheet(self) -> Any:
        """All rows with column titles and a legend of the classes that occur."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        titles = list(self._rows[0][1])
        height, width = self._rows[0][1][titles[0]].shape[:2]
        cell = 2.4
        figure = Figure(
            figsize=(cell * len(titles), cell * height / width * len(self._rows) + 0.9), layout="constrained"
        )
        axes = figure.subplots(len(self._rows), len(titles), squeeze=False)
        for title, axis in zip(titles, axes[0], strict=True):
            axis.set_title(title, fontsize=10)
        for axes_row, (name, row) in zip(axes, self._rows, strict=True):
            for axis, picture in zip(axes_row, row.values(), strict=True):
                axis.imshow(picture, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
            axes_row[0].set_ylabel(name, fontsize=6)
        shown = {tuple(c) for _, row in self._rows for k in ("truth", "prediction") for c in _colours(row[k])}
        entries = zip(self.spec.classes, self.spec.palette, strict=True)
        handles = [
            Patch(facecolor=(colour[0] / 255, colour[1] / 255, colour[2] / 255), edgecolor="0.6", label=name)
            for name, colour in entries
            if tuple(colour) in shown
        ]
        columns = max(1, min(len(handles), 2 * len(titles)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
        return figure


def _colours(picture: RGBImage) -> NDArray[np.uint8]:
    return np.unique(picture.reshape(-1, 3), axis=0)


def _pad_to(picture: RGBImage, height: int) -> RGBImage:
    return np.pad(picture, ((0, height - picture.shape[0]), (0, 4), (0, 0)), constant_values=255)


def _show(logger: Logger, strips: list[tuple[str, RGBImage]]) -> None:
    if isinstance(logger, TensorBoardLogger):
        for name, strip in strips:
            logger.experiment.add_image(f"panels/{name}", strip, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image("panels", [strip for _, strip in strips], caption=[name for name, _ in strips])


def finite(value: float) -> float | None:
    """NaN and infinities become None, which JSON knows."""
    return value if math.isfinite(value) else None
