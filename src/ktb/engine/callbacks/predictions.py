"""Predictions for a split without labels, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image

from ktb.data.spec import Batch
from ktb.io import atomic_file


class Predictions(Callback):
    """Writes what is predicted for a split without labels, as its label files would hold it: `FOLDER/ID.png`.

    Stored ids are 8-bit grey PNG or, where one exceeds 255, 16-bit; colours are RGB; ids that no PNG holds are NPY.

    Args:
        folder: new or of an earlier evaluation.
        as_stored: class ids (H, W) → stored ids (H, W) or colours (H, W, 3).
        num_classes: all of them decide together whether 8 bits are enough.
    """

    def __init__(self, folder: Path, as_stored: Callable[[NDArray[Any]], NDArray[Any]], num_classes: int) -> None:
        self.folder = folder
        self.as_stored = as_stored
        every = as_stored(np.arange(num_classes))
        low, high = int(every.min()), int(every.max())
        self._dtype: type[Any] = np.uint8 if high <= 255 else np.uint16
        self._suffix = ".png" if low >= 0 and high <= 65535 else ".npy"

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the class ids `outputs` (B, H, W) of a batch."""
        for name, ids in zip(batch["id"], outputs.cpu().numpy(), strict=True):
            path = self.folder / f"{name}{self._suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = self.as_stored(ids)
            with atomic_file(path) as temporary:
                if self._suffix == ".png":
                    Image.fromarray(stored.astype(self._dtype)).save(temporary, "PNG")
                else:
                    with temporary.open("wb") as file:
                        np.save(file, stored)
