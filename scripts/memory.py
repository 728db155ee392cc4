"""What a training step keeps in memory, computed without running it: python scripts/memory.py

Shapes alone go through the model (PyTorch's fake tensors); what autograd saves for the backward pass is counted, each
storage once. Weights, gradients and AdamW's moments are added. Not in it: the allocator's reserve, workspaces, the CUDA
context (together some 1 to 2 GiB on a GPU).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.backbones import swin
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.layers import window_fast
from ktb.models.segmentor import KTBSegmentor

ARCHS = {
    "swin_nano": SwinArch(32, (2, 2, 4, 2), (1, 2, 4, 8), 8, mlp_ratio=2.0),
    "swin_t": SwinArch(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_b": SwinArch(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin_l": SwinArch(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}
NAMES = ("rgb", "depth", "event", "lidar")


def _with_values(plan: Callable[..., Any], *args: Any) -> Any:
    """Which windows there are follows from values, which fake tensors have not."""
    with unset_fake_temporarily():
        return plan(*args)


def step(
    arch: SwinArch, *, size: int, batch: int, modalities: int, classes: int, recompute: bool, bf16: bool
) -> dict[str, float]:
    """GiB: `weights` (with gradients and moments), `kept` for the backward pass; `trained` in millions."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        keep.append(x)
        return x

    keep: list[Any] = []
    names = NAMES[:modalities]
    model = KTBSegmentor(FrozenSwin(arch), names, classes, recompute=recompute).train()
    everything = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        weights = [fake.from_tensor(p) for p in model.parameters()]  # the ones that the operations will see
        own = {p.untyped_storage()._cdata for p in weights}
        inputs = {m: torch.empty(batch, 3, size, size) for m in names}
        target = torch.zeros(batch, size, size, dtype=torch.int64)
        mixed = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
        # Only a CPU leaves out the branches that stochastic depth drops.
        every = patch.object(swin, "_add_branch", lambda x, branch, drop_path: x + drop_path(branch(x)))
        plans = patch.object(window_fast, "_plan", partial(_with_values, window_fast._plan))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), mixed, every, plans:
            SelfTeachingLoss()(model(inputs), target)
    kept = float(sum(n for key, n in storages.items() if key not in own))
    for i, depth in enumerate(arch.depths):  # what checkpointing keeps out of sight of the hooks
        side = -(-size // (4 * 2**i))
        values = modalities * batch * side * side * arch.channels[i]
        lean = not recompute and i < swin.LEAN_STAGES and values >= swin.LEAN_VALUES
        if recompute or lean:  # a block's input
            kept += depth * values * 4
        if lean:  # what its attention gave
            kept += depth * values * (2 if bf16 else 4)
    return {"weights": (everything + 3 * trained) * 4 / 2**30, "kept": kept / 2**30, "trained": trained / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=ARCHS, default="swin_l")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--modalities", type=int, nargs="+", default=[2])
    parser.add_argument("--classes", type=int, nargs="+", default=[25])
    arguments = parser.parse_args()
    print(
        "| size | batch | modalities | classes | recompute | bf16 | weights, GiB | kept, GiB | sum |\n"
        + "|---" * 9
        + "|"
    )
    for size in arguments.sizes:
        for batch in arguments.batches:
            for modalities in arguments.modalities:
                for classes in arguments.classes:
                    for recompute, bf16 in ((False, False), (False, True), (True, False), (True, True)):
                        found = step(
                            ARCHS[arguments.backbone], size=size, batch=batch, modalities=modalities, classes=classes,
                            recompute=recompute, bf16=bf16,
                        )  # fmt: skip
                        both = found["weights"] + found["kept"]
                        yes = {True: "yes", False: "no"}
                        print(
                            f"| {size} | {batch} | {modalities} | {classes} | {yes[recompute]} | {yes[bf16]} "
                            f"| {found['weights']:.2f} | {found['kept']:.2f} | {both:.1f} |",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
