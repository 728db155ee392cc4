"""Pictures of test samples and of the fusion, for the run folder and for loggers that show pictures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from PIL import Image

from ktb.data.pictures import RGBImage, to_picture
from ktb.data.spec import IGNORE, Batch, DatasetSpec, ModalitySpec, normalize
from ktb.engine.callbacks.fusion_drawing import write_fusion
from ktb.engine.callbacks.panel_drawing import (
    Panel,
    Selection,
    pictures,
    sheet,
    shrink,
    titles,
    write_panels,
)
from ktb.engine.scoring import ScoringModule
from ktb.io import atomic_file
from ktb.metrics.scores import finite
from ktb.run_folder.names import PANELS, PANELS_SHEET


class Panels(Callback):
    """Pictures of the best, the worst and some random test samples, and of what the fusion does with a few of them.

    Writes into `panels/` one file per picture, panels.json and, if the fusion has something to show, fusion.json, which
    `ktb-report` reads;
    beside it `panels.png`, a sheet with a legend; and shows them in the loggers that can show pictures: `panels`
    (masks over the first modality) and `predictions` (a table) in wandb, `panels/ID` in TensorBoard.

    Args:
        folder: where `panels/` and `panels.png` are written.
        spec: classes and colours.
        modalities: in the model's order.
        count: samples of each group (best by mIoU of the sample, worst, random).
    """

    EXPLAINED = 3
    """Random samples over which the fusion is drawn."""

    def __init__(self, folder: Path, spec: DatasetSpec, modalities: Sequence[ModalitySpec], count: int = 4) -> None:
        self.folder = folder
        self.spec = spec
        self.modalities = tuple(modalities)
        self.count = count
        self._selection: Selection[Panel] = Selection(count)

    @property
    def path(self) -> Path:
        """The sheet, panels.png."""
        return self.folder / PANELS_SHEET

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._selection = Selection(self.count)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep pictures of the batch's samples that are among the best, worst or random ones so far."""
        if not self.count:
            return
        labels, predictions = batch["label"].cpu(), outputs.to(batch["label"].dtype).cpu()
        rows = cast(ScoringModule, pl_module).evaluation.images[-len(labels) :]  # the step just counted them
        for i, (row, truth, prediction) in enumerate(zip(rows, labels, predictions, strict=True)):
            kept = {key: finite(row[key]) for key in ("miou", "pixel_acc")}
            make = partial(self._panel, batch, i, truth.numpy(), prediction.numpy(), kept)
            self._selection.offer(row["id"], kept["miou"], make)

    def _panel(
        self,
        batch: Batch,
        i: int,
        truth: NDArray[Any],
        prediction: NDArray[Any],
        values: dict[str, float | None],
    ) -> Panel:
        stored = {m.name: batch["inputs"][m.name][i].cpu() for m in self.modalities}
        called = titles(self.modalities)
        return Panel(
            id=batch["id"][i],
            scores=values,
            condition=batch["condition"][i],
            images={called[m.name]: shrink(to_picture(stored[m.name], m), nearest=False) for m in self.modalities},
            truth=shrink(truth, nearest=True),
            prediction=shrink(prediction, nearest=True),
            stored=stored,
        )

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the processes' selections together, and write and show them."""
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(parts, self._selection)
            self._selection = Selection(self.count)
            for part in parts:
                self._selection.merge(part)
        chosen = self._selection.chosen()
        if not chosen or not trainer.is_global_zero:
            return
        folder = self.folder / PANELS
        shutil.rmtree(folder, ignore_errors=True)  # those of an earlier test
        folder.mkdir(parents=True)
        write_panels(folder, chosen, self.spec)
        with atomic_file(self.path) as partial:
            sheet(chosen, self.spec).savefig(partial, format="png", dpi=110, bbox_inches="tight")
        with trainer.precision_plugin.test_step_context():
            self._write_fusion(folder, chosen, pl_module)
        for logger in trainer.loggers:
            self._show(logger, chosen)

    def _write_fusion(self, folder: Path, chosen: Sequence[tuple[str, Panel]], pl_module: L.LightningModule) -> None:
        """What the fusion does with a few random samples, see `write_fusion`."""
        numbered = [(i, panel) for i, (group, panel) in enumerate(chosen) if group == "random" or len(chosen) < 3]
        explained = []
        for i, panel in numbered[: self.EXPLAINED]:
            batch = {m: x[None].to(pl_module.device) for m, x in panel.stored.items()}
            explained.append((i, normalize(batch, self.modalities), next(iter(panel.images.values()))))
        write_fusion(folder, cast(ScoringModule, pl_module).model, titles(self.modalities), explained)

    def _show(self, logger: Logger, chosen: Sequence[tuple[str, Panel]]) -> None:
        if isinstance(logger, TensorBoardLogger):
            for _, panel in chosen:
                logger.experiment.add_image(f"panels/{panel.id}", self._strip(panel), dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            images = [
                [group, panel.id, self._wandb_image(panel), panel.scores["miou"], panel.scores["pixel_acc"]]
                for group, panel in chosen
            ]
            logger.experiment.log({"panels": [image for _, _, image, *_ in images]})
            logger.log_table("predictions", ["group", "id", "image", "miou", "pixel_acc"], images)

    def _strip(self, panel: Panel) -> RGBImage:
        """All pictures of a sample side by side."""
        row = list(pictures(panel, self.spec).values())
        height = max(picture.shape[0] for picture in row)
        return np.concatenate([_pad_to(picture, height) for picture in row], axis=1)

    def _wandb_image(self, panel: Panel) -> Any:
        """The first modality with truth and prediction as masks that can be switched on and off class by class."""
        import wandb

        if self.spec.num_classes > IGNORE:  # wandb's masks are 8-bit
            return wandb.Image(self._strip(panel), caption=panel.id)
        height, width = panel.truth.shape
        first = Image.fromarray(next(iter(panel.images.values()))).resize((width, height))
        labels = {**dict(enumerate(self.spec.classes)), self.spec.ignore_index: "void"}
        masks = {
            name: {"mask_data": mask, "class_labels": labels}
            for name, mask in (("prediction", panel.prediction), ("truth", panel.truth))
        }
        return wandb.Image(first, caption=panel.id, masks=masks)


def _pad_to(picture: RGBImage, height: int) -> RGBImage:
    return np.pad(picture, ((0, height - picture.shape[0]), (0, 4), (0, 0)), constant_values=255)
