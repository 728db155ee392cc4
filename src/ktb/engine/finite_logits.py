"""Every image has an answer, or the job ends: no score means anything where logits are not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ktb.distributed.collectives import stop_together
from ktb.models.finite import some_of


class Answers:
    """Which images of one evaluation have finite logits. Processes may have different numbers of batches."""

    def __init__(self) -> None:
        self._batches: list[tuple[Sequence[str], Tensor]] = []

    def add(self, ids: Sequence[str], answered: Tensor) -> None:
        """Note a batch.

        Args:
            ids: its samples' names.
            answered: (B,) bool, which of them have an answer in every pixel.
        """
        self._batches.append((ids, answered))

    def require(self, device: torch.device, *, when: str = "", case: str = "") -> None:
        """End the job if an image has no answer; called in all processes at the same place.

        Args:
            device: of the process, for what the processes tell each other.
            when: begins the message.
            case: how the inputs were changed, for the message.

        Raises:
            NotFiniteError: some logits are not finite.
        """
        ids = [name for names, _ in self._batches for name in names]
        wrong = torch.cat([x for _, x in self._batches]).logical_not() if self._batches else torch.zeros(0)
        lost = [ids[i] for i in wrong.nonzero().flatten().tolist()]
        message = None
        if lost:
            message = (
                f"{when}the logits of {some_of(lost)} are not finite{case}, so no score would mean anything; look for "
                "extreme values in the sample's files, and compute with trainer.precision=32-true"
            )
        stop_together(message, device)
