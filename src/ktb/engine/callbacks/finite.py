"""A training ends at the first loss, gradient or weight that is NaN or infinite."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from ktb.distributed.collectives import stop_together
from ktb.engine.callbacks.saving import Saving
from ktb.engine.module import SegmentationModule
from ktb.errors import NotFiniteError
from ktb.models.finite import not_finite, some_of

_SMALLEST_SCALE = 1e-4
"""Loss scale of `trainer.precision=16-mixed` at which skipped steps are no search for a scale that fits any more."""


@dataclass
class _Values:
    """What one batch gave: values by name on the host, complete once `copied` has happened on the device."""

    batch: int
    where: str
    kind: str
    names: Sequence[str]
    numbers: Tensor
    copied: torch.cuda.Event | None = None


class FiniteCheck(Callback):
    """Ends training with `NotFiniteError` at the first loss or gradient norm that is not finite.

    All processes see the same values, the terms of the loss summed over them and the gradients that DDP has averaged,
    and so stop together. On a CPU the values are looked at before the optimiser takes the step. On a GPU they are
    copied to the host on the way and looked at `LAG` batches later, as looking at once would wait for the device at
    every step; whatever comes in between, before anything is saved or scored all of them have been looked at, and no
    checkpoint is written of weights or running statistics that are not finite.

    With the loss scale of 16-mixed a step whose gradients are not finite is skipped and the scale halved, which is how
    it finds its value; that ends training only when the scale has become useless.

    Args:
        saving: knows the last good checkpoint.
    """

    LAG = 2

    def __init__(self, saving: Saving) -> None:
        self.saving = saving
        self._parameters: list[tuple[str, Tensor]] = []
        self._waiting: deque[_Values] = deque()
        self._batch = 0
        self._where = ""
        self._term = ""

    # ----------------------------------------------------------------------------------------------- Lightning's hooks

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parameters = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        self._waiting.clear()
        if _torch_checks() and (trainer.world_size > 1 or _scaler(trainer) is not None):
            # torch's own check ends this process alone while the others wait for its gradients, and knows no scale.
            torch.autograd.set_detect_anomaly(True, check_nan=False)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch += 1
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._where = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch + 1}, learning rate {lr:.3g})"
        if not isinstance(lr, Tensor) and not 0 <= lr < math.inf:  # a tensor on a device would have to be waited for
            text = f"{self._where}: expected a rate of 0 or more; correct the schedule that gives it"
            raise NotFiniteError(text) if trainer.is_global_zero else SystemExit(2)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        terms = cast(SegmentationModule, pl_module).terms
        self._take(trainer, "", list(terms), torch.stack(list(terms.values())))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        named = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        grads = [grad for _, grad in named]
        self._take(trainer, "the gradient of ", [name for name, _ in named], norms(grads))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._look(trainer, until=self._batch - self.LAG)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(trainer, until=self._batch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(trainer, until=self._batch)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at everything that still waits, and at what is about to be saved; called in all processes before that.

        Raises:
            NotFiniteError: a value is not finite.
        """
        self._look(trainer, until=self._batch)
        frozen = {name for name, p in pl_module.named_parameters() if not p.requires_grad}
        found = not_finite({k: v for k, v in checkpoint["state_dict"].items() if k not in frozen})
        message = None
        if found:
            what = f"the weights are not finite after step {trainer.global_step}: {some_of(found)}"
            message = self._message(trainer, what)
        # Running statistics differ between processes with trainer.sync_batchnorm=false.
        stop_together(message, pl_module.device)

    def explain(self, trainer: L.Trainer, error: RuntimeError) -> NotFiniteError | None:
        """An error of PyTorch's as our own.

        Args:
            trainer: of the training that ended.
            error: how it ended.

        Returns:
            what `trainer.detect_anomaly` found in the backward pass; None for any other error.
        """
        found = re.match(r"Function '(\w+)' returned nan values", str(error))
        if found is None:
            return None
        return NotFiniteError(self._message(trainer, f"{self._where}: the gradient becomes nan in {found[1]}"))

    # ------------------------------------------------------------------------------------------------------- values

    def _take(self, trainer: L.Trainer, kind: str, names: Sequence[str], numbers: Tensor) -> None:
        """Look at the numbers at once where that waits for nothing, else have them copied."""
        # With trainer.detect_anomaly torch would stop before us, and say less.
        numbers, copied = (numbers, None) if _torch_checks() else _on_its_way(numbers)
        self._waiting.append(_Values(self._batch, self._where, kind, names, numbers, copied))
        if copied is None:
            self._look(trainer, until=self._batch)

    def _look(self, trainer: L.Trainer, *, until: int) -> None:
        while self._waiting and self._waiting[0].batch <= until:
            values = self._waiting.popleft()
            if values.copied is not None:
                values.copied.synchronize()
            if what := _what_is_wrong(values):
                self._judge(trainer, what, skipped=values.kind != "")

    def _judge(self, trainer: L.Trainer, what: str, *, skipped: bool) -> None:
        scaler = _scaler(trainer)
        if scaler is None:
            raise self._stopped(trainer, what)
        if not skipped:  # a term of the loss: its gradients come next
            self._term = what
            return
        if (scale := scaler.get_scale()) < _SMALLEST_SCALE:
            fallen = f"as in many steps before: the loss scale of 16-mixed has fallen to {scale:.1g}"
            raise self._stopped(trainer, f"{self._term or what}, {fallen}")
        self._term = ""

    def _stopped(self, trainer: L.Trainer, what: str) -> BaseException:
        """What to raise where all processes do: rank 0 says why."""
        return NotFiniteError(self._message(trainer, what)) if trainer.is_global_zero else SystemExit(2)

    def _message(self, trainer: L.Trainer, what: str) -> str:
        remedy = "lower optim.lr" + ("" if trainer.gradient_clip_val else " or set trainer.gradient_clip_val=1")
        if _scaler(trainer) is not None:
            remedy += " or trainer.precision=bf16-mixed"
        if newest := self.saving.newest:
            again = f"continue with ckpt_path=last run_dir={self.saving.folder.parent}"
        elif trainer.ckpt_path:
            again = f"continue with ckpt_path={trainer.ckpt_path}"
        else:
            again = "start again"
        good = newest or trainer.ckpt_path or "none yet"
        return f"{what}; last good checkpoint: {good}; {remedy}, then {again}"


def norms(tensors: list[Tensor]) -> Tensor:
    """The norm of each tensor, (n,), at least float32, in one call for all of them.

    PyTorch does that only in a function that is not public; calling the public one for each of some hundred gradients
    takes as long as the optimiser's step. A test says so when the function goes.
    """
    return torch.stack(torch._foreach_norm(tensors, 2, torch.promote_types(tensors[0].dtype, torch.float32)))


def _on_its_way(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The numbers on the host, and what happens on the device when they are there; None: they are."""
    if numbers.device.type != "cuda":
        return numbers, None
    on_host, copied = numbers.to("cpu", non_blocking=True), torch.cuda.Event()  # into pinned memory
    copied.record()
    return on_host, copied


def _torch_checks() -> bool:
    """Whether torch itself ends a backward pass that gives NaN."""
    return torch.is_anomaly_enabled() and torch.is_anomaly_check_nan_enabled()


def _scaler(trainer: L.Trainer) -> torch.amp.GradScaler | None:
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler


def _what_is_wrong(values: _Values) -> str | None:
    """Which values are not finite, in words."""
    if values.numbers.isfinite().all():
        total = torch.linalg.vector_norm(values.numbers)
        if total.isfinite():
            return None
        worst = int(values.numbers.argmax())
        what = f"the norm of all gradients is {float(total)}, the largest that of {values.names[worst]}"
    else:
        wrong = [i for i, good in enumerate(values.numbers.isfinite().tolist()) if not good]
        parts = [i for i in wrong if values.names[i] != "loss"] or wrong  # the sum is wrong because its parts are
        what = f"{values.kind}{some_of([values.names[i] for i in parts])} is {float(values.numbers[parts[0]])}"
    return f"{values.where}: {what}"
