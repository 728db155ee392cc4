"""What PyTorch does not know of a user's own modules: tensors and layers that are no part of them, and parameters that
get no gradient. Nothing fails over these at once, but they are not trained, not moved, or not saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ktb.errors import PartError
from ktb.models.imports import is_of_library, place_of

_OF_PYTORCH = ("_parameters", "_buffers", "_modules")


def hidden_tensors(models: Iterable[nn.Module]) -> list[str]:
    """Look for tensors and layers in attributes of the user's own modules that are no parts of them.

    Args:
        models: with all that is to be trained.

    Returns:
        a line for each tensor; it may be meant, as a constant that `forward` moves to where it is needed.

    Raises:
        PartError: a layer or parameter that would never be trained.
    """
    models = list(models)
    known = {id(x) for m in models for x in (*m.modules(), *m.parameters(), *m.buffers())}
    found = {}
    for part in (part for m in models for part in m.modules() if not is_of_library(type(part))):
        cls = f"{type(part).__module__}.{type(part).__qualname__}"
        where = place_of(type(part), "__init__")
        for name, value in vars(part).items():
            for held in _held(value) if name not in _OF_PYTORCH else ():
                if id(held) in known:
                    continue
                if _is_trained(held):
                    raise PartError(
                        f"{cls}: {name} holds a {type(held).__name__} that PyTorch does not find there, so that it "
                        "would not be trained, moved or saved: use nn.ModuleList, nn.ModuleDict or nn.ParameterList"
                        f"{where}"
                    )
                if isinstance(held, Tensor):
                    found[cls, name] = (
                        f"{cls}: the tensor {name} is no buffer, so that it stays where it is when the model moves to "
                        f"a GPU, and is not saved: self.register_buffer({name!r}, ...){where}"
                    )
    return list(found.values())


def _held(value: Any, depth: int = 2) -> Iterator[Tensor | nn.Module]:
    """Tensors and modules that an attribute is, or holds in lists and mappings."""
    if isinstance(value, Tensor | nn.Module):
        yield value
    elif depth and isinstance(value, list | tuple | set | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _held(item, depth - 1)


def _is_trained(held: Tensor | nn.Module) -> bool:
    if isinstance(held, nn.Module):
        return any(p.requires_grad for p in held.parameters())
    return isinstance(held, nn.Parameter) and held.requires_grad


def untrained(model: nn.Module, *, refuse: bool) -> list[str]:
    """Parameters that should be trained and have no gradient after a step.

    Args:
        model: after the backward pass.
        refuse: whether that ends the training.

    Returns:
        one line, if there are any.

    Raises:
        PartError: there are, and `refuse`.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if not names:
        return []
    are = f"{len(names)} parameters get" if len(names) > 1 else "1 parameter gets"
    said = f"{are} no gradient in a trial step, {names[0]}{' among them' if len(names) > 1 else ''}"
    if refuse:
        raise PartError(
            f"{said}, and several processes would wait for it: use it, remove it, or set "
            f"trainer.strategy=ddp_find_unused_parameters_true{owner(model, names[0])}"
        )
    return [f"{said}: not trained unless other steps use it{owner(model, names[0])}"]


def owner(model: nn.Module, name: str) -> str:
    """Where the class of the user's own is written that a parameter or buffer belongs to, as `place_of`.

    Args:
        model: the model.
        name: of the parameter or buffer.
    """
    path = name.split(".")[:-1]
    for end in range(len(path), 0, -1):
        cls = type(model.get_submodule(".".join(path[:end])))
        if not is_of_library(cls):
            return place_of(cls, "forward")
    return ""
