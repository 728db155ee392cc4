"""Scoring needs a model and its data, no loss and no optimiser."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch

from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.engine.scoring import ScoringModule
from ktb.errors import NotFiniteError
from ktb.jobs.trainer import quiet_lightning
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor


def scored(module: ScoringModule, data: SyntheticDataModule) -> dict[str, float]:
    quiet_lightning()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.test(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_what_is_counted_and_logged() -> None:
    torch.manual_seed(0)
    model = KTBSegmentor(
        FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4)), ("rgb", "depth"), 10, head={"width": 16}
    )
    data = SyntheticDataModule(size=(32, 40), train=1, val=1, test=3, streams=["rgb", "depth"], num_workers=0)
    module = ScoringModule(model, modalities=data.modalities, classes=data.spec.classes, mean_without=(0,))
    logged = scored(module, data)
    expected = np.zeros((10, 10), np.int64)
    data.setup("test")
    for batch in data.test_dataloader():
        with torch.no_grad():
            ids = model.eval()(module.inputs(batch)).logits.argmax(1).numpy()
        truth = batch["label"].numpy()
        valid = truth != data.spec.ignore_index
        np.add.at(expected, (truth[valid], ids[valid]), 1)
    assert module.evaluation.total.matrix.tolist() == expected.tolist()
    assert expected.sum() > 0
    assert logged["test/pixel_acc"] == pytest.approx(np.trace(expected) / expected.sum())
    union = expected.sum(0) + expected.sum(1) - np.diag(expected)
    name = data.spec.classes[0]
    assert logged[f"test_iou/{name}"] == pytest.approx(expected[0, 0] / union[0], nan_ok=True)
    iou = [expected[c, c] / union[c] for c in range(1, 10) if union[c]]  # the means leave class 0 out
    assert logged["test/miou"] == pytest.approx(np.mean(iou))
    with torch.no_grad():
        model.head.predict.bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"^the logits of .*\(and 2 more\) are not finite, so no score"):
        scored(module, data)
