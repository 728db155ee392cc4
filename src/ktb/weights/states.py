"""State dicts, tensors by name: whether they fit a model, hold finite numbers only, and which weights they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.models.finite import not_finite, some_of

StateDict = dict[str, Tensor]
"""Tensors by name."""


def load_exactly(module: torch.nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load `state`, all of it and nothing less.

    Raises:
        CheckpointError: names are missing or unknown, shapes differ, or values are not finite.
    """
    refuse_misfit(module.state_dict(), state, where)
    refuse_not_finite(state, where)
    module.load_state_dict(state)


def refuse_misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are not those of a model.

    Args:
        expected: the model's own, by name; only their shapes matter.
        state: what is to be loaded.
        where: its file, for messages.

    Raises:
        CheckpointError: names are missing or unknown, or shapes differ.
    """
    problems = [
        listing("missing", set(expected) - set(state)),
        listing("unknown", set(state) - set(expected)),
        listing(
            "of another shape",
            {
                f"{k} {tuple(state[k].shape)} (expected {tuple(v.shape)})"
                for k, v in expected.items()
                if k in state and state[k].shape != v.shape
            },
        ),
    ]
    if any(problems):
        raise CheckpointError(f"{where}: does not fit this model: " + "; ".join(p for p in problems if p))


def refuse_not_finite(state: Mapping[str, Any], where: str = "") -> None:
    """Refuse tensors of NaN or infinities: every answer of such a model would be void.

    Raises:
        CheckpointError: a value is not finite.
    """
    if found := not_finite({k: v for k, v in state.items() if isinstance(v, Tensor)}):
        raise CheckpointError(
            f"{where}{': ' * bool(where)}holds weights that are NaN or infinite, {some_of(found)}, as a training that "
            "had failed leaves them; take a checkpoint from before that"
        )


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over a module's state, in hexadecimal: names, shapes, types and values."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def listing(what: str, names: Iterable[str], limit: int = 6) -> str:
    """ "2 missing: a, b" with at most `limit` names; empty without names."""
    names = sorted(names)
    if not names:
        return ""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} {what}: {', '.join(names[:limit])}{more}"


def depths_in(state: Iterable[str], pattern: str) -> tuple[int, ...]:
    """Blocks per stage, from names that the pattern matches with (stage, block) as its groups."""
    blocks = {(int(m[1]), int(m[2])) for k in state if (m := re.match(pattern, k))}
    # Counted, not the largest number: a name like stages.0.blocks.999999999 must not make the others missing.
    return tuple(sum(i == stage for i, _ in blocks) for stage in sorted({i for i, _ in blocks}))
