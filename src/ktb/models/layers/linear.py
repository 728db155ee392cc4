"""Linear layers that are never trained, the form that is fastest on the device at hand.

On x86 in float32 PyTorch's own `F.linear` is a product of MKL's and then, for GELU or a sum, another pass over memory.
oneDNN, which PyTorch brings as well, does both in one and is the faster of the two on some processors
(docs/benchmarks.md). Everywhere else this is `F.linear`: the same numbers up to rounding.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None = None) -> Tensor:
    """`F.linear(x, weight, bias)`, plus a sum.

    Args:
        x: (..., in).
        weight, bias: (out, in) and (out); the faster form is for those that are not trained.
        add: added to the result, (..., out).

    Returns:
        (..., out).
    """
    if not _by_onednn(x, weight, bias):
        out = F.linear(x, weight, bias)
        return out if add is None else add + out
    if torch.is_grad_enabled() and (x.requires_grad or (add is not None and add.requires_grad)):
        # Shaped out here: a view that is made inside must not be changed in place, as a ReLU may want to.
        product: Tensor = _Frozen.apply(_rows(x), weight, bias, None if add is None else _rows(add))
        return product.view(*x.shape[:-1], -1)
    return _product(_rows(x), weight, bias, None if add is None else _rows(add)).view(*x.shape[:-1], -1)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.gelu(F.linear(x, weight, bias))`: (..., in) → (..., out)."""
    if not _by_onednn(x, weight, bias) or (torch.is_grad_enabled() and x.requires_grad):
        return F.gelu(linear(x, weight, bias))
    return _product(_rows(x), weight, bias, gelu=True).view(*x.shape[:-1], -1)


def inference_on_cpu(x: Tensor) -> bool:
    """No gradients, no compiler, a CPU: where a form in parts that its caches hold is worth its loop."""
    return x.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    return (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not (torch.is_grad_enabled() and trained)
    )


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    """(N, in) → (N, out)."""
    pointwise: Any = torch.ops.mkldnn._linear_pointwise
    if add is not None:
        return cast(Tensor, pointwise.binary(x, add, weight, bias, "add"))
    return cast(Tensor, pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else ""))


class _Frozen(torch.autograd.Function):
    """As `linear`, of rows. Nothing but the weight is needed for the gradient, so nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
        ctx.weight = weight  # not saved: a checkpointed caller need not run this layer again
        return _product(x, weight, bias, add)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        grad_x = _product(grad, ctx.weight.t(), None) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad if ctx.needs_input_grad[3] else None
