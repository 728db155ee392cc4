"""The whole way from what a sensor gives to what the network takes, stated step by step, for programs without ktb.

Carried out in their order, the steps of a modality give exactly the tensor that ktb itself would prepare
(`ktb.data.steps` has them in words).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from ktb.data.augment import ALIGN
from ktb.data.label_size import LabelSizes
from ktb.data.module import RGBXDataModule
from ktb.data.samples import Reader
from ktb.data.spec import ModalitySpec
from ktb.data.steps import Step


@runtime_checkable
class Stated(Protocol):
    """A reader that says what it does."""

    def steps(self) -> list[Step]:
        """What is done to the arrays in its files, in this order."""
        ...


def preparation(data: RGBXDataModule, label_sizes: LabelSizes) -> dict[str, list[Step]]:
    """Modality → the steps from the arrays in its files to (1, channels, H, W) as the network takes them.

    Args:
        data: the data set, with its evaluation size.
        label_sizes: how large labels were in training, where it resized pictures to them; empty where that is
            not known.
    """
    readers = data.readers()
    return {m.name: _steps(data, m, readers[m.name], label_sizes) for m in data.modalities}


def _steps(data: RGBXDataModule, modality: ModalitySpec, reader: Reader, label_sizes: LabelSizes) -> list[Step]:
    steps = reader.steps() if isinstance(reader, Stated) else [_named(reader)]
    done = {step["do"] for step in steps}
    masked = "find holes" in done and "fill holes" not in done
    if (like := _like(data, modality.name)) is not None:
        size = _label_size(data.modalities[0].name, label_sizes) if like == "label" else {}
        steps.append({"do": "match size", "like": like, "smooth": data.resizing.smooth, **size})
    if data.short_side is not None:
        steps.append({"do": "resize", "short_side": data.short_side, "multiple_of": ALIGN, "weigh_holes": masked})
    if masked and not modality.holes_at_mean:
        steps.append({"do": "zero holes"})
    steps.append({"do": "divide", "by": modality.scale})
    if modality.validity:
        steps.append({"do": "append validity"})
    steps.append({"do": "standardise", "mean": list(modality.mean), "std": list(modality.std)})
    if masked and modality.holes_at_mean:
        steps.append({"do": "zero holes"})
    steps.append({"do": "repeat to", "channels": modality.channels})
    return steps


def _named(reader: Reader) -> Step:
    """The step that stands for a reader that does not say what it does."""
    kind = reader if hasattr(reader, "__qualname__") else type(reader)
    return {"do": "read as", "name": f"{kind.__module__}.{kind.__qualname__}"}


def _like(data: RGBXDataModule, name: str) -> str | None:
    """What a modality is resized to where it has another size; None where it may not have one."""
    resizing, names = data.resizing, [m.name for m in data.modalities]
    if name not in resizing.modalities or (resizing.to_first and name == names[0]):
        return None
    if resizing.to_first:
        return names[0]
    return next((other for other in names if other not in resizing.modalities), "label")


def _label_size(first: str, sizes: LabelSizes) -> dict[str, Any]:
    """The size that a label would have had, from that of the first modality; empty where it is not known."""
    known = asdict(sizes[first]) if first in sizes else {}
    return {"of": first, **{key: value for key, value in known.items() if value is not None}} if known else {}
