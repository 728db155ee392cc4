"""The LightningModule: wires model, loss, optimiser and metrics together and holds no logic of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ktb.data.spec import Batch, ModalitySpec, normalize
from ktb.distributed.collectives import stop_together, summed
from ktb.engine.draws import per_sample
from ktb.engine.inference import Inference, most_likely, whole_image
from ktb.engine.optim import OptimConfig, apply_settings, build_optimizer, settings_of
from ktb.errors import CheckpointError
from ktb.losses.masking import draw_masks
from ktb.losses.pixel import PixelLoss
from ktb.metrics.counts import ConfusionMatrix
from ktb.metrics.evaluation import Evaluation
from ktb.metrics.scores import scores
from ktb.models.finite import some_of
from ktb.models.segmentor import KTBSegmentor


class SegmentationModule(L.LightningModule):
    """Trains and scores a `KTBSegmentor` on batches of `ktb.data.spec.Batch`.

    Args:
        model: the network; what it trains is what requires gradients.
        loss: a loss of `ktb.losses.pixel`.
        modalities: how each stream is normalised, in the model's order.
        classes: names, for logging.
        mean_without: ids of classes that mean scores leave out.
        optim: learning rate and schedule.
        seed: with epoch and batch index decides every random draw of a training step, so that a resumed run draws
            what an undisturbed one would have drawn.
        inference: how the test split is predicted; validation is one pass over whole images in any case.
        keep_frozen: also write the frozen backbone into checkpoints (needed when its weights exist nowhere else).
        channels_last: let convolutions work on NHWC memory.
        compile: torch.compile the model.
        provenance: plain values stored in every checkpoint under "ktb" (config, data set, backbone identity).
    """

    def __init__(
        self,
        model: KTBSegmentor,
        loss: PixelLoss,
        *,
        modalities: Sequence[ModalitySpec],
        classes: Sequence[str],
        optim: OptimConfig,
        seed: int,
        inference: Inference = whole_image,
        keep_frozen: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        provenance: dict[str, Any] | None = None,
        mean_without: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.modalities = tuple(modalities)
        self.classes = tuple(classes)
        self.mean_without = mean_without
        self.optim = optim
        self.seed = seed
        self.inference = inference
        self.keep_frozen = keep_frozen
        self.provenance = provenance or {}
        self._draws = per_sample(model)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        if compile:
            model.compile(dynamic=False)  # which windows there are depends on the size
        self.val_matrix = ConfusionMatrix(len(classes))
        self.evaluation = Evaluation(len(classes), mean_without)
        """What the last test run counted, over all ranks."""
        self.terms: dict[str, Tensor] = {}
        """Terms of the loss of the last training step, over all ranks; the mean over the batches that are accumulated
        for the step so far."""
        self._accumulated = 0  # batches of the step that is running, before this one
        self._answered: list[tuple[list[str], Tensor]] = []  # ids, and which have finite logits, of this evaluation

    # ------------------------------------------------------------------------------------------------------- training

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model takes of a batch."""
        normal = normalize(batch["inputs"], self.modalities)
        return {name: x.contiguous(memory_format=self.memory_format) for name, x in normal.items()}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._accumulated = batch_idx % self.trainer.accumulate_grad_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Every draw belongs to a place in the global batch. The sampler deals that out in turn: of W processes this one
        # has the places rank, rank + W, rank + 2W, ...
        key, world = (self.seed, self.current_epoch, batch_idx), self.trainer.world_size
        size = len(batch["label"])
        mine = range(self.global_rank, size * world, world)
        self._draws.keys = torch.tensor([_mix(*key, 1 + place) for place in mine]).int().to(self.device)
        masked = None
        if self.loss.masking:
            masks = draw_masks(len(self.modalities), size * world, np.random.default_rng(_mix(*key, 0)))
            masked = masks[:, mine].to(self.device)
        terms = self.loss(self.model(self.inputs(batch), side=self.loss.uses_side_heads, masked=masked), batch["label"])
        means = summed(torch.stack(list(terms.values()))) / world
        if (before := self._accumulated) and self.terms:
            means = torch.lerp(torch.stack(list(self.terms.values())), means, 1 / (before + 1))
        self.terms = dict(zip(terms, means, strict=True))
        self.log_dict({f"train/{k}": v for k, v in self.terms.items()}, on_step=True, on_epoch=False, prog_bar=False)
        self.log("loss", self.terms["loss"], on_step=True, prog_bar=True, logger=False)
        return terms["loss"]

    def configure_optimizers(self) -> Any:
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # the number of batches is not known before
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        assert trainer.max_epochs is not None
        optimizer, schedule = build_optimizer(
            self.model, self.optim, epochs=trainer.max_epochs, steps_per_epoch=steps_per_epoch
        )
        self._optimizer_settings = settings_of(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """A checkpoint's optimiser has been restored by now, with the settings it was saved with."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        apply_settings(self.trainer.optimizers[0], schedule, self._optimizer_settings)

    # ----------------------------------------------------------------------------------------------------- evaluation

    def predict_batch(self, batch: Batch, inference: Inference) -> tuple[Tensor, Tensor]:
        """Class ids (B, H, W) at the label's size, and which samples (B) have finite logits."""
        if not batch["id"]:  # a process that no sample was left for
            return batch["label"].long(), batch["label"].new_ones(0, dtype=torch.bool)
        size = (int(batch["label"].shape[-2]), int(batch["label"].shape[-1]))
        return most_likely(inference(self.model, self.inputs(batch), size))

    def on_validation_epoch_start(self) -> None:
        self._answered = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        prediction, answered = self.predict_batch(batch, whole_image)
        self._answered.append((batch["id"], answered))
        self.val_matrix.update(prediction, batch["label"])

    def on_validation_epoch_end(self) -> None:
        self.require_answers(self._answered)
        counts = self.val_matrix.compute().cpu().numpy()
        self.val_matrix.reset()
        self._log_scores("val", counts)

    def on_test_start(self) -> None:
        self.evaluation = Evaluation(len(self.classes), self.mean_without)
        self._answered = []

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        prediction, answered = self.predict_batch(batch, self.inference)
        self._answered.append((batch["id"], answered))  # processes have different numbers of batches
        if batch["id"]:
            self.evaluation.update(prediction, batch["label"], batch["id"], batch["condition"])
        return prediction

    def on_test_epoch_end(self) -> None:
        self.require_answers(self._answered)
        self.evaluation = self.evaluation.gather()
        if self.evaluation.total.matrix.any():  # a split without labels has no scores
            self._log_scores("test", self.evaluation.total.matrix)

    def require_answers(self, answered: Sequence[tuple[Sequence[str], Tensor]], case: str = "") -> None:
        """End the job if an image has no answer; called in all processes at the same place.

        Args:
            answered: ids, and which of them have finite logits.
            case: how the inputs were changed, for the message.

        Raises:
            NotFiniteError: some logits are not finite.
        """
        ids = [name for names, _ in answered for name in names]
        wrong = torch.cat([x for _, x in answered]).logical_not() if answered else torch.zeros(0)
        lost = [ids[i] for i in wrong.nonzero().flatten().tolist()]
        message = None
        if lost:
            when = f"validation after step {self.global_step}: " if self.trainer.state.fn == "fit" else ""
            message = (
                f"{when}the logits of {some_of(lost)} are not finite{case}, so no score would mean anything; look for "
                "extreme values in the sample's files, and compute with trainer.precision=32-true"
            )
        stop_together(message, self.device)

    def _log_scores(self, stage: str, counts: NDArray[np.int64]) -> None:
        result = scores(counts, self.mean_without)
        names = ("miou", "macc", "pixel_acc")
        self.log_dict({f"{stage}/{k}": float(result[k]) for k in names}, prog_bar=False)
        self.log_dict({f"{stage}_iou/{c}": float(v) for c, v in zip(self.classes, result["iou"], strict=True)})
        if stage == "val":
            self.log("val_miou", float(result["miou"]), prog_bar=True, logger=False)

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what training changed: trained parameters and running statistics; the rest is the backbone's file, and
        output norms that are as they are built."""
        if not self.keep_frozen:
            frozen = {
                f"model.{k}"
                for k, p in self.model.named_parameters()
                if not p.requires_grad
                and (k.startswith("backbone.") or bool((p == (1 if k.endswith(".weight") else 0)).all()))
            }
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}
        checkpoint["ktb"] = {"model": self.model.config, **self.provenance}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Loading is not strict, so that frozen parameters may be absent; everything else must fit."""
        theirs = checkpoint.get("ktb", {}).get("model")
        if theirs != self.model.config:
            raise CheckpointError(f"the checkpoint holds another model: {_difference(theirs, self.model.config)}")
        trained = {f"model.{k}" for k, p in self.model.named_parameters() if p.requires_grad}
        if missing := sorted(trained - set(checkpoint["state_dict"])):
            raise CheckpointError(f"the checkpoint lacks {len(missing)} trained parameters, {missing[0]} among them")
        about = checkpoint["ktb"]
        if list(theirs["modalities"]) != list(self.model.modalities):  # equal as dicts, in another order
            raise CheckpointError(
                f"the checkpoint's modalities are {list(theirs['modalities'])}, here {list(self.model.modalities)}"
            )
        ours, base = self.provenance.get("backbone", {}).get("sha256"), about.get("backbone", {})
        holds_backbone = any(k.startswith("model.backbone.") for k in checkpoint["state_dict"])
        if holds_backbone != self.keep_frozen or (ours and not holds_backbone and base.get("sha256") != ours):
            raise CheckpointError(
                f"the checkpoint was trained on other backbone weights, backbone.weights={base.get('weights')}; pass "
                "those"
            )

    @property
    def strict_loading(self) -> bool:
        """Frozen parameters are not in our checkpoints; `run` checks that everything else is."""
        return False

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise AttributeError("checkpoints hold trained parameters only, so loading is never strict")


def _mix(*parts: int) -> int:
    """One well-mixed 63-bit seed out of several small numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _difference(theirs: dict[str, Any] | None, ours: dict[str, Any]) -> str:
    """The settings of the model that differ, those of its backbone by their own names."""
    if theirs is None:
        return "it was not written by ktb-train"
    theirs, ours = ({**config, **config.get("arch", {})} for config in (theirs, ours))
    return "; ".join(f"{k} is {theirs.get(k)}, here {v}" for k, v in ours.items() if k != "arch" and theirs.get(k) != v)
