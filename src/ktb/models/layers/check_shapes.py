"""Shapes that a part of the model has to keep to, so that a wrong one is told where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ktb.errors import PartError


def check_shape(given: Any, expected: Sequence[int], part: nn.Module, place: str, what: str) -> None:
    """Refuse what a part has returned, if it is no tensor of the expected shape.

    Args:
        given: what it returned.
        expected: the shape.
        part: whose answer it is.
        place: its place in the model.
        what: what is returned there, with its layout.

    Raises:
        PartError: naming the part, what was expected and what came.
    """
    if torch.compiler.is_compiling():  # the part has run once before
        return
    found = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    if found != tuple(expected):
        cls = f"{type(part).__module__}.{type(part).__qualname__}"
        raise PartError(f"the {place} {cls} returned {what} as {found}, expected {tuple(expected)}")
