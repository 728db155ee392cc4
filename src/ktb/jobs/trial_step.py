"""A trial of what is the user's own in a training, before anything is written: one step, and one prediction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ktb.data.spec import ignore_index
from ktb.errors import KTBError, PartError, is_out_of_memory
from ktb.jobs.hidden_state import hidden_tensors, owner, untrained
from ktb.metrics.own import OwnMetrics
from ktb.models.contracts import check_config
from ktb.models.imports import imported_class, last_line, place_of, told
from ktb.models.segmentor import KTBSegmentor, own_classes

_STEP, _PREDICTION = (64, 96), (50, 75)
"""Height and width of the images."""


def try_own_parts(
    model: KTBSegmentor, loss: nn.Module, metrics: Mapping[str, Metric], *, all_trained: bool = False
) -> list[str]:
    """Run one step and one prediction on random images, if a part of the model, the loss or a metric is not ktb's.

    Nothing is different afterwards: not the weights, no statistics, no state of random numbers.

    Args:
        model: as it will be trained.
        loss: the loss.
        metrics: name → metric.
        all_trained: whether every parameter has to get a gradient in every step, as several processes expect it.

    Returns:
        what the user should know, a line each.

    Raises:
        PartError: it fails; with the line of the user's own code.
    """
    others = map(_name, (*loss.modules(), *metrics.values()))
    own = [*own_classes(model.config), *(name for name in others if _package(name) not in ("ktb", "torch"))]
    if not own:
        return []
    if _package(_name(model.backbone)) != "ktb":
        check_config(model.backbone)
    told_of = hidden_tensors([model, loss])
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    parameters = {name for name, _ in model.named_parameters()}
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            _step(model.train(), loss)
            _refuse_latecomers(model, {*buffers, *parameters})
            told_of += untrained(model, refuse=all_trained)
            _check_sizes(model.eval())
            _prediction(model, metrics)
    except KTBError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        size = " × ".join(map(str, _STEP if model.training else _PREDICTION))
        packages = [_package(name) for name in own]
        where = "" if last_line(error, packages) else place_of(imported_class(own[0]), "forward")
        raise PartError(
            f"{', '.join(dict.fromkeys(own))}: a trial with two images of {size} pixels fails: "
            f"{told(error, *packages)}{where}"
        ) from None
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
        loss.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    return told_of


def _refuse_latecomers(model: nn.Module, known: set[str]) -> None:
    """Refuse parameters and buffers that are made while the model runs: the optimiser would not know them, and no
    checkpoint could be loaded.

    Raises:
        PartError: naming the first.
    """
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        if name not in known:
            raise PartError(
                f"{name} is made only when the model runs, so that it is not trained and checkpoints do not fit: make "
                f"it in the constructor{owner(model, name)}"
            )


def _name(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _package(name: str) -> str:
    return name.partition(".")[0]


def _images(model: KTBSegmentor, size: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    """Two images, and labels some of which do not count."""
    inputs = {m: torch.rand(2, c, *size) for m, c in model.config["modalities"].items()}
    target = torch.randint(model.num_classes, (2, *size))
    target[:, :4] = ignore_index(model.num_classes)
    return inputs, target


def _step(model: KTBSegmentor, loss: nn.Module) -> None:
    inputs, target = _images(model, _STEP)
    out = model(inputs)
    terms = loss(out, target)
    name = _name(loss)
    if not isinstance(terms, Mapping) or not isinstance(terms.get("loss"), Tensor):
        raise PartError(
            f"the loss {name} returned {type(terms).__name__}, expected a mapping with the scalar 'loss'"
            f"{place_of(type(loss), 'forward')}"
        )
    for key, term in terms.items():
        if not isinstance(term, Tensor) or term.dim():
            found = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            where = place_of(type(loss), "forward")
            raise PartError(f"the loss {name} returned {key!r} as {found}, expected a scalar{where}")
    if taken := [added for added in out.losses if f"loss_{added}" in terms]:
        block = model.fusion[0]
        raise PartError(
            f"the fusion block {_name(block)} has a term {taken[0]!r}, which is logged as 'loss_{taken[0]}', and the "
            f"loss {name} has one of that name: choose another{place_of(type(block), 'forward')}"
        )
    total: Tensor = terms["loss"] + sum(out.losses.values())
    total.backward()


def _check_sizes(model: KTBSegmentor) -> None:
    """Refuse maps of other sizes than the backbone says: heads would resize them to the wrong place.

    Raises:
        PartError: naming the stage.
    """
    inputs, _ = _images(model, _PREDICTION)
    with torch.no_grad():
        features, size = model.features(inputs)
    covered = model.backbone.covers(*size)
    for stage, (fused, stride) in enumerate(zip(features.fused, model.backbone.strides, strict=True)):
        found = tuple(fused.shape[1:3])
        if any(not -1 < n / stride - m < 1 for n, m in zip(covered, found, strict=True)):
            raise PartError(
                f"the backbone {_name(model.backbone)} has a map of {found} positions in stage {stage} for an image of "
                f"{size} pixels: covers says {covered} pixels, strides one position in {stride:g}"
                f"{place_of(type(model.backbone), 'stage')}"
            )


def _prediction(model: KTBSegmentor, metrics: Mapping[str, Metric]) -> None:
    inputs, target = _images(model, _PREDICTION)
    with torch.no_grad():
        ids = model(inputs).logits.argmax(1)
    scores = OwnMetrics(metrics)
    scores.begin(torch.device("cpu"))
    scores.update(ids, target)
    scores.compute()
