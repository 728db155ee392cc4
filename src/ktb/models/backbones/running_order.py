"""In which order a backbone uses its parameters, which the order in which they are registered need not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def blocks_begun(module: nn.Module, blocks: Sequence[nn.Module], run: Callable[[], object]) -> dict[str, int]:
    """How many blocks have begun when a parameter is first used.

    Parameters are watched, not modules: a block's layers may be used without a call of the block, and a layer's weight
    without a call of the layer.

    Args:
        module: has the parameters.
        blocks: its blocks, in order.
        run: uses the parameters, on whatever input.

    Returns:
        name of a parameter → number of blocks; for those of a block with the block itself, and 0 for those that `run`
        does not use.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    of_block = {names[id(p)]: number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    # With gradients: forms for inference alone may hide a weight in an operation of their own.
    with torch.enable_grad(), _FirstUses(names, of_block) as watch:
        run()
    return {**dict.fromkeys(names.values(), 0), **watch.begun, **of_block}


class _FirstUses(TorchFunctionMode):
    """Sees every operation and its arguments.

    Attributes:
        begun: parameter → number of blocks, as above.
    """

    def __init__(self, names: Mapping[int, str], of_block: Mapping[str, int]) -> None:
        super().__init__()
        self.begun: dict[str, int] = {}
        self._names, self._of_block, self._reached = names, of_block, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if next(_tensors([result]), None) is not None:  # else only a size, type or device was asked for
            for tensor in _tensors([*args, *(kwargs or {}).values()]):
                if name := self._names.get(id(tensor)):
                    self._reached = max(self._reached, self._of_block.get(name, 0))
                    self.begun.setdefault(name, self._reached)
        return result


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
