"""Models of timm by name, built without weights and described in one line where that can't be done."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from ktb.errors import ConfigError, did_you_mean, first_line
from ktb.models.backbones.entry import Normalisation

Taps = list[dict[str, Any]]
"""What timm says of a model's feature maps: "module" (name), "num_chs" and "reduction" (pixels per position)."""


def create(name: str, drop_path: float, options: Mapping[str, Any]) -> nn.Module:
    """A model of timm without classifier and without weights, for images of any size where timm can do that.

    Args:
        name: as in `timm.list_models()`, or with the tag of its weights as in `timm.list_pretrained()`.
        drop_path: largest rate of stochastic depth.
        options: further arguments of timm's constructor.

    Raises:
        ConfigError: timm has no such model, or refuses an argument.
    """
    architecture = name.partition(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        raise ConfigError(
            f"timm {timm.__version__} has no model {name!r}{did_you_mean(architecture, timm.list_models())}"
        )
    given = {"num_classes": 0, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}}
    try:
        with torch.device("meta"):
            taken = inspect.signature(type(_create(name, given)).__init__).parameters
    except NotImplementedError:  # an operation without a form for tensors that hold nothing
        taken = inspect.signature(type(_create(name, given)).__init__).parameters
    except Exception as error:  # whatever a constructor among timm's many raises
        raise ConfigError(f"timm's {name} can't be built: {first_line(error)}") from None
    for argument, value in {"strict_img_size": False, "dynamic_img_size": True, "dynamic_img_pad": True}.items():
        if argument in taken:
            given.setdefault(argument, value)
    if drop_path:
        given["drop_path_rate"] = drop_path
    try:
        return _create(name, given)
    except Exception as error:  # as above
        if drop_path and "drop_path_rate" in str(error):
            raise ConfigError(f"timm's {name} has no stochastic depth: drop_path must be 0, got {drop_path}") from None
        raise ConfigError(f"timm's {name} can't be built: {first_line(error)}") from None


def _create(name: str, given: Mapping[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a model's age or name; none is about what we use
        model: nn.Module = timm.create_model(name, pretrained=False, **given)
    return model


def taps_of(model: nn.Module) -> Taps:
    """The feature maps of a model, coarsest last; empty where timm describes none."""
    info = getattr(model, "feature_info", None)
    return list(getattr(info, "info", info) or [])


def intermediates(model: nn.Module, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
    """The feature maps (S, C, H, W) that timm itself computes, by their places in `taps_of(model)`."""
    maps: list[Tensor] = model.forward_intermediates(  # type: ignore[operator]
        images, indices=list(indices), intermediates_only=True, output_fmt="NCHW"
    )
    return maps


def normalisation_of(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the images that the model's weights were trained on, unless given."""
    config = cast(dict[str, Any], model.pretrained_cfg)
    found = [[float(v) for v in (given or config[key])] for given, key in ((mean, "mean"), (std, "std"))]
    Normalisation(*found)
    return found[0], found[1]


def example(height: int, width: int, device: torch.device) -> Tensor:
    """An image (1, 3, height, width) to try a model on, the same each time."""
    return torch.sin(torch.arange(3 * height * width, device=device) * 0.7).view(1, 3, height, width)


def refuse_entry(own: Callable[[Tensor], Tensor], entry_for: Callable[[int], nn.Module], images: Tensor) -> None:
    """Refuse first layers that can't be made those of a modality with another number of channels.

    Args:
        own: the model's first layers.
        entry_for: number of channels → a copy for as many.
        images: RGB (S, 3, H, W), as `own` takes them.

    Raises:
        ValueError: saying why.
    """
    try:
        found = entry_for(1).eval()(images[:, :1]).shape
    except Exception as error:  # of whatever such layers do
        raise ValueError(f"its first layers take three channels only ({first_line(error)})") from None
    if found != (expected := own(images).shape):
        raise ValueError(f"its first layers make {tuple(found)} of one channel and {tuple(expected)} of three")


def refuse_difference(ours: Iterator[Tensor], theirs: Sequence[Tensor]) -> None:
    """Compare maps (S, H, W, C), made one after the other, with timm's own (S, C, H, W): a model that uses its parts in
    another way than it seems to must not pass. On the meta device only shapes are compared.

    Raises:
        ValueError: they differ, or a part can't be called.
    """
    for i, expected in enumerate(theirs):
        try:
            found = next(ours).movedim(-1, 1)
        except Exception as error:  # of a part that needs more than one map, in whatever form
            raise ValueError(f"its stage {i} needs more than the map before it ({first_line(error)})") from None
        if found.shape != expected.shape or not (
            found.is_meta or torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        ):
            raise ValueError(f"its parts, called one after the other, do not give its own features of stage {i}")
