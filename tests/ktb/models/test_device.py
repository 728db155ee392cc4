"""Forward pass, losses and metrics on tensors that only pretend to be on a GPU, so that none is needed.

Nothing may wait for the device or lie on the CPU, and no more kernels may be started than are written down here.

Waiting is what reads a value (`.item()`, `bool()`), makes a tensor whose size follows from values (`nonzero`, indexing
by a mask), or moves one between device and CPU. The host then can't start kernels ahead, and the GPU idles.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ktb.data.spec import RGB, normalize
from ktb.engine.draws import per_sample
from ktb.engine.inference import most_likely
from ktb.losses.pixel import PixelLoss
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.metrics.counts import ConfusionMatrix, boundary_counts, image_matrices
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.layers import dscf_fast, window_fast
from ktb.models.segmentor import KTBSegmentor

NAMES = ("rgb", "depth")
SMALL = SwinArch(32, (2, 2, 2, 2), (1, 2, 4, 8), 4, 2.0, 0.3)
SWIN_B = SwinArch(128, (2, 2, 18, 2), (4, 8, 16, 32), 12)
LOSSES: dict[str, PixelLoss] = {
    "ce": PixelLoss("ce"), "ohem": PixelLoss("ohem"), "self-teaching": SelfTeachingLoss("ohem"),
}  # fmt: skip

KERNELS = {"forward, batch 1": 959, "forward, batch 16": 1111, "training step, batch 4": 3224}
"""Kernels that Swin-B starts at 480 x 640 with RGB and X on a GPU of 80 GB, counted as `Watch` does: a little more than
run, because some operators that only say where results lie count as well; without the optimiser. Measured with PyTorch
2.14. After a change that starts fewer write down what the test finds; a change that starts more needs a reason."""


# ------------------------------------------------------------------------------- PyTorch's private parts, one use each


class Watch(TorchDispatchMode):
    """Counts operators that compute something, and refuses those that take or give a tensor on another device.

    TorchDispatchMode and tree_leaves are private to PyTorch (here with 2.14); without them this file does not import.
    """

    FREE = ("detach", "alias", "_unsafe_view", "lift_fresh", "promote_types", "empty", "empty_like", "new_empty",
            "new_empty_strided", "empty_strided")  # fmt: skip
    """Start no kernel although they are no views."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").partition(".")[0]
        for x in tree_leaves((args, kwargs, out)):
            assert not isinstance(x, Tensor) or x.device.type == self.device, f"{func} has a tensor on {x.device}"
        if not (func.is_view or func.namespace == "prim" or name in self.FREE):
            self.kernels[name] += 1
        return out


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Tensors may be made on "cuda", of which only the shapes exist.

    Private to PyTorch (here with 2.14). Reading a value, or making a tensor of a size that follows from values, fails.
    """
    with FakeTensorMode(), torch.backends.cudnn.flags(enabled=False):  # of cuDNN's kernels some have no shapes
        yield


def with_values(function: Callable[..., Any]) -> Callable[..., Any]:
    """Called on real tensors on the CPU, its result then moved as it says: which windows there are follows from values,
    and is kept from then on."""

    def moved(x: Any, device: torch.device) -> Any:
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            return dataclasses.replace(x, **{f.name: moved(getattr(x, f.name), device) for f in dataclasses.fields(x)})
        if isinstance(x, tuple):
            return tuple(moved(part, device) for part in x)
        return torch.empty(x.shape, dtype=x.dtype, device=device) if isinstance(x, Tensor) else x

    def call(*args: Any, **kwargs: Any) -> Any:
        cpu = torch.device("cpu")
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.device)]
        with unset_fake_temporarily():
            found = function(
                *(cpu if isinstance(a, torch.device) else a for a in args),
                **{k: cpu if isinstance(a, torch.device) else a for k, a in kwargs.items()},
            )
        return moved(found, given[0])

    return call


def one_kernel_of_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """What `F.scaled_dot_product_attention` does on a GPU; without one it is taken apart into products."""
    mask = mask.expand(len(q), q.shape[1], -1, -1)
    learns = torch.is_grad_enabled() and q.requires_grad
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, learns, scale=scale)[0]
    return out


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", one_kernel_of_attention)
    monkeypatch.setattr(dscf_fast, "entries_at_a_time", lambda device: 80 << 21)
    monkeypatch.setattr(window_fast, "NO_LAUNCHES", ("cpu",))
    for name in ("_plan", "padded_plan"):
        monkeypatch.setattr(window_fast, name, with_values(getattr(window_fast, name)))


def model_on(device: str, arch: SwinArch, classes: int = 5) -> KTBSegmentor:
    """The model with parameters that have a device and no values."""
    with unset_fake_temporarily(), torch.device("meta"):
        model = KTBSegmentor(FrozenSwin(arch), NAMES, classes, head={"width": 64}, side_head={"width": 32})
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            empty = torch.empty(p.shape, device=device)
            module._parameters[name] = nn.Parameter(empty, requires_grad=p.requires_grad)
        for name, b in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=device)
    return model


def batch_on(device: str, size: tuple[int, int], batch: int) -> tuple[dict[str, Tensor], Tensor]:
    images = {m: torch.empty(batch, 3, *size, device=device) for m in NAMES}
    return images, torch.empty(batch, *size, dtype=torch.int64, device=device)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # the head tells by it what is folded
@pytest.mark.parametrize("size", [(64, 96), (45, 67)])
@pytest.mark.parametrize("train", [False, True])
def test_nothing_waits_and_all_is_on_the_gpu(size: tuple[int, int], train: bool) -> None:
    with pretended_gpu():
        model = model_on("cuda", SMALL).train(train)
        images, target = batch_on("cuda", size, 3)
        draws = per_sample(model)
        draws.keys = torch.empty(3, dtype=torch.int32, device="cuda")
        masked = torch.empty(2, 3, dtype=torch.bool, device="cuda")
        with torch.set_grad_enabled(train):
            model(images, side=True, masked=masked)  # what is kept is made once
            with Watch("cuda") as watch:
                out = model(images, side=True, masked=masked)
                for loss in LOSSES.values():
                    assert loss(out, target)["loss"].shape == ()
        assert out.logits.shape == (3, 5, *size)
        assert watch.kernels["_scaled_dot_product_efficient_attention"] >= 8  # a call at least for each block
        with Watch("cuda"):
            ids, answered = most_likely(out.logits.detach())
            image_matrices(ids, target, 5)
            boundary_counts(ids, target, 5)
        assert (ids.shape, answered.shape) == ((3, *size), (3,))


def test_reading_and_scoring_wait_for_nothing() -> None:
    with pretended_gpu():
        metric = ConfusionMatrix(5)
        metric.counts = torch.empty(5, 5, dtype=torch.int64, device="cuda")
        ids, target = (torch.empty(2, 40, 48, dtype=torch.int64, device="cuda") for _ in range(2))
        with Watch("cuda") as watch:
            metric.update(ids, target)
        assert watch.kernels["scatter_add_"] == 1
        pictures = {"rgb": torch.empty(2, 3, 40, 48, dtype=torch.uint8, device="cuda")}
        normalize(pictures, (RGB,))  # what is kept is made once
        assert normalize(pictures, (RGB,))["rgb"].dtype == torch.float32


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_wait_for_nothing(loss: str) -> None:
    """On PyTorch's device "meta": its autograd asks a GPU's driver, even for tensors that pretend."""
    model = model_on("meta", SMALL).train()
    images, target = batch_on("meta", (64, 96), 2)
    LOSSES[loss](model(images, side=True), target)["loss"].backward()
    with Watch("meta") as watch:
        LOSSES[loss](model(images, side=True), target)["loss"].backward()
    assert watch.kernels["_scaled_dot_product_efficient_attention_backward"] >= 8
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("what", KERNELS)
def test_no_more_kernels_than_written_down(what: str) -> None:
    batch = int(what.rpartition(" ")[2])
    train = what.startswith("training")
    device = "meta" if train else "cuda"
    with pretended_gpu():
        model = model_on(device, SWIN_B, 40).train(train)
        images, target = batch_on(device, (480, 640), batch)

        def run() -> None:
            with torch.set_grad_enabled(train):
                out = model(images, side=train)
            if train:
                SelfTeachingLoss()(out, target)["loss"].backward()

        run()
        with Watch(device) as watch:
            run()
    assert watch.kernels.total() <= KERNELS[what], watch.kernels.most_common(12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.any()), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "nonzero|index"),
        (lambda x: x.unique(), "unique"),
        (lambda x: x.long().flatten().bincount(), "bincount"),
        (lambda x: x.cpu(), "has a tensor on cpu"),
        (lambda x: x[torch.arange(2)], "has a tensor on cpu"),
        (lambda x: x + torch.tensor(1.0), "has a tensor on cpu"),
        (lambda x: x + torch.ones(3), "has a tensor on cpu|different devices"),
    ],
)
def test_the_watch_would_notice(wrong: Callable[[Tensor], Any], message: str) -> None:
    with pretended_gpu():
        x = torch.empty(4, 3, device="cuda")
        with Watch("cuda"):
            x.mul(2).sum()
            with pytest.raises((AssertionError, RuntimeError), match=message):
                wrong(x)
