"""A trial of what is the user's own in a training, before anything is written: one step, and one prediction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ktb.data.spec import ignore_index
from ktb.errors import KTBError, PartError, is_out_of_memory
from ktb.metrics.own import OwnMetrics
from ktb.models.imports import told
from ktb.models.segmentor import KTBSegmentor, own_classes

_STEP, _PREDICTION = (64, 96), (50, 75)
"""Height and width of the images."""


def try_own_parts(model: KTBSegmentor, loss: nn.Module, metrics: Mapping[str, Metric]) -> None:
    """Run one step and one prediction on random images, if a part of the model, the loss or a metric is not ktb's.

    Nothing is different afterwards: not the weights, no statistics, no state of random numbers.

    Args:
        model: as it will be trained.
        loss: the loss.
        metrics: name → metric.

    Raises:
        PartError: it fails; with the line of the user's own code.
    """
    others = map(_name, (*loss.modules(), *metrics.values()))
    own = [*own_classes(model.config), *(name for name in others if _package(name) not in ("ktb", "torch"))]
    if not own:
        return
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]):
            _step(model.train(), loss)
            _prediction(model.eval(), metrics)
    except KTBError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        size = " × ".join(map(str, _STEP if model.training else _PREDICTION))
        raise PartError(
            f"{', '.join(dict.fromkeys(own))}: a trial with two images of {size} pixels fails: "
            f"{told(error, *map(_package, own))}"
        ) from None
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
        loss.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


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
        raise PartError(f"the loss {name} returned {type(terms).__name__}, expected a mapping with the scalar 'loss'")
    for key, term in terms.items():
        if not isinstance(term, Tensor) or term.numel() != 1:
            found = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise PartError(f"the loss {name} returned {key!r} as {found}, expected a scalar")
    total: Tensor = terms["loss"].sum() + sum(out.losses.values())
    total.backward()


def _prediction(model: KTBSegmentor, metrics: Mapping[str, Metric]) -> None:
    inputs, target = _images(model, _PREDICTION)
    with torch.no_grad():
        ids = model(inputs).logits.argmax(1)
    scores = OwnMetrics(metrics)
    scores.begin(torch.device("cpu"))
    scores.update(ids, target)
    scores.compute()
