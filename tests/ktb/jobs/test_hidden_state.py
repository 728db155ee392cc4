"""Tensors and layers that PyTorch does not find in a user's own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ktb.errors import PartError
from ktb.jobs.hidden_state import hidden_tensors, owner, untrained


class Part(nn.Module):
    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("known", torch.zeros(2))
        self.also = [self.layer, {"known": self.known}]  # a second name for what is registered
        for name, value in held.items():
            setattr(self, name, value)


WHERE = f" ({__file__}, line {Part.__init__.__code__.co_firstlineno})"


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        ([nn.Linear(2, 2)], "Linear"),
        ({"a": [nn.Linear(2, 2)]}, "Linear"),
        ((nn.Parameter(torch.zeros(2)),), "Parameter"),
    ],
)
def test_what_would_never_be_trained_is_refused(held: Any, kind: str) -> None:
    with pytest.raises(PartError) as error:
        hidden_tensors([nn.Sequential(Part(layers=held))])
    assert str(error.value) == (
        f"{__name__}.Part: layers holds a {kind} that PyTorch does not find there, so that it would not be trained, "
        f"moved or saved: use nn.ModuleList, nn.ModuleDict or nn.ParameterList{WHERE}"
    )


def test_a_tensor_that_is_no_buffer_is_told() -> None:
    constant, teacher = torch.ones(2), nn.Linear(2, 2).requires_grad_(False)
    found = hidden_tensors([nn.Sequential(Part(constant=constant, teacher=[teacher]), Part(constant=constant)), Part()])
    assert found == [
        f"{__name__}.Part: the tensor constant is no buffer, so that it stays where it is when the model moves to a "
        f"GPU, and is not saved: self.register_buffer('constant', ...){WHERE}"
    ]


def test_modules_of_libraries_are_not_looked_into() -> None:
    layer = nn.Linear(2, 2)
    layer.cache = torch.ones(2)  # type: ignore[assignment]
    assert hidden_tensors([nn.Sequential(layer)]) == []


def test_parameters_without_a_gradient() -> None:
    model = nn.ModuleDict({"part": Part(), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    model["part"].layer(torch.ones(2)).sum().backward()
    assert untrained(model, refuse=True) == []
    model["part"].layer.bias.grad = None
    said = "1 parameter gets no gradient in a trial step, part.layer.bias"
    assert untrained(model, refuse=False) == [f"{said}: not trained unless other steps use it ({__file__})"]
    with pytest.raises(PartError, match=f"{said}, and several processes would wait for it"):
        untrained(model, refuse=True)
    assert owner(model, "frozen.weight") == ""
