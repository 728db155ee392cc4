"""Shapes that a part of the model has to keep to, so that a wrong one is told where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ktb.errors import PartError
from ktb.models.imports import place_of


def check_shape(
    given: Any,
    expected: Sequence[int],
    part: nn.Module,
    place: str,
    what: str,
    *,
    like: torch.Tensor | None = None,
    method: str = "forward",
) -> None:
    """Refuse what a part has returned, if it is no tensor of the expected shape.

    Args:
        given: what it returned.
        expected: the shape.
        part: whose answer it is.
        place: its place in the model.
        what: what is returned there, with its layout.
        like: what it was given: the answer is on its device, and of its type but for mixed precision.
        method: of the part, that returned it.

    Raises:
        PartError: naming the part, what was expected and what came.
    """
    if torch.compiler.is_compiling():  # the part has run once before
        return
    found = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    said = f"the {place} {type(part).__module__}.{type(part).__qualname__} returned {what}"
    if found != tuple(expected):
        raise PartError(f"{said} as {found}, expected {tuple(expected)}{place_of(type(part), method)}")
    if like is None:
        return
    if given.device != like.device:
        raise PartError(
            f"{said} on {given.device}, expected {like.device}, where its argument is{place_of(type(part), method)}"
        )
    if given.dtype != like.dtype and not (like.is_meta or torch.is_autocast_enabled(like.device.type)):
        raise PartError(
            f"{said} as {given.dtype}, expected {like.dtype}, as its argument{place_of(type(part), method)}"
        )
