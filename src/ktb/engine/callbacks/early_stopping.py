"""Early stopping by the validation mIoU, which a continued training takes up where it stood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Ends the training when the validation mIoU has not risen for a while.

    Args:
        patience: validations in a row that do not beat the best one; 1 or more.
        min_delta: by how much one has to beat it, in shares of 1; 0 or more.

    Raises:
        ValueError: another patience.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience={patience}: expected a number of validations, 1 or more")
        if not min_delta >= 0:
            raise ValueError(f"min_delta={min_delta}: expected 0 or more")
        super().__init__(
            "val/miou", mode="max", patience=patience, min_delta=min_delta, verbose=False,
            check_finite=False, check_on_train_epoch_end=False,
        )  # fmt: skip
        self.epochs: int | None = None
        """Epochs that had begun when the training was ended; None: it was not."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if not self._should_skip_check(trainer) and self.wait_count >= self.patience:
            self.epochs = trainer.current_epoch + 1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.epochs is not None:  # killed right after that
            trainer.should_stop = True

    @property
    def state_key(self) -> str:
        return type(self).__qualname__

    def reason(self) -> str | None:
        """Why the training was ended, in words; None: it was not."""
        if self.epochs is None:
            return None
        return f"val/miou has not risen above {float(self.best_score):.4f} in {self.wait_count} validations"

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was counted; the patience is that of the configuration."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        self.epochs = state_dict["epochs"] if has_stopped(state_dict, self.patience) else None


def has_stopped(state: Mapping[str, Any], patience: int) -> bool:
    """Whether a training whose checkpoint holds this state is over with that patience."""
    return int(state["wait_count"]) >= patience and state["epochs"] is not None
