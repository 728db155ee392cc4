"""An image without an answer ends the job, with its name."""

from __future__ import annotations

import pytest
import torch

from ktb.engine.finite_logits import Answers
from ktb.errors import NotFiniteError

CPU = torch.device("cpu")


def test_images_without_an_answer_are_named() -> None:
    answers = Answers()
    answers.require(CPU)  # of a process that no sample was left for
    answers.add(["a", "b"], torch.tensor([True, True]))
    answers.add([], torch.ones(0, dtype=torch.bool))
    answers.require(CPU)
    answers.add(["c", "d", "e"], torch.tensor([False, True, False]))
    with pytest.raises(NotFiniteError, match=r"^step 3: the logits of c \(and 1 more\) are not finite at night, so"):
        answers.require(CPU, when="step 3: ", case=" at night")
