"""The steps from a sensor's array to what the network takes, as tensor operations that an exporter can put in a graph.

They give what ktb itself prepares, see `ktb.data.preparation`: bytes, whole numbers and the nearest pixel to the last
bit, all else up to the order of float32 additions. What frames may hold is not checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ktb.data.arrays import Size
from ktb.data.resizing import HALF
from ktb.data.steps import Step, in_words
from ktb.errors import ConfigError
from ktb.export.graph_resizing import halved, linear, linear_bytes, nearest
from ktb.export.graph_statistics import percentiles, plane_residual


@dataclass
class _Frame:
    """A frame between two steps.

    Attributes:
        x: (C, H, W) float32.
        kind: the type that the array has in ktb at this point, which decides how it is rounded.
        valid: (H, W) bool, False in holes; None: it has none.
        masked: whether ktb carries a mask along: only if there are holes at all, or if validity is a channel.
        like: the size that frames of several sensors agree in.
        seen: the size that the network sees.
        validity: whether validity becomes a channel.
    """

    x: Tensor
    kind: str
    like: Size
    seen: Size
    validity: bool
    valid: Tensor | None = None
    masked: Tensor | None = None


def prepare(array: Tensor, steps: Sequence[Step], like: Size, seen: Size) -> Tensor:
    """A sensor's array → what the network takes.

    Args:
        array: (H, W) or (H, W, C): uint8, uint16 or float32.
        steps: of its modality; see `refuse_unknown`.
        like: (height, width) in which the frames of all sensors agree.
        seen: (height, width) that the network sees.

    Returns:
        (1, channels, *seen) float32.
    """
    kind = str(array.dtype).removeprefix("torch.")
    x = array.float()
    x = x[None] if x.ndim == 2 else x.permute(2, 0, 1)
    frame = _Frame(x, kind, like, seen, any(step["do"] == "append validity" for step in steps))
    for step in steps:
        _STEPS[step["do"]](frame, step)
    return frame.x[None]


def refuse_unknown(preparation: Mapping[str, Sequence[Step]]) -> None:
    """Check that all steps can be in a graph.

    Raises:
        ConfigError: one can't.
    """
    for modality, steps in preparation.items():
        for step in steps:
            if step["do"] not in _STEPS:
                raise ConfigError(
                    f"--raw: {modality} is prepared by a step that a graph cannot have: {in_words(step)} Export "
                    "without --raw and prepare it in your program"
                )


def _take(frame: _Frame, step: Step) -> None:
    factor = step["factors"].get(frame.kind)
    if factor is not None and factor != 1:
        frame.x, frame.kind = frame.x * float(np.float32(factor)), "float32"
    elif step["others"]:
        frame.kind = "float32"
    else:
        frame.kind = next(iter(step["factors"]))  # the result's own type stands first


def _channels(frame: _Frame, step: Step) -> None:
    """Arrays come with the channels that are wanted, see `ktb.export.sensors`."""


def _mark_no_data(frame: _Frame, step: Step) -> None:
    """Arrays have no tags: what files mark by theirs is NaN in them."""


def _pick(frame: _Frame, step: Step) -> None:
    frame.x = frame.x.index_select(0, torch.tensor(step["channels"]))


def _multiply_and_add(frame: _Frame, step: Step) -> None:
    factor, add = (torch.tensor(step[key]).view(-1, 1, 1) for key in ("factor", "add"))
    frame.x, frame.kind = frame.x * factor + add, "float32"


def _high_byte(frame: _Frame, step: Step) -> None:
    if frame.kind == "uint16":
        frame.x, frame.kind = (frame.x / 256).floor(), "uint8"


def _find_holes(frame: _Frame, step: Step) -> None:
    value = step["value"]
    measured = frame.x.isfinite() if value == "nan" else frame.x != float(value)
    frame.valid = measured.all(0)


def _plane(frame: _Frame, step: Step) -> None:
    x = frame.x[0] if frame.valid is None else torch.where(frame.valid, frame.x[0], 0)
    scaled = 0.5 + plane_residual(x, frame.valid) / (2 * step["range"])
    frame.x, frame.kind = _of_measured(scaled[None].clamp(0.0, 1.0), frame.valid), "float32"


def _percentiles(frame: _Frame, step: Step) -> None:
    every = step["every"]
    sample = frame.x[:, ::every, ::every]
    counted = None
    if frame.valid is not None:
        counted = frame.valid[::every, ::every].expand(sample.shape).flatten()
    low, high = percentiles(sample.flatten(), counted, step["low"], step["high"])
    scaled = (frame.x.double() - low) / (high - low).clamp(min=float(np.finfo(np.float32).tiny))
    frame.x, frame.kind = _of_measured(scaled.clamp(0.0, 1.0).float(), frame.valid), "float32"


def _of_measured(x: Tensor, valid: Tensor | None) -> Tensor:
    """All 0 where nothing is measured."""
    return x if valid is None else torch.where(valid.any(), x, 0)


def _round(frame: _Frame, step: Step) -> None:
    kind = step["type"]
    frame.x, frame.kind = frame.x.round().clamp(0.0, float(np.iinfo(kind).max)), kind


def _fill_holes(frame: _Frame, step: Step) -> None:
    assert frame.valid is not None
    weighed = torch.cat([torch.where(frame.valid, frame.x, 0), frame.valid[None].float()])
    filled = _push_pull(weighed)
    # Without any measured pixel there is nothing to fill from.
    filled = torch.where(frame.valid.any(), filled.round() if step["round"] else filled, 0)
    frame.x, frame.valid = torch.where(frame.valid, frame.x, filled), None


def _push_pull(weighed: Tensor) -> Tensor:
    """As in `ktb.data.readers.holes`.

    Args:
        weighed: (C + 1, H, W): values times their weight, and the weight.

    Returns:
        (C, H, W): values everywhere.
    """
    height, width = weighed.shape[1], weighed.shape[2]
    weight = weighed[-1:]
    known = weight > 0
    values = torch.where(known, weighed[:-1] / torch.where(known, weight, 1), 0)
    if height == width == 1:
        return values
    return torch.where(known, values, linear(_push_pull(halved(weighed)), (height, width)))


def _match_size(frame: _Frame, step: Step) -> None:
    if tuple(frame.x.shape[1:]) == frame.like:
        return
    if step["smooth"]:
        _resize_weighing(frame, frame.like, whole=frame.kind != "float32")
        return
    frame.masked = _masked(frame)
    frame.x = nearest(frame.x, frame.like)
    if frame.valid is not None:
        frame.valid = nearest(frame.valid[None].float(), frame.like)[0] > 0


def _resize(frame: _Frame, step: Step) -> None:
    if tuple(frame.x.shape[1:]) != frame.seen:
        _resize_weighing(frame, frame.seen, whole=frame.kind == "uint8")


def _resize_weighing(frame: _Frame, size: Size, *, whole: bool) -> None:
    """Bilinear; holes have no weight.

    Args:
        frame: changed.
        size: (height, width) of the result.
        whole: what is left of a masked picture is rounded to whole numbers; one without a mask keeps its type anyway.
    """
    plain = linear_bytes(frame.x, size) if frame.kind == "uint8" else linear(frame.x, size)
    if frame.kind == "uint16":
        plain = plain.round()
    if frame.valid is None:
        frame.x = plain
        return
    frame.masked = _masked(frame)
    weighted = linear(torch.cat([torch.where(frame.valid, frame.x, 0), frame.valid[None].float()]), size)
    weight = weighted[-1:]
    means = torch.where(weight >= HALF, weighted[:-1] / weight.clamp(min=HALF), 0)
    frame.x = torch.where(frame.masked, means.round() if whole else means, plain)
    frame.valid = (weight[0] >= HALF) | ~frame.masked


def _masked(frame: _Frame) -> Tensor:
    if frame.masked is not None:
        return frame.masked
    assert frame.valid is not None or not frame.validity
    return torch.tensor(frame.validity) if frame.valid is None or frame.validity else ~frame.valid.all()


def _zero_holes(frame: _Frame, step: Step) -> None:
    assert frame.valid is not None
    frame.x = torch.where(frame.valid, frame.x, 0)


def _divide(frame: _Frame, step: Step) -> None:
    frame.x = frame.x / step["by"]


def _append_validity(frame: _Frame, step: Step) -> None:
    assert frame.valid is not None
    frame.x = torch.cat([frame.x, frame.valid[None].float()])


def _standardise(frame: _Frame, step: Step) -> None:
    mean, std = (torch.tensor(step[key]).view(-1, 1, 1) for key in ("mean", "std"))
    frame.x = (frame.x - mean) / std


def _repeat_to(frame: _Frame, step: Step) -> None:
    if frame.x.shape[0] == 1:
        frame.x = frame.x.expand(step["channels"], -1, -1)


_STEPS: dict[str, Any] = {
    "mark no-data": _mark_no_data,
    "take": _take,
    "channels": _channels,
    "pick": _pick,
    "multiply and add": _multiply_and_add,
    "high byte": _high_byte,
    "find holes": _find_holes,
    "plane": _plane,
    "percentiles": _percentiles,
    "round": _round,
    "fill holes": _fill_holes,
    "match size": _match_size,
    "resize": _resize,
    "zero holes": _zero_holes,
    "divide": _divide,
    "append validity": _append_validity,
    "standardise": _standardise,
    "repeat to": _repeat_to,
}
